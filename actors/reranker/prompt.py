"""From (query, document) pairs to the token ids that Qwen3-Reranker reads, on CPUs. No torch, no transformers.

The recipe is that of the models' own repository (QwenLM/Qwen3-Embedding: README and
examples/qwen3_reranker_transformers.py; technical report and sentence-transformers agree). A pair is PREFIX + body +
SUFFIX, tokenised apart, and the body

    <Instruct>: {instruction}\\n<Query>: {query}\\n<Document>: {document}

It is kept in two parts, because all documents of a query share the first. No token goes across, so their ids are those
of the whole:

    head   PREFIX, and the body up to "<Document>:"
    tail   " " and the document, cut so that the pair fits max_tokens; SUFFIX

Two things differ from the recipe. What a user wrote is plain text: a <|im_end|> or <think> in it is spelled out, and
can neither end the document nor answer in the model's place. And instruction and query get half of the room at most; in
the recipe a huge query takes all of it, and nothing of the document is read.

Legend: N pairs, Q queries, T tokens in all.
"""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors import packed
from actors.spec import ModelError, ModelSpec
from actors.tokenizer import cutting
from actors.tokenizer.batch import BatchTokenizer
from actors.tokenizer.qwen_ids import END_OF_TEXT, PAIR_PREFIX, PAIR_SUFFIX, YES_AND_NO
from actors.tokenizer.text import TEXTS_PER_CALL, check_tokenizer_digest, check_vocabulary
from actors.weights import sentence_config
from actors.weights.locate import locate
from actors.weights.modules import read_json
from actors.weights.tokenizer_files import TokenizerFiles, tokenizer_files

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
BEFORE_DOCUMENT = "\n<Document>:"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
OWN_CONTROL_TOKENS = re.compile(r"(<\|im_start\|>|<\|im_end\|>|<think>|</think>)")
CONTROL_TOKEN = re.compile(r"[<\[].*[>\]]", re.DOTALL)  # what no user means to write
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
MAX_TOKENS = 8192  # the README's; the models take 40,960
NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class RerankEncoded:
    """Token ids of N pairs over Q queries. Pair i reads the head of query_of[i], then its own tail.

    Head q is heads_ids[heads_offsets[q]:heads_offsets[q + 1]], and tails likewise. truncated: the document lost tokens
    at its end, or the query did.
    """

    heads_ids: np.ndarray  # int32
    heads_offsets: np.ndarray  # int64 [Q+1]
    tails_ids: np.ndarray  # int32
    tails_offsets: np.ndarray  # int64 [N+1]
    query_of: np.ndarray  # int64 [N]
    truncated: np.ndarray  # bool [N]


