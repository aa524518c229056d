"""From texts to token ids, on CPUs; ids, not text, go to the replica. Imports neither torch nor transformers.

The folder's tokenizer is what its files say together (actors/weights/tokenizer_files.py), but cutting and the special
tokens around a text are ours: `tokenizers` cuts silently, and truncation has to be counted. Qwen3-Embedding pools its
closing <|endoftext|>; exports that lost it embed without an error and find nothing, so its presence is proven when the
tokenizer is loaded.

Cost: 0.5-1 million tokens/s and core, 10 million with fastokens (actors/tokenizer/batch.py). A text far longer than
max_tokens is read only as far as it is used, but for a tokenizer that keeps the end of it.

Legend: N texts, T tokens in all, P and S tokens of prefix and suffix.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actors import fake, packed
from actors.spec import ModelError, ModelSpec
from actors.tokenizer import cutting
from actors.tokenizer.batch import BatchTokenizer
from actors.tokenizer.cutting import Content
from actors.tokenizer.qwen_ids import END_OF_TEXT, TOKEN_IDS
from actors.weights.recipe import resolve
from actors.weights.tokenizer_files import TokenizerFiles, tokenizer_files

TEXTS_PER_CALL = 2048
INSTRUCTED_PROMPT = re.compile(r"Instruct: .*?(?=\nQuery:)", re.DOTALL)
TAKE_CURRENT = "Take the current tokenizer.json of the model's repository"
NOTHING_ADDED = f"It adds nothing to a text, as the tokenizer of a reranker does: for embedding, {TAKE_CURRENT.lower()}"


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts: text i is ids[offsets[i]:offsets[i + 1]]; truncated says which lost tokens."""

    ids: np.ndarray  # int32 [T]
    offsets: np.ndarray  # int64 [N+1]
    truncated: np.ndarray  # bool [N]


class Words(Protocol):
    """What turns plain text into ids: a tokenizer.json, or the fake's hash."""

    prefix: np.ndarray  # int32 [P]
    suffix: np.ndarray  # int32 [S]
    unknown_id: int | None  # of the token for what the vocabulary lacks
    cut_left: bool  # of a text that is too long the beginning goes

    def content(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]: ...

    def offsets(self, text: str) -> np.ndarray: ...


class TextTokenizer:
    """Tokenises documents and queries as the model's recipe says.

    It needs no weights: of a remote model it fetches the small files only.
    Raises ModelError when tokenizer.json is missing, does not fit the model, or leaves no room for a text.
    """

    def __init__(self, spec: ModelSpec) -> None:
        resolved = resolve(spec, with_weights=False)
        check_tokenizer_digest(spec, resolved.folder)
        self.max_tokens = resolved.max_tokens
        self._document_prompt = resolved.document_prompt
        self._query_prompt = resolved.query_prompt
        self._words: Words = fake.HashedWords() if resolved.folder is None else TokenizerFile(resolved.folder)
        if isinstance(self._words, TokenizerFile):
            self._words.check(resolved.recipe.architecture, resolved.recipe.vocabulary)
        self.special_tokens = len(self._words.prefix) + len(self._words.suffix)
        self._check_room(self._document_prompt)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of documents: prompt in front, special tokens around, cut to max_tokens with the suffix kept."""
        return self._encode(texts, self._document_prompt, self.max_tokens)

    def encode_bare(self, texts: Sequence[str], max_tokens: int) -> Encoded:
        """Ids without any prompt, cut to so many tokens: what can be compared with other tokenizers."""
        return self._encode(texts, "", max_tokens)

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Encoded:
        """Ids of queries. `instruction` says what to look for, in place of the recipe's own; "" = no prompt at all.

        For Qwen3-Embedding a query is f"Instruct: {instruction}\\nQuery:{query}", without a space after "Query:".
        Raises ModelError when the model takes no instruction.
        """
        prompt = self._query_prompt
        if instruction == "":
            prompt = ""
        elif instruction is not None:
            if not self.takes_instruction:
                raise ModelError(
                    "this model takes no instruction: its query prompt has no place for one. A text of your own before "
                    "each query is the query_prompt (in a job: model.query_prompt)"
                )
            prompt = INSTRUCTED_PROMPT.sub(lambda _: f"Instruct: {instruction}", prompt, count=1)
        self._check_room(prompt)
        return self._encode(texts, prompt, self.max_tokens)

    @property
    def takes_instruction(self) -> bool:
        """Whether the query prompt has a place for an instruction."""
        return INSTRUCTED_PROMPT.match(self._query_prompt) is not None

    def unknown(self, encoded: Encoded) -> np.ndarray:
        """How many tokens of each sequence stand for what the vocabulary lacks, int32 [N]."""
        unknown_id = self._words.unknown_id
        if unknown_id is None:
            return np.zeros(len(encoded.truncated), dtype=np.int32)
        before = packed.offsets_of((encoded.ids == unknown_id).astype(np.int64))
        return np.diff(before[encoded.offsets]).astype(np.int32)

    def token_offsets(self, text: str) -> np.ndarray:
        """Where the text's own tokens stand, in characters from start to end, int32 [n, 2].

        Without special tokens and prompt, and not cut. Tokens of one character (bytes of an emoji) share its offsets.
        """
        return self._words.offsets(text)

    def definition(self) -> dict[str, Any]:
        """What is used of the folder's tokenizer, spelled as in tokenizer.json; {} of the fake's."""
        return self._words.definition() if isinstance(self._words, TokenizerFile) else {}

    def _encode(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Encoded:
        room = max_tokens - self.special_tokens
        starts = range(0, len(texts), TEXTS_PER_CALL)
        parts = [self._cut(texts[at : at + TEXTS_PER_CALL], prompt, room) for at in starts]
        none = np.zeros(0, dtype=np.int64)
        lengths_N = np.concatenate([none, *(lengths for _, lengths, _ in parts)])
        return Encoded(
            ids=np.concatenate([none.astype(np.int32), *(ids for ids, _, _ in parts)]),
            offsets=packed.offsets_of(lengths_N),
            truncated=np.concatenate([none.astype(np.bool_), *(cut for _, _, cut in parts)]),
        )

    def _cut(self, texts: Sequence[str], prompt: str, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int32 [T], lengths int64 [N] and truncated bool [N] of a few texts."""
        whole = [prompt + text for text in texts] if prompt else list(texts)
        words = self._words
        if words.cut_left:  # what a tail begins with may belong to a word before it: all of the text is read
            content_T, content_N = words.content(whole)
        else:
            content_T, content_N = cutting.content_of_heads(words.content, whole, room)
        kept_N = np.minimum(content_N, room)
        ids_T, lengths_N = cutting.around(content_T, content_N, kept_N, words.prefix, words.suffix, words.cut_left)
        return ids_T, lengths_N, content_N > room

    def _check_room(self, prompt: str) -> None:
        taken = self.special_tokens + (len(self._words.content([prompt])[0]) if prompt else 0)
        if taken >= self.max_tokens:
            raise ModelError(
                f"max_tokens is {self.max_tokens}, but special tokens and prompt alone take {taken}: nothing of a text "
                "would be embedded. Raise max_tokens or shorten the prompt"
            )


