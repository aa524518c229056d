"""Tokens beside a tokenizer's vocabulary: what is cut out of a text before anything else reads it, and as which id.

A dictionary a token, as tokenizer.json spells it. How they are collected is transformers' way (5.17 to 5.23), how they
get their ids that of `tokenizers`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from actors.spec import ModelError

Token = dict[str, Any]
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = "extra_special_tokens"


def content_of(value: Any) -> str:
    """The text of a token, which a setting gives as a string or spelled out. Raises ModelError for anything else."""
    found = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(found, str):
        raise ModelError(f"{value!r} is not a token")
    return found


def token_of(value: Any, special: bool = False) -> Token:
    """A token with all its flags, as `tokenizers.AddedToken` fills them in; special: of a token that is a string."""
    given = value if isinstance(value, Mapping) else {"special": special}
    is_special = bool(given.get("special", False))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not is_special}
    flags |= {name: bool(given[name]) for name in flags if given.get(name) is not None}
    return {"content": content_of(value), **flags, "special": is_special}


class AddedTokens:
    """Those of one tokenizer, added one after the other. vocabulary: the ids of the model's own tokens."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._by_id: dict[int, Token] = {}
        self._ids: dict[str, int] = {}

    def add(self, tokens: Iterable[Token]) -> None:
        """A token that is known gets the new flags; one that is not in the vocabulary either the next free id."""
        for token in tokens:
            content = token["content"]
            if not content or self._by_id.get(self._ids.get(content, -1)) == token:
                continue
            known = self.id_of(content)
            number = self._next() if known is None else known
            self._ids[content] = number
            self._by_id[number] = token

    def id_of(self, content: str) -> int | None:
        """The id of an added token, or of one in the vocabulary."""
        return self._ids.get(content, self._vocabulary.get(content))

    def __contains__(self, content: str) -> bool:
        return content in self._ids

    def drop_from(self, number: int | None, kept: "AddedTokens") -> None:
        """Forgets the tokens with this id and larger ones, but for those that `kept` has too; None: none of them."""
        for content, own in list(self._ids.items()):
            if number is not None and own >= number and content not in kept:
                del self._ids[content], self._by_id[own]

    def listed(self) -> list[Token]:
        """By id, which is part of each."""
        return [{"id": number, **token} for number, token in sorted(self._by_id.items())]

    def told_apart(self, has_normalizer: bool, splits_specials: bool) -> list[tuple[Any, ...]]:
        """Of each token what changes an id: whether it is looked for in the normalised text matters only where a text
        is normalised, and whether it is special only where special ones are split."""
        ignored = (() if has_normalizer else ("normalized",)) + (() if splits_specials else ("special",))
        return [tuple(value for name, value in token.items() if name not in ignored) for token in self.listed()]

    def _next(self) -> int:
        size, largest = len(self._vocabulary), max(self._ids.values(), default=-1)
        return largest + 1 if self._ids and (largest >= size or size == 0) else size


def to_add(settings: Mapping[str, Any], decoder: Mapping[int, Token], present: AddedTokens) -> list[Token]:
    """What transformers adds to a tokenizer that it loads: the tokens of `decoder` by id, then those that the settings
    name and neither it nor the tokenizer has. present: the tokens of the tokenizer."""
    named, extra = _named(settings, decoder), _extra(settings)
    contents = {content_of(value) for value in named}
    listed = [token for _, token in sorted(decoder.items())]
    known = {token["content"] for token in listed}
    others = [token_of(value, special=True) for value in (*named, *extra)]
    others = [token for token in others if token["content"] not in known and token["content"] not in present]
    return [token | {"special": token["special"] or token["content"] in contents} for token in (*listed, *others)]


def all_special(settings: Mapping[str, Any], decoder: Mapping[int, Token]) -> list[Token]:
    """The named and extra special tokens, each as a plain special token."""
    contents = map(content_of, (*_named(settings, decoder), *_extra(settings)))
    return [token_of(content, special=True) for content in dict.fromkeys(contents)]


def _named(settings: Mapping[str, Any], decoder: Mapping[int, Token]) -> list[Any]:
    """The special tokens that have a name: the seven usual ones in transformers' order, then the model's own."""
    known = {token["content"]: token for token in decoder.values()}
    usual = (settings[name] for name in NAMED if settings.get(name) is not None)
    own = (
        value
        for name, value in settings.items()
        if name.endswith("_token") and name not in NAMED and isinstance(value, (str, Mapping))
    )
    extra = settings.get(EXTRA)
    by_name = extra.values() if isinstance(extra, Mapping) else ()
    return [*(known.get(content_of(value), value) for value in usual), *own, *by_name]


def _extra(settings: Mapping[str, Any]) -> list[Any]:
    """The special tokens without a name."""
    found = settings.get(EXTRA)
    return list(found) if isinstance(found, (list, tuple)) else []
