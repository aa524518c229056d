"""The proof that texts get the token ids that transformers gives them, as sentence-transformers uses it.

Texts are tokenised without transformers (actors/tokenizer/), by rules of our own for what the files of a folder say
together. A rule that is wrong, a setting without one, or another version of transformers would give vectors that look
right and find nothing. So whoever loads the model, and has transformers, compares the two on texts of all kinds, once
a process, and does not work when one id differs.

Cost, on one idle core: 0.15 s for a vocabulary of 30,000 tokens, 0.8 s and 250 MB for a while for Qwen3's 151,669.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.network.quiet import quiet_transformers
from actors.spec import ModelError
from actors.tokenizer.batch import PROBE
from actors.tokenizer.text import Encoded, TextTokenizer
from actors.weights import sentence_config
from actors.weights.modules import read_json
from actors.weights.recipe import QWEN_MAX_TOKENS, Resolved
from actors.weights.tokenizer_files import CONFIG, SAVE_AGAIN, files_now, tokenizer_files
from actors.weights.tokenizer_sections import KEEP_THE_FILE

# What else tokenizers differ in: ends and doubled spaces, case and accents, numbers, and words longer than any piece.
TEXTS = (
    *(" leading", "  two leading", "trailing ", "a  b   c", "\nline", "tab\there", "non\u00a0breaking", "x\u200by"),
    *(
        "MiXeD CaSe",
        "ÀÉÎÕÜ àéîõü ÅŁØÆ ßẞ",
        "ΑΣ ΆΣ ας",
        "IİıiI",
        "ǅ ǆ ﬀ Ⅻ ⅻ",
        "e\u0301 E\u0301 n\u0303",
        "a\u0000b\u0001c",
    ),
    *(
        "1234567890",
        "3.14159 1,000,000 007",
        "don't I'm we'll",
        "a.b,c;d:e",
        "http://example.org/a?b=c&d#e",
        "🙂👍🏽🇩🇪",
    ),
    *("今天天气不错", "東京abcタワー한국어", "สวัสดีชาวโลก", "नमस्ते दुनिया", "مرحبا بالعالم", "שלום עולם", "Привет, МИР"),
    *("pneumonoultramicroscopicsilicovolcanoconiosis" * 4, "word " * 300, "词" * 300, "a b c " * 100, "é" * 200),
)
LETTERS = ((0x0, 0x3400), (0xA000, 0xAC80), (0xD700, 0xD800), (0xF900, 0x10000), (0x1D400, 0x1D500), (0x1F300, 0x1F700))
LETTERS_OF_A_TEXT = 32
MOST_ADDED = 4096  # of the added tokens that are tried out
ROOM = 8  # tokens of a text that are kept where cutting is compared
WITH_TOKEN_TYPES = ("bert", "roberta", "xlm-roberta")

_PROVEN: dict[tuple[Path, Any], "Proof"] = {}


@dataclass(frozen=True)
class Proof:
    """texts: how many had the same ids. name: transformers' class. beside: what counts besides tokenizer.json."""

    texts: int
    name: str
    beside: tuple[str, ...]

    def __str__(self) -> str:
        changed = f"; beside tokenizer.json count: {', '.join(self.beside)}" if self.beside else ""
        return f"those of transformers' {self.name}, of {self.texts:,} texts{changed}"


def transformers_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer as transformers' AutoTokenizer has it, with what sentence-transformers does to it.

    Raises ModelError when transformers cannot read it.
    """
    from tokenizers import normalizers
    from transformers import AutoTokenizer

    config = sentence_config.transformer_config(folder)
    own = {} if config.length is None else {"model_max_length": config.length}
    try:
        with quiet_transformers():
            found = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **{**own, **config.tokenizer}
            )
    except Exception as error:  # whatever a class makes of settings that it does not expect
        raise _unusable(folder, error) from error
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"transformers reads the tokenizer in {folder} as {type(found).__name__}, which does not use "
            f"tokenizer.json. {KEEP_THE_FILE}"
        )
    if config.lower_case:
        steps = backend.normalizer
        several: Any = [] if steps is None else steps if isinstance(steps, normalizers.Sequence) else [steps]
        if not any(isinstance(step, normalizers.Lowercase) for step in several):
            backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *several])
    return found


def ask(theirs: Any, folder: Path, texts: Sequence[str], **how: Any) -> Any:
    """What transformers' tokenizer of the folder says of texts. Raises ModelError when it cannot."""
    try:
        with quiet_transformers():
            return theirs(list(texts), **how)
    except Exception as error:  # such as a word that is unknown, and no token for it
        raise _unusable(folder, error) from error


def check_texts(tokenizer: TextTokenizer, resolved: Resolved) -> Proof:
    """Raises ModelError when the folder's texts would get other ids, token types or another length than there."""
    assert resolved.folder is not None
    key = (resolved.folder, files_now(resolved.folder))
    if key not in _PROVEN:
        _PROVEN[key] = _prove(tokenizer, resolved, resolved.folder)
    return _PROVEN[key]


