"""The proof that pairs get the token ids that the model card's code gives them, by transformers' tokenizer: for
rerankers what actors/checks/tokens.py is for embedders.

Left out are pairs that are read otherwise on purpose (prompt.py): with control tokens in them, or with a huge query.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from actors.checks.tokens import Proof, ask, differing, probes, refusal, transformers_tokenizer
from actors.reranker.prompt import DEFAULT_INSTRUCTION, PREFIX, SUFFIX, RerankPrompt
from actors.weights.tokenizer_files import files_now, tokenizer_files

LENGTH = 8192  # tokens of a pair, in place of the job's: each query, in bytes even, fits into half of them
WORD = " gravity"  # of a document that is too long

_PROVEN: dict[tuple[Path, Any], Proof] = {}


def check_pairs(prompt: RerankPrompt, folder: Path) -> Proof:
    """Once a process. Raises ModelError when a pair would get other ids than there."""
    key = (folder, files_now(folder))
    if key not in _PROVEN:
        _PROVEN[key] = _prove(prompt.of_length(LENGTH), folder)
    return _PROVEN[key]


def _prove(prompt: RerankPrompt, folder: Path) -> Proof:
    theirs = transformers_tokenizer(folder)
    control = {*prompt.control_tokens} | set(theirs.get_added_vocab())
    texts = [text for text in probes(theirs) if not any(token in text for token in control)]
    texts.append(WORD * prompt.max_tokens)
    queries = texts[:64]
    query_of_N = np.arange(len(texts)) % len(queries)
    bodies = [
        f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {queries[at]}\n<Document>: {text}"
        for at, text in zip(query_of_N.tolist(), texts, strict=True)
    ]
    around = ask(theirs, folder, (PREFIX, SUFFIX), add_special_tokens=False)["input_ids"]
    middle = ask(theirs, folder, bodies, add_special_tokens=False)["input_ids"]
    encoded = prompt.encode(queries, texts, query_of_N)
    room = prompt.max_tokens - prompt.special_tokens
    for i, body in enumerate(bodies):
        query = int(query_of_N[i])
        pair = [
            *_one(encoded.heads_ids, encoded.heads_offsets, query),
            *_one(encoded.tails_ids, encoded.tails_offsets, i),
        ]
        wanted = [*around[0], *middle[i][:room], *around[1]]
        if pair != wanted:
            definition = json.loads(theirs.backend_tokenizer.to_str()) | {"added_tokens": [], "post_processor": None}
            raise refusal(folder, body, pair, wanted, differing(prompt.definition(), definition) or ["added_tokens"])
    files = tokenizer_files(folder)
    return Proof(len(texts), type(theirs).__name__, files.beside)


def _one(ids_T: np.ndarray, offsets: np.ndarray, at: int) -> list[int]:
    found: list[int] = ids_T[offsets[at] : offsets[at + 1]].tolist()
    return found
