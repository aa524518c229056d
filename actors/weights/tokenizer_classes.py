"""What transformers' own tokenizer classes make of a tokenizer.json, without transformers.

A class such as BertTokenizer takes from the file the vocabulary alone (version 5.17 to 5.23). How a text is normalised
and split, and what goes around it, it builds anew from its arguments, which are the settings of tokenizer_config.json
and its own defaults. Any other class is TokenizersBackend here, which takes the file as it is; where that is not so,
the comparison with transformers (actors/checks/tokens.py) tells.

Sections are spelled as in tokenizer.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BACKEND = "TokenizersBackend"
# Which class reads the tokenizer of an architecture, unless a file names another. modernbert's is never another.
REGISTERED = {
    "bert": "BertTokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
# Names under which transformers has the same classes.
OTHER_NAMES = {
    **dict.fromkeys(("BartTokenizer", "LEDTokenizer", "LongformerTokenizer", "MvpTokenizer"), "RobertaTokenizer"),
    **dict.fromkeys(("ElectraTokenizer", "LayoutLMTokenizer", "LxmertTokenizer"), "BertTokenizer"),
    **dict.fromkeys(("DistilBertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"), "BertTokenizer"),
}
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OF_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}

Settings = Mapping[str, Any]
Section = dict[str, Any] | None


@dataclass(frozen=True)
class TokenizerClass:
    """How a class builds its tokenizer.

    model: the type of model it makes of the vocabulary; parameters: the other fields of that model. specials: its
    default special tokens. around: the names of the special tokens before and behind a text; None = as the file has it.
    post_processor: makes the section of these two, each a (token, id) pair.
    """

    model: str
    specials: Mapping[str, str | None]
    parameters: Callable[[Settings], dict[str, Any]]
    normalizer: Callable[[Settings, Section], Section]
    pre_tokenizer: Callable[[Settings], Section]
    around: tuple[str, str] | None = None
    repeats_specials: bool = False  # adds all special tokens once more, as plain ones


def class_name(architecture: str, named: str | None) -> str:
    """Which class transformers' AutoTokenizer takes; a class that is not in CLASSES is called BACKEND.

    named: `tokenizer_class` of tokenizer_config.json or else of config.json.
    """
    registered = REGISTERED.get(architecture)
    if registered is None:
        return BACKEND
    name = (named or registered).removesuffix("Fast")
    name = OTHER_NAMES.get(name, name)
    return name if name in CLASSES else BACKEND


def post_processor(name: str, before: tuple[str, int], behind: tuple[str, int], settings: Settings) -> dict[str, Any]:
    """The section of a class with `around`, of the (token, id) before and behind a text."""
    if name == "RobertaTokenizer":
        space = settings.get("add_prefix_space", False)
        own = {"trim_offsets": settings.get("trim_offsets", True), "add_prefix_space": space}
        return {"type": "RobertaProcessing", "sep": list(behind), "cls": list(before), **own}
    pieces = [
        {"SpecialToken": {"id": before[0], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": behind[0], "type_id": 0}},
    ]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": behind[0], "type_id": 1}}]
    tokens = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in (before, behind)}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + second, "special_tokens": tokens}


def _bert_normalizer(settings: Settings, _: Section) -> Section:
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }


def _bert_words(settings: Settings) -> dict[str, Any]:
    return {
        "unk_token": settings["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }


def _bytes_alone(_: Settings) -> dict[str, Any]:
    names = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    return {**dict.fromkeys(names), **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)}


def _byte_level(add_prefix_space: Any, use_regex: bool = True) -> dict[str, Any]:
    own = {"add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel", **own}


def _sentencepiece_charmap(_: Settings, normalizer: Section) -> Section:
    """Of the file's normaliser only the map of characters is taken over."""
    if normalizer is None:
        return None
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    return next((step for step in steps if step.get("type") == "Precompiled"), None)


def _sentencepiece_words(settings: Settings) -> Section:
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    return {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}


def _qwen_words(settings: Settings) -> Section:
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    space = settings.get("add_prefix_space")
    words = _byte_level(False if space is None else space, use_regex=False)
    return {"type": "Sequence", "pretokenizers": [split, words]}


CLASSES = {
    "BertTokenizer": TokenizerClass(
        model="WordPiece",
        specials={
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        parameters=_bert_words,
        normalizer=_bert_normalizer,
        pre_tokenizer=lambda _: {"type": "BertPreTokenizer"},
        around=("cls_token", "sep_token"),
    ),
    "RobertaTokenizer": TokenizerClass(
        model="BPE",
        specials=OF_ROBERTA,
        parameters=_bytes_alone,
        normalizer=lambda _, __: None,
        pre_tokenizer=lambda settings: _byte_level(settings.get("add_prefix_space", False)),
        around=("cls_token", "sep_token"),
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        model="Unigram",
        specials=OF_ROBERTA,
        parameters=lambda _: {"unk_id": 3, "byte_fallback": False},
        normalizer=_sentencepiece_charmap,
        pre_tokenizer=_sentencepiece_words,
        around=("bos_token", "eos_token"),
    ),
    "Qwen2Tokenizer": TokenizerClass(
        model="BPE",
        specials={"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        parameters=_bytes_alone,
        normalizer=lambda _, __: {"type": "NFC"},
        pre_tokenizer=_qwen_words,
        repeats_specials=True,
    ),
}