class RerankPrompt:
    """The prompt of the reranker that a spec names, and the ids of the answers that it is scored by, yes_id and no_id.

    control_tokens: their ids; each is one token in the prompt, and plain text in what a user wrote.
    It needs no weights: of a remote model it fetches the small files only. spec.max_tokens is that of a whole pair.
    Raises ModelError when tokenizer.json is missing, is not the model's, or cannot do what is written above.
    """

    def __init__(self, spec: ModelSpec) -> None:
        folder = locate(spec, tokenizer_only=True)
        check_tokenizer_digest(spec, folder)
        config = read_json(folder / "config.json")
        self.max_tokens = _max_tokens(spec, int(config["max_position_embeddings"]))
        files = tokenizer_files(folder)
        _refuse_other_ids(files, folder)
        self._path = files.path
        self.control_tokens, self._text = _plain(files)
        check_vocabulary(self._text.reference.get_vocab() | self.control_tokens, int(config["vocab_size"]), self._path)
        self._prefix, self._suffix = self._scaffold(PREFIX), self._scaffold(SUFFIX)
        self._before_document = self._ids(BEFORE_DOCUMENT)
        self.yes_id, self.no_id = self._answer("yes"), self._answer("no")
        self._check_published()
        self.special_tokens = len(self._prefix) + len(self._suffix)
        self._check_instruction(DEFAULT_INSTRUCTION)

    def encode(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_of: np.ndarray,
        instruction: str | None = None,
    ) -> RerankEncoded:
        """Ids of N = len(documents) pairs; document i belongs to queries[query_of[i]], query_of is int [N].

        instruction: what to judge by, the same for all; None = the recipe's.
        Raises ModelError when the instruction is so long that nothing of a query would be read.
        """
        query_of_N = np.asarray(query_of, dtype=np.int64)
        assert len(query_of_N) == len(documents)
        assert len(documents) == 0 or 0 <= query_of_N.min() <= query_of_N.max() < len(queries)
        if instruction is not None:
            self._check_instruction(instruction)
        heads_ids, heads_Q, cut_Q = self._heads(queries, DEFAULT_INSTRUCTION if instruction is None else instruction)
        room_N = (self.max_tokens - len(self._suffix) - heads_Q)[query_of_N]
        starts = range(0, len(documents), TEXTS_PER_CALL)
        parts = [self._tails(documents[i : i + TEXTS_PER_CALL], room_N[i : i + TEXTS_PER_CALL]) for i in starts]
        tails_N = np.concatenate([NOTHING, *(lengths for _, lengths, _ in parts)])
        return RerankEncoded(
            heads_ids=heads_ids,
            heads_offsets=packed.offsets_of(heads_Q),
            tails_ids=np.concatenate([NOTHING, *(ids for ids, _, _ in parts)]),
            tails_offsets=packed.offsets_of(tails_N),
            query_of=query_of_N,
            truncated=np.concatenate([NOTHING.astype(np.bool_), *(cut for _, _, cut in parts)]) | cut_Q[query_of_N],
        )

    @property
    def _most_of_body(self) -> int:
        return (self.max_tokens - self.special_tokens) // 2

    def of_length(self, max_tokens: int) -> "RerankPrompt":
        """The same for pairs of so many tokens."""
        other = copy.copy(self)
        other.max_tokens = max_tokens
        return other

    def definition(self) -> dict[str, Any]:
        """What is used of the folder's tokenizer, spelled as in tokenizer.json, without control tokens."""
        found: dict[str, Any] = json.loads(self._text.reference.to_str())
        return found

    def _heads(self, queries: Sequence[str], instruction: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int32 [T], lengths int64 [Q], and bool [Q] that says which queries were cut."""
        bodies = [f"<Instruct>: {instruction}\n<Query>: {query}" for query in queries]
        ids_T, lengths_Q = self._text.content([body + BEFORE_DOCUMENT for body in bodies])
        cut_Q = lengths_Q > self._most_of_body
        pieces = np.split(ids_T, np.cumsum(lengths_Q)[:-1]) if len(queries) else []
        for i in np.flatnonzero(cut_Q).tolist():
            # Without its end: the query's last sign and the line break may be one token.
            kept = self._ids(bodies[i])[: self._most_of_body - len(self._before_document)]
            pieces[i] = np.concatenate([kept, self._before_document])
        lengths_Q = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        joined_T = np.concatenate([NOTHING, *pieces])
        return *cutting.around(joined_T, lengths_Q, lengths_Q, self._prefix, NOTHING), cut_Q

    def _tails(self, documents: Sequence[str], room_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int32 [T], lengths int64 [N], and bool [N] that says which documents were cut to their room."""
        texts = [" " + document for document in documents]
        content_T, content_N = cutting.content_of_heads(self._text.content, texts, int(room_N.max()))
        kept_N = np.minimum(content_N, room_N)
        return *cutting.around(content_T, content_N, kept_N, NOTHING, self._suffix), content_N > room_N

    def _ids(self, text: str) -> np.ndarray:
        """Of plain text, int32 [T]."""
        return self._text.content([text])[0]

    def _scaffold(self, text: str) -> np.ndarray:
        """Of our own text, with its control tokens; where the vocabulary has none of them they are spelled out."""
        pieces = [piece for piece in OWN_CONTROL_TOKENS.split(text) if piece]
        known = self.control_tokens
        return np.concatenate(
            [np.array([known[p]], dtype=np.int32) if p in known else self._ids(p) for p in pieces],
        )

    def _answer(self, word: str) -> int:
        ids = self._ids(word).tolist()
        if len(ids) != 1:
            raise ModelError(
                f"{self._path} makes {len(ids)} tokens of {word!r}, but a pair is scored by one token for yes and one "
                "for no: it is not the tokenizer of a reranker of Qwen3's kind"
            )
        return int(ids[0])

    def _check_published(self) -> None:
        if self.control_tokens.get("<|endoftext|>") != END_OF_TEXT:
            return  # not Qwen's vocabulary
        found = {
            "the system prompt": (self._prefix.tolist(), PAIR_PREFIX),
            "the end of the prompt": (self._suffix.tolist(), PAIR_SUFFIX),
            "yes and no": ([self.yes_id, self.no_id], YES_AND_NO),
        }
        for name, (ids, published) in found.items():
            if ids != list(published):
                raise ModelError(
                    f"{self._path} gives {ids} for {name}, but Qwen3-Reranker reads {list(published)}: the scores "
                    "would mean nothing. Take the current tokenizer.json of the reranker's own repository"
                )

    def _check_instruction(self, instruction: str) -> None:
        taken = len(self._ids(f"<Instruct>: {instruction}\n<Query>:")) + len(self._before_document)
        if taken >= self._most_of_body:
            raise ModelError(
                f"max_tokens is {self.max_tokens}; the prompt takes {self.special_tokens} of it and query with "
                f"instruction at most half of the rest, {max(0, self._most_of_body)}, but the instruction alone takes "
                f"{taken}: nothing of a query would be read. Raise max_tokens or shorten the instruction"
            )


def _plain(files: TokenizerFiles) -> tuple[dict[str, int], BatchTokenizer]:
    """The ids of a tokenizer's control tokens, and the tokenizer without them: to it they are plain text."""
    from tokenizers import Tokenizer

    control = {token["content"]: int(token["id"]) for token in files.added}
    definition = {**files.definition(), "added_tokens": [], "post_processor": None}
    text = BatchTokenizer(Tokenizer.from_str(json.dumps(definition)))
    if set(text.content(list(control))[0].tolist()) & set(control.values()):
        raise ModelError(
            f"{files.path} cannot spell its own control tokens as plain text, so a document could speak to the model "
            "in place of the prompt: only byte-level tokenizers, such as Qwen3-Reranker's, are supported"
        )
    return control, text


def _refuse_other_ids(files: TokenizerFiles, folder: Path) -> None:
    """Raises ModelError for settings under which the recipe would put other ids together than are put together here."""
    settings = sentence_config.transformer_config(folder)
    words = [token["content"] for token in files.added if not CONTROL_TOKEN.fullmatch(token["content"])]
    problem = None
    if files.cut_left:
        problem = "truncation_side: left, but a pair is cut at the end of its document"
    elif files.splits_specials:
        problem = "split_special_tokens, but the prompt is made of special tokens"
    elif settings.lower_case:
        problem = f"do_lower_case in {settings.path}, but the prompt has upper case"
    elif words:
        problem = f"words as added tokens, such as {words[0]!r}, but what users wrote is read without added tokens"
    if problem:
        raise ModelError(
            f"the tokenizer in {folder} has {problem}: the model would read other ids than it was trained on. Take the "
            "tokenizer's files from the reranker's own repository"
        )


def _max_tokens(spec: ModelSpec, positions: int) -> int:
    if spec.max_tokens is not None and spec.max_tokens > positions:
        raise ModelError(f"max_tokens {spec.max_tokens} asked, but {spec.weights} takes {positions} at most")
    return spec.max_tokens or min(MAX_TOKENS, positions)
