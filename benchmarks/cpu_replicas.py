"""How many replicas, of how many threads, should share the cores of a machine without a GPU?

    python -m benchmarks.cpu_replicas
    python -m benchmarks.cpu_replicas --model 0.6B-4-layers --tokens 12000

Each way, written replicas x threads, embeds the same sequences of random ids, of the lengths of short passages, with
each token budget; each replica is a process of its own and gets as many of them as the others. Ways and budgets take
turns, in rounds; the first round is thrown away.

tokens_per_second: all tokens / seconds from the order to the last replica's answer; median of the rounds, and all.
tokens_per_cpu_second: all tokens / CPU seconds of all replicas together: what a busy machine can be compared by.
Loading is not in them: load_seconds of each replica, all at once; memory_mb: the peak of the largest one."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from actors.device import cpu
from benchmarks import machine
from benchmarks.model import texts

MIX = texts.MIXES["short"]
SEED = 0


class Way(NamedTuple):
    """replicas x threads, and a token budget."""

    replicas: int
    threads: int
    token_budget: int


def replica(model: str, dtype: str, folder: str, orders: Connection) -> None:
    """One process: loads the model, then embeds what it is told to, until it is told None."""
    import torch

    from actors.spec import ModelSpec
    from benchmarks.model import subjects
    from benchmarks.model.ours import Ours

    began = time.monotonic()
    own = Path(tempfile.mkdtemp(dir=folder))
    subject = subjects.load(subjects.Wanted(model, "cpu", dtype), own)
    spec = ModelSpec(str(subject.folder), device="cpu", dtype=dtype, prompt="", max_tokens=subject.recipe.max_positions)
    embedder = Ours(subject, spec).embedder
    vocabulary = subject.recipe.vocabulary
    orders.send(time.monotonic() - began)
    while (order := orders.recv()) is not None:
        threads, embedder.token_budget, lengths_N = order
        torch.set_num_threads(threads)
        offsets = np.concatenate([[0], np.cumsum(lengths_N)])
        ids = np.random.default_rng(SEED).integers(vocabulary // 2, vocabulary, offsets[-1]).astype(np.int32)
        spent = time.process_time()
        embedder.embed(ids, offsets)
        orders.send((time.process_time() - spent, machine.memory_mb()))


def measure(replicas: list[Connection], way: Way, lengths_N: np.ndarray) -> tuple[float, float, float]:
    """Seconds, CPU seconds of all, MB of the largest."""
    working = replicas[: way.replicas]
    began = time.monotonic()
    for number, orders in enumerate(working):
        orders.send((way.threads, way.token_budget, lengths_N[number :: way.replicas]))
    answers = [orders.recv() for orders in working]
    return time.monotonic() - began, sum(spent for spent, _ in answers), max(memory for _, memory in answers)


def main() -> None:
    options = parse()
    facts = machine.facts()
    lengths_N = texts.lengths(MIX, options.tokens, 3, SEED)
    tokens = int(lengths_N.sum())
    shares = [way.split("x") for way in options.ways]
    ways = [Way(int(replicas), int(threads), budget) for replicas, threads in shares for budget in options.budgets]
    found: dict[Way, list[tuple[float, float, float]]] = {way: [] for way in ways}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(max(way.replicas for way in ways))]
        processes = [
            context.Process(target=replica, args=(options.model, options.dtype, folder, theirs), daemon=True)
            for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that its end is noticed here
        replicas = [ours for ours, _ in pipes]
        load_seconds = [round(orders.recv(), 1) for orders in replicas]
        for _ in range(options.rounds + 1):
            for way in ways:
                found[way].append(measure(replicas, way, lengths_N))
        for orders in replicas:
            orders.send(None)
        for process in processes:
            process.join()
    each = [result(way, runs[1:], tokens) for way, runs in found.items()]
    settings = vars(options) | {"tokens": tokens, "texts": len(lengths_N)}
    print(json.dumps(machine.result("cpu replicas", settings, facts, load_seconds=load_seconds, each=each)))


def result(way: Way, runs: list[tuple[float, float, float]], tokens: int) -> dict[str, Any]:
    rates = [tokens / seconds for seconds, _, _ in runs]
    by_cpu = median(tokens / spent for _, spent, _ in runs)
    print(
        f"{way.replicas:3} x {way.threads} threads, {way.token_budget:6,} tokens: {median(rates):10,.0f} tokens/s "
        f"({min(rates):,.0f} to {max(rates):,.0f}), {by_cpu:8,.0f} a CPU second"
    )
    return way._asdict() | {
        "tokens_per_second": round(median(rates), 1),
        "all_tokens_per_second": [round(rate, 1) for rate in rates],
        "tokens_per_cpu_second": round(by_cpu, 1),
        "memory_mb": max(memory for _, _, memory in runs),
    }


def parse() -> argparse.Namespace:
    cores = cpu.cores()
    shares = sorted({1, max(1, cores // 4), max(1, cores // 2), cores})
    parser = machine.parser(__doc__)
    parser.add_argument("--model", default="bundled", help="weights, or a name of benchmarks/model/subjects.py")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=60_000, help="of each way and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=[f"{n}x{cores // n}" for n in shares], help="replicas x threads")
    parser.add_argument("--budgets", type=int, nargs="+", default=[1536, 3072])
    return parser.parse_args()


if __name__ == "__main__":
    main()
