"""How fast is the reranker, beside the model card's code and sentence-transformers' CrossEncoder?

    python -m benchmarks.rerank [--queries 4] [--documents 64] [--rounds 5] [--dtype float32|bfloat16]

Random weights of a small Qwen3 in the proportions of the 0.6B, Qwen's own tokenizer, queries with many documents each
(prompt and query about 85 tokens, document and suffix about 108, log-normal). Four sides, in turn, each from texts to
scores, in one process with the same threads and precision:

    reuse           ours: a query's tokens computed once for all its documents
    plain           ours, every pair computed whole: what packing and the head of two rows bring alone
    model_card      the model card's code: 32 pairs in the order given, padded on the left, logits at every position
    cross_encoder   sentence-transformers' CrossEncoder.predict, 32 pairs sorted by length, logits at the last position

The vocabulary's head is cut to the rows that make its share of the work what it is in the 0.6B (35 %); whole, it would
cost a model this small four times all the rest, and the model card's code would look far worse than it is.

`times_model_card`, `times_cross_encoder` and `times_plain` say how many times as fast as these `reuse` is: medians over
the rounds of each round's ratio. `times_plain_bound` is how many times fewer tokens it computes.
`worst_logit_difference` is the largest difference of any side's logit to `reuse`'s. Prints one JSON line.

All this by the clock; `by_cpu_time` has the same from CPU seconds, which with --threads 1 hold on a busy machine too.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec
from benchmarks import machine
from tests.support import qwen_tokenizer
from tests.support.rerank_peers import NO, YES, ModelCard, build, cross_encoder

HEAD_SHARE = 0.311 / 0.881  # GFLOP a token of the 0.6B: logits of the whole vocabulary, all its layers
WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he"),
    *("his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "were"),
    *("water", "city", "river", "paper", "light", "history", "music", "power", "market", "school", "doctor", "train"),
)


def geometry(layers: int, hidden: int) -> dict[str, int]:
    """The 0.6B's proportions: queries twice as wide as the hidden size, keys as wide, the MLP three times."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "head_dim": 128,
        "intermediate_size": 3 * hidden,
        "max_position_embeddings": 8192,
    }


def head_rows(layers: int, hidden: int) -> int:
    """The rows of the vocabulary that cost HEAD_SHARE of the layers."""
    weights = layers * hidden * (2 * 2 * hidden + 2 * hidden + 3 * 3 * hidden)
    return max(YES + 1, round(HEAD_SHARE * weights / hidden))


def make_pairs(queries: int, documents: int, spread: float) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS, words))

    # 98 words of one token each, a space and the suffix make 108 tokens.
    lengths = np.clip(rng.lognormal(np.log(98) - spread**2 / 2, spread, queries * documents), 5, 1000).astype(int)
    asked = [text(22) for _ in range(queries)]
    return [(asked[i // documents], text(length)) for i, length in enumerate(lengths)]


def sides(
    reranker: Reranker, folder: Path, pairs: list[tuple[str, str]], rows: int, dtype: str
) -> dict[str, Callable[[], np.ndarray]]:
    """Each gives the logits of all pairs, float32 [N]."""
    card = ModelCard(folder, getattr(torch, dtype), head_rows=rows)
    peer = cross_encoder(folder, getattr(torch, dtype))
    peer.model.lm_head.weight = torch.nn.Parameter(peer.model.lm_head.weight[:rows].detach().clone())
    assert max(YES, NO) < rows
    return {
        "reuse": lambda: reranker.score_pairs(pairs).logits,
        "plain": lambda: reranker.score_encoded(reranker.encode_pairs(pairs), reuse_prefix=False),
        "model_card": lambda: card.scores(pairs, batch=32)[0],
        "cross_encoder": lambda: peer.predict(pairs, batch_size=32, show_progress_bar=False),
    }


def lengths(reranker: Reranker, pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Mean tokens of heads and tails, and how many times fewer tokens are computed when heads are shared."""
    found = reranker.encode_pairs(pairs)
    heads, tails = np.diff(found.heads_offsets), np.diff(found.tails_offsets)
    whole = heads[found.query_of].sum() + tails.sum()
    return {
        "head_tokens": round(float(heads.mean()), 1),
        "tail_tokens": round(float(tails.mean()), 1),
        "times_plain_bound": round(float(whole / (heads.sum() + tails.sum())), 2),
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--documents", type=int, default=64, help="of each query")
    parser.add_argument("--spread", type=float, default=0.4, help="of the documents' log-normal lengths; 0: all equal")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    facts = machine.facts()
    torch.set_num_threads(given.threads)
    pairs, rows = make_pairs(given.queries, given.documents, given.spread), head_rows(given.layers, given.hidden)
    with tempfile.TemporaryDirectory() as base:
        tokenizer = qwen_tokenizer.write(Path(base) / "tokenizer", "reranker")
        folder = build(Path(base) / "model", tokenizer, std=0.02, **geometry(given.layers, given.hidden))
        reranker = Reranker(ModelSpec(str(folder), device="cpu", dtype=given.dtype))
        running = sides(reranker, folder, pairs, rows, given.dtype)
    expected = running["reuse"]()
    worst = max(float(np.abs(score() - expected).max()) for score in running.values())  # and all are warm now
    by_clock: dict[str, list[float]] = {name: [] for name in running}
    by_cpu_time: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(given.rounds):
        for name, score in running.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            score()
            by_clock[name].append(time.perf_counter() - began)
            by_cpu_time[name].append(time.process_time() - began_cpu)
    settings = {**vars(given), "head_rows": rows, "logit_spread": round(float(expected.std()), 3)}
    found = {
        **lengths(reranker, pairs),
        "worst_logit_difference": worst,
        "pairs_per_second": {name: round(len(pairs) / statistics.median(s), 2) for name, s in by_clock.items()},
        **ratios(by_clock),
        "by_cpu_time": ratios(by_cpu_time),
    }
    for name, ratio in ratios(by_clock).items():
        print(f"{name:20} {ratio:6.2f}, by CPU time {ratios(by_cpu_time)[name]:6.2f}")
    print(json.dumps(machine.result("rerank", settings, facts, **found)))


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as the other sides `reuse` is."""
    others = {name: values for name, values in seconds.items() if name != "reuse"}
    each = {name: [a / b for a, b in zip(values, seconds["reuse"], strict=True)] for name, values in others.items()}
    return {f"times_{name}": round(statistics.median(values), 2) for name, values in each.items()}


if __name__ == "__main__":
    main()