class TokenizerFile:
    """A folder's tokenizer with its special tokens known: what stands in front of a text, and behind it."""

    def __init__(self, folder: Path) -> None:
        files = tokenizer_files(folder)
        self._path, self.cut_left = files.path, files.cut_left
        self._tokenizer = _loaded(files)
        self.content: Content = BatchTokenizer(self._tokenizer).content
        said = getattr(self._tokenizer.model, "unk_token", None)  # byte-level BPE has none
        self.unknown_id: int | None = self._tokenizer.token_to_id(said) if said is not None else None
        bare = self._tokenizer.encode("test", add_special_tokens=False).ids
        dressed = self._tokenizer.encode("test", add_special_tokens=True).ids
        at = next((i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare), None)
        if not bare or at is None:
            raise ModelError(f'{self._path} does not tokenise the word "test": it is damaged, fetch it again')
        self._test = dressed
        self.prefix = np.array(dressed[:at], dtype=np.int32)
        self.suffix = np.array(dressed[at + len(bare) :], dtype=np.int32)

    def check(self, architecture: str, vocabulary: int) -> None:
        """Raises ModelError when the tokenizer cannot belong to a model of this architecture and vocabulary."""
        check_vocabulary(self._tokenizer.get_vocab(with_added_tokens=True), vocabulary, self._path)
        if architecture == "qwen3":
            self._check_closing_token()

    def _check_closing_token(self) -> None:
        """For Qwen3. Of any other vocabulary than Qwen's own, the closing token is all that is known."""
        end, published = self._tokenizer.token_to_id("<|endoftext|>"), list(TOKEN_IDS["test"])
        if end is None or self.suffix.tolist() != [end]:
            adds = [*self.prefix.tolist(), *self.suffix.tolist()]
            raise ModelError(
                f'{self._path} does not close a text with <|endoftext|>: "test" gives {self._test}'
                f"{f', and must give {published}' if end == END_OF_TEXT else ''}. Qwen3-Embedding's vector is the "
                f"state of that token, so without it the vectors are wrong. {TAKE_CURRENT if adds else NOTHING_ADDED}"
            )
        if end == END_OF_TEXT and self._test != published:
            raise ModelError(
                f'{self._path} gives {self._test} for "test", but Qwen3\'s tokenizer gives {published}: the model '
                f"would read other words than were written. {TAKE_CURRENT}"
            )

    def definition(self) -> dict[str, Any]:
        """As in tokenizer.json."""
        found: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return found

    def offsets(self, text: str) -> np.ndarray:
        """Character offsets of the tokens, int32 [n, 2]."""
        pairs = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _loaded(files: TokenizerFiles) -> Any:
    """The `tokenizers.Tokenizer` of these files."""
    from tokenizers import Tokenizer

    unchanged = not files.changes
    found = Tokenizer.from_file(str(files.path)) if unchanged else Tokenizer.from_str(json.dumps(files.definition()))
    found.encode_special_tokens = files.splits_specials
    return found


def check_vocabulary(ids: Mapping[str, int], vocabulary: int, path: Path) -> None:
    """Raises ModelError when a token of a tokenizer (of this file) has an id beyond a model's vocabulary."""
    token, largest = max(ids.items(), key=itemgetter(1))
    if largest >= vocabulary:
        raise ModelError(
            f"{path} has token ids up to {largest}, but the model's vocabulary ends at {vocabulary - 1}: the "
            f"tokenizer belongs to another model, or {token!r} was added to it that the model never learnt"
        )


def check_tokenizer_digest(spec: ModelSpec, folder: Path | None) -> None:
    """Raises ModelError when the folder's tokenizer (None: the fake's) is not the one that the spec expects."""
    # Texts are tokenised on other machines than the weights run on: one stale copy there would go unseen.
    if spec.tokenizer_digest is None:
        return
    found = fake.DIGEST if folder is None else tokenizer_files(folder).digest
    if found != spec.tokenizer_digest:
        raise ModelError(
            f"the tokenizer of {spec.weights!r} on this machine (tokenizer.json with what the files beside it change, "
            f"in {folder}) has digest {found[:16]}..., but {spec.tokenizer_digest[:16]}... was expected: it is "
            "another version. Put the right one there"
        )