def probes(theirs: Any) -> list[str]:
    """Texts to compare on: of many scripts and none, all letters in use, and every added token of transformers'."""
    blocks = [range(at, min(at + LETTERS_OF_A_TEXT, end)) for start, end in LETTERS for at in range(start, end, 32)]
    letters = [[chr(code) for code in block] for block in blocks]
    added = list(theirs.get_added_vocab())[:MOST_ADDED]
    tried = [text for token in added for text in (f"a{token}b {token} {token}\nx", token.lower(), f" {token}")]
    return [*PROBE, *TEXTS, *map("".join, letters), *map(" x".join, letters), *tried]


def refusal(folder: Path, text: str, ours: Sequence[int], theirs: Sequence[int], differ: Iterable[str]) -> ModelError:
    """That a text has other ids. differ: sections of the two tokenizers, as tokenizer.json names them."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    start = max(0, at - 2)
    shown = [f"{list(ids[start : at + 4])}" for ids in (ours, theirs)]
    return ModelError(
        f"the tokenizer in {folder} gives other ids than transformers, and so sentence-transformers, does: "
        f"{text[:60]!r} has {shown[0]} here and {shown[1]} there, from token {start} on. What differs: "
        f"{', '.join(differ)}; by {_asked(folder)} transformers takes it for another than tokenizer.json has. That is "
        f"not understood here, so nothing is done with the model. {KEEP_THE_FILE}; if transformers is right: "
        f"{SAVE_AGAIN[0].lower()}{SAVE_AGAIN[1:]}"
    )


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Sections of two definitions, as in tokenizer.json, that are not the same; "vocabulary" for the model's words."""
    sections = ("normalizer", "pre_tokenizer", "post_processor", "added_tokens")
    words = ("vocab", "merges")
    left, right = (
        {
            **{name: of.get(name) for name in sections},
            "model": {name: value for name, value in of["model"].items() if name not in words},
            "vocabulary": [of["model"].get(name) for name in words],
        }
        for of in (ours, theirs)
    )
    return [name for name in left if left[name] != right[name]]


def rows(encoded: Encoded) -> list[list[int]]:
    """The ids of each text."""
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def _asked(folder: Path) -> str:
    """The class that the files ask for, or where other settings are."""
    for name in (CONFIG, "config.json"):
        asked = read_json(folder / name).get("tokenizer_class") if (folder / name).exists() else None
        if asked:
            return f"tokenizer_class: {asked} in {name}"
    return f"a setting of {CONFIG} or a file beside it"


def _unusable(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"transformers cannot use the tokenizer in {folder}, so nothing tells that its ids are right: "
        f"{type(error).__name__}: {error}. {KEEP_THE_FILE}; or take its files from the model's repository"
    )


def _prove(tokenizer: TextTokenizer, resolved: Resolved, folder: Path) -> Proof:
    theirs, recipe = transformers_tokenizer(folder), resolved.recipe
    _check_length(theirs, resolved, folder)
    texts = probes(theirs)
    cut_to = tokenizer.special_tokens + ROOM
    whole = ask(theirs, folder, texts, return_token_type_ids=recipe.architecture in WITH_TOKEN_TYPES)
    cut = ask(theirs, folder, TEXTS, truncation=True, max_length=cut_to)
    longest = max(map(len, whole["input_ids"]))
    for several, given, length in ((texts, whole, longest + 1), (TEXTS, cut, cut_to)):
        ours = rows(tokenizer.encode_bare(several, length))
        for text, mine, other in zip(several, ours, given["input_ids"], strict=True):
            if mine != other and max(other, default=0) < recipe.vocabulary:  # of no more tokens the model has a row
                definition = json.loads(theirs.backend_tokenizer.to_str())
                sections = differing(tokenizer.definition(), definition)
                differ = sections if given is whole else ["which end of a long text is cut"]
                raise refusal(folder, text, mine, other, differ)
    if any(map(any, whole.get("token_type_ids", ()))):
        raise ModelError(
            f"{folder}/tokenizer.json (post_processor) gives a text token types other than 0, which is not supported: "
            "the vectors would be other than sentence-transformers'. Set type_id to 0 there if the model was trained so"
        )
    files = tokenizer_files(folder)
    return Proof(len(texts), type(theirs).__name__, files.beside)


def _check_length(theirs: Any, resolved: Resolved, folder: Path) -> None:
    """How long a text may be, as sentence-transformers would have it."""
    recipe, config = resolved.recipe, sentence_config.transformer_config(folder)
    positions = int(read_json(folder / "config.json")["max_position_embeddings"])
    length = config.length if config.length is not None else min(theirs.model_max_length, positions)
    if config.length is None and recipe.architecture == "qwen3":
        length = min(length, QWEN_MAX_TOKENS)
    if recipe.max_tokens != min(length, recipe.max_positions):
        raise ModelError(
            f"the model in {folder} takes {min(length, recipe.max_positions)} tokens of a text in transformers, and "
            f"{recipe.max_tokens} here: its files say so in a way that is not understood here. Set model_max_length in "
            f"{CONFIG}"
        )
