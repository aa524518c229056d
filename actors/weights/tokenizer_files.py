"""What a folder's files say together of its tokenizer, as transformers' AutoTokenizer and sentence-transformers read
them; without either.

tokenizer.json is not all of it: tokenizer_config.json, special_tokens_map.json, added_tokens.json, the class that the
tokenizer is of (tokenizer_classes.py) and sentence_bert_config.json change how a text is normalised and split, which
tokens it may hold, and which end of it is cut. What they change is put in the place of the file's own section. That
all of it is as transformers has it is proven where transformers is, before a replica works (actors/checks/tokens.py).
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.spec import ModelError
from actors.weights import sentence_config, tokenizer_classes, tokenizer_sections
from actors.weights.added_tokens import EXTRA, NAMED, AddedTokens, Token, all_special, content_of, to_add, token_of
from actors.weights.modules import read_json
from actors.weights.tokenizer_classes import CLASSES

CONFIG, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
# In transformers they count only where there is no tokenizer.json, or come by a way that no released model takes.
ENDS = ("add_bos_token", "add_eos_token")
FORMER_EXTRA = "additional_special_tokens"
SAVE_AGAIN = (
    "Save the tokenizer once more, so that tokenizer.json says all of it: "
    "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder's tokenizer.

    name: of the class that reads it in transformers. changes: sections of tokenizer.json that its other files replace,
    of "model" the fields; empty where it is used as it is. cut_left: of a text that is too long the beginning goes.
    splits_specials: special tokens in a text are read as plain text. added: its added tokens, with their ids. digest:
    sha256 (64 hex digits) of tokenizer.json, or, where anything above changes what it gives, of both.
    """

    path: Path
    name: str
    changes: Mapping[str, Any]
    cut_left: bool
    splits_specials: bool
    added: tuple[Token, ...]
    digest: str

    def definition(self) -> dict[str, Any]:
        """tokenizer.json with the changes made."""
        found: dict[str, Any] = read_json(self.path)
        model = {**found["model"], **self.changes.get("model", {})}
        return {**found, **self.changes, "model": model}

    @property
    def beside(self) -> tuple[str, ...]:
        """What the other files change, in words."""
        odd = {"the beginning of a long text is cut": self.cut_left, "special tokens are split": self.splits_specials}
        return (*sorted(self.changes), *(words for words, is_so in odd.items() if is_so))


def tokenizer_file(folder: Path) -> Path:
    """The folder's tokenizer.json. Raises ModelError when there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelError(
            f"{folder} has no tokenizer.json: take it from the model's repository. It cannot be rebuilt from the "
            "vocabulary, which does not say which special tokens are put around a text"
        )
    return path


def tokenizer_files(folder: Path) -> TokenizerFiles:
    """The tokenizer of the model in `folder`; 0.2 s for 150,000 tokens, once a process while the files stay the same.

    Raises ModelError when a file is missing or damaged, or says what cannot be done.
    """
    tokenizer_file(folder)
    try:
        return _read(folder, files_now(folder))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{folder}: tokenizer.json, or a file beside it, is not what a tokenizer's is ({type(error).__name__}: "
            f"{error}): fetch the model again"
        ) from error


def files_now(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """Name, size, times and inode of the folder's JSON files: equal while nobody has changed one."""
    stats = ((path.name, path.stat()) for path in sorted(folder.glob("*.json")))
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats)


def longest(folder: Path) -> int | None:
    """Most tokens of a text by the tokenizer's own settings; None where they do not say."""
    settings, _ = _settings(folder)
    found = settings.get("model_max_length", settings.get("max_len"))
    return None if found is None else int(found)


