"""Sections of a tokenizer.json: which of them one of transformers' classes replaces, and whether two mean the same.

Two spellings of the same are no change: a table's fingerprint names the tokenizer by what it does.
"""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from actors.spec import ModelError
from actors.weights.added_tokens import AddedTokens, content_of
from actors.weights.tokenizer_classes import CLASSES, Section, post_processor

KEEP_THE_FILE = (
    'If tokenizer.json is right as it is, put "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json'
)


def rebuilt(
    path: Path, name: str, own: Mapping[str, Any], settings: Mapping[str, Any], added: AddedTokens
) -> dict[str, Any]:
    """The sections that the class `name` makes otherwise than the file at `path`, which holds `own`, has them; of
    "model" its fields.

    Raises ModelError when the class cannot be made of this file and these settings.
    """
    of = CLASSES[name]
    if (kind := model_type(own["model"])) != of.model:
        raise ModelError(
            f"{path} holds a {kind} tokenizer, but transformers reads it as {name}, which is {of.model}: the ids would "
            f"mean other words. {KEEP_THE_FILE}; else take the tokenizer_class that belongs to it"
        )
    if missing := [token for token in of.around or () if settings.get(token) is None]:
        raise ModelError(f"{path.parent}: its tokenizer, a {name}, has no {' and no '.join(missing)}. {KEEP_THE_FILE}")
    changes: dict[str, Any] = {}
    for section, new in (
        ("normalizer", of.normalizer(settings, own.get("normalizer"))),
        ("pre_tokenizer", of.pre_tokenizer(settings)),
    ):
        if canonical(path, section, new) != canonical(path, section, own.get(section)):
            changes[section] = new
    fields = of.parameters({**settings, "unk_token": _unknown(path, name, own, settings)})
    if {key: own["model"].get(key) or None for key in fields} != {key: value or None for key, value in fields.items()}:
        changes["model"] = fields
    if of.around is not None:
        before, behind = (_numbered(path, name, added, content_of(settings[token])) for token in of.around)
        if ends(own.get("post_processor")) != ([before[1]], [behind[1]]):
            changes["post_processor"] = post_processor(name, before, behind, settings)
    return changes


def model_type(model: Mapping[str, Any]) -> str:
    """The type of a model; files of old do not say it."""
    if "type" in model:
        return str(model["type"])
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def canonical(path: Path, section: str, value: Section) -> Any:
    """A section as `tokenizers` spells it, without what changes no id. Raises ModelError when it is none."""
    from tokenizers import Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    others = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    whole: dict[str, Any] = {"version": "1.0", "added_tokens": [], **others, section: value, "model": empty}
    try:
        found = json.loads(Tokenizer.from_str(json.dumps(whole)).to_str())[section]
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise ModelError(f"{path.parent}: the tokenizer's {section} cannot be {value!r:.200}: {error}") from error
    return _without_offsets(found)


def ends(section: Section) -> tuple[list[int], list[int]]:
    """The ids that a post-processor puts before and behind a text."""
    before: list[int] = []
    behind: list[int] = []
    for step in [] if section is None else section.get("processors", [section]):
        if step["type"] in ("BertProcessing", "RobertaProcessing"):
            before, behind = [step["cls"][1], *before], [*behind, step["sep"][1]]
        elif step["type"] == "TemplateProcessing":
            names = [piece["SpecialToken"]["id"] if "SpecialToken" in piece else None for piece in step["single"]]
            at = names.index(None)
            ids = [[] if name is None else step["special_tokens"][name]["ids"] for name in names]
            before, behind = [*chain(*ids[:at]), *before], [*behind, *chain(*ids[at:])]
    return before, behind


def lower_case(section: Section) -> dict[str, Any]:
    """The normalizer with Lowercase first, as sentence-transformers puts it; nothing where there is one."""
    if section is None:
        return {"normalizer": {"type": "Lowercase"}}
    steps = section["normalizers"] if section["type"] == "Sequence" else [section]
    if any(step["type"] == "Lowercase" for step in steps):
        return {}
    return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}}


def _unknown(path: Path, name: str, own: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """What stands for a word that is not known; of byte-level models none is needed."""
    if CLASSES[name].model != "WordPiece":
        return None
    word = None if settings.get("unk_token") is None else content_of(settings["unk_token"])
    if word not in own["model"]["vocab"]:
        raise ModelError(
            f"{path.parent}: the tokenizer, a {name}, has unk_token: {word!r}, which {path.name} has not in its "
            f"vocabulary: a text with an unknown word would end in an error. {KEEP_THE_FILE}"
        )
    return word


def _numbered(path: Path, name: str, added: AddedTokens, token: str) -> tuple[str, int]:
    """The token and its id."""
    number = added.id_of(token)
    if number is None:
        raise ModelError(
            f"{path.parent}: its tokenizer, a {name}, puts {token!r} around a text, which the model has no row for. "
            f"{KEEP_THE_FILE}"
        )
    return token, number


def _without_offsets(section: Any) -> Any:
    """trim_offsets says where a token stands, not which it is."""
    if isinstance(section, dict):
        return {key: _without_offsets(value) for key, value in section.items() if key != "trim_offsets"}
    return [_without_offsets(step) for step in section] if isinstance(section, list) else section
