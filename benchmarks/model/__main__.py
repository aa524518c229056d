"""Measures the model layer: real tokens/s, its use of the hardware, and the same work done by others.

    python -m benchmarks.model --model 0.6B --tokens 2000000 --peers st,st-best,transformers --price 3.5
    python -m benchmarks.model --model bundled --tokens 60000 --peers st,transformers --dtype float32      (a CPU)

--model 0.6B, 4B, 8B, minilm, bert-base and tiny: the true sizes, random weights. Anything else is taken as the weights
of a job: "bundled", a folder, a hub id. Random ones get texts of made-up words, or with --tokenizer real ones.

from ids      ours, of texts that are tokenised already: what a replica of a job does, and the model's own speed
from texts    ours, tokenising too, in a second thread: what sentence-transformers is compared with
st            sentence-transformers' encode() as it is called by default: 32 texts a batch, sorted by characters
st-best       its fastest way here: padding-free, or padded with 32, 128 or 256 texts a batch
transformers  its plain forward pass, texts sorted by tokens and padded, as many tokens a batch as ours

With --task rerank: a Qwen3 with random weights, pairs of random ids in the proportions of real ones, documents by --mix

reuse          ours, each query computed once for all its documents
whole          ours, every pair computed whole
card           the model card's way: the product with the whole vocabulary at every position, 32 pairs a batch
cross-encoder  sentence-transformers' CrossEncoder's arithmetic: sorted, 32 a batch, that product at the last position

All have the same weights, precision and texts, take turns in rounds, and count real tokens: special ones, no padding.
Prints a table and, as the last line, JSON.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.spec import ModelError
from benchmarks.model import report, rerank, subjects, texts
from benchmarks.model.options import AGAINST, Options
from benchmarks.model.run import run


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and prints it; gives the report."""
    given = vars(_parser().parse_args(arguments))
    file = given.pop("json")
    given["peers"] = tuple(name for name in given["peers"].split(",") if name)
    try:
        options = Options(**given)
        found = rerank.run(options) if options.task == "rerank" else run(options)
    except ModelError as error:
        raise SystemExit(f"error: {error}") from error
    print(report.table(found))
    line = json.dumps(found, ensure_ascii=False)
    print(line)
    if file is not None:
        Path(file).write_text(line + "\n", encoding="utf-8")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, Options()
    add("--model", default=default.model, help=f"{', '.join(subjects.RANDOM)}, bundled, a folder or a hub id")
    add("--task", choices=AGAINST, default=default.task)
    add("--mix", choices=texts.MIXES, default=default.mix, help="mean 120, 400 or 2000 tokens, most 512, 2048 or 8192")
    add("--tokens", type=int, default=default.tokens, help=f"about how many in all ({default.tokens:,})")
    add("--tokenizer", help="a folder with tokenizer.json, for random weights: real words in place of made-up ones")
    add("--dtype", default=default.dtype, choices=("auto", "bfloat16", "float32", "float8"))
    add("--device", help="cpu, cuda or cuda:N")
    add("--threads", type=int, help="CPU threads of torch")
    add("--token-budget", type=int, help="most tokens of a micro-batch")
    add("--path", choices=subjects.PATHS, default=default.path, help="ours, or transformers' modules, packed")
    add("--peers", default="", help="; ".join(f"{task}: some of {','.join(known)}" for task, known in AGAINST.items()))
    add("--rounds", type=int, default=default.rounds)
    add("--seed", type=int, default=default.seed)
    add("--price", type=float, help="of an hour of this machine: gives the cost of 10^9 tokens")
    add("--ceiling-seconds", type=float, default=default.ceiling_seconds, help="of the sustained matrix products")
    add("--json", help="a file for the JSON line")
    return parser


if __name__ == "__main__":
    main()