@functools.lru_cache(maxsize=16)
def _read(folder: Path, _: tuple[tuple[str, int, int, int, int], ...]) -> TokenizerFiles:
    path = tokenizer_file(folder)
    content, own, config = path.read_bytes(), read_json(path), read_json(folder / "config.json")
    named = _config(folder).get("tokenizer_class") or config.get("tokenizer_class")
    name = tokenizer_classes.class_name(config.get("model_type", ""), named)
    settings, decoder = _settings(folder)
    if decoder is None:
        decoder = _added_tokens_file(folder, settings) | {t["id"]: token_of(t) for t in own["added_tokens"]}
    if name in CLASSES:
        settings = {**CLASSES[name].specials, **settings}
    elif own.get("padding"):
        settings = {"pad_token": own["padding"]["pad_token"], **settings}
    vocabulary = _vocabulary(own)
    as_file, added = AddedTokens(vocabulary), AddedTokens(vocabulary)
    as_file.add(map(token_of, own["added_tokens"]))
    if name not in CLASSES:
        added.add(map(token_of, own["added_tokens"]))
    added.add(to_add(settings, decoder, added))
    if name in CLASSES and CLASSES[name].repeats_specials:
        added.add(all_special(settings, decoder))
    # For a token without a row in the model nothing is right; of the file's own the tokenizer complains by itself.
    added.drop_from(config.get("vocab_size"), kept=as_file)
    changes = tokenizer_sections.rebuilt(path, name, own, settings, added) if name in CLASSES else {}
    lower_case = sentence_config.transformer_config(folder).lower_case
    if lower_case:
        changes |= tokenizer_sections.lower_case(changes.get("normalizer", own.get("normalizer")))
    splits = bool(settings.get("split_special_tokens", False))
    has_normalizer = changes.get("normalizer", own.get("normalizer")) is not None
    if added.told_apart(has_normalizer, splits) != as_file.told_apart(has_normalizer, splits):
        changes["added_tokens"] = added.listed()
    cut_left = _cut_side(path, settings, own) == "left"
    # lower_case counts by itself: tables of before it was a normaliser hold what Python's lower() made of Greek.
    more, digest = [changes, cut_left, splits, lower_case], hashlib.sha256(content).hexdigest()
    if any(more):
        digest = hashlib.sha256(json.dumps([digest, *more], sort_keys=True).encode()).hexdigest()
    return TokenizerFiles(path, name, changes, cut_left, splits, tuple(added.listed()), digest)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return found


def _settings(folder: Path) -> tuple[dict[str, Any], dict[int, Token] | None]:
    """The tokenizer's settings, and the tokens that tokenizer_config.json lists; None where it lists none."""
    said = {name: value for name, value in _config(folder).items() if name not in ENDS}
    for name in ("init_inputs", "fast_tokenizer_files"):
        if said.get(name) and said[name] != ["tokenizer.json"]:
            raise ModelError(f"{folder / CONFIG} has {name}: {said[name]!r}, which is not supported. {SAVE_AGAIN}")
    said |= sentence_config.transformer_config(folder).tokenizer
    if not said.get(EXTRA) and FORMER_EXTRA in said:
        said[EXTRA] = said.pop(FORMER_EXTRA)
    if "added_tokens_decoder" in said:
        return said, {int(number): token_of(token) for number, token in said["added_tokens_decoder"].items()}
    path = folder / SPECIAL_TOKENS  # of older folders; where tokens are listed, transformers does not look at it
    for name, value in (read_json(path) if path.exists() else {}).items():
        if name in ENDS and value is not None:
            raise ModelError(f"{path} has {name}, which is not supported there. {SAVE_AGAIN}")
        if name == EXTRA and isinstance(value, list):
            value = [*(said.get(EXTRA) or ()), *value]
        said[name] = {**value, "special": True} if isinstance(value, dict) and name != EXTRA else value
    if EXTRA not in said and FORMER_EXTRA in said:
        said[EXTRA] = said.pop(FORMER_EXTRA)
    return said, None


def _added_tokens_file(folder: Path, settings: Mapping[str, Any]) -> dict[int, Token]:
    path = folder / ADDED_TOKENS
    if not path.exists():
        return {}
    extra = settings.get(EXTRA) or ()
    special = {content_of(settings[name]) for name in NAMED if settings.get(name)}
    special |= {content_of(token) for token in extra if not isinstance(extra, dict)}
    return {int(number): token_of(content, content in special) for content, number in read_json(path).items()}


def _vocabulary(definition: Mapping[str, Any]) -> dict[str, int]:
    words = definition["model"]["vocab"]
    return words if isinstance(words, dict) else {entry[0]: number for number, entry in enumerate(words)}


def _cut_side(path: Path, settings: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    of_file = (definition.get("truncation") or {}).get("direction", "Right").lower()
    side = settings.get("truncation_side", of_file)
    if side not in ("left", "right"):
        raise ModelError(f"{path.parent / CONFIG} has truncation_side: {side!r}; there are left and right")
    return str(side)
