"""The machines of an engine, and how replicas share their cores with the tasks that read, tokenise and write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A replica of an encoder gains little from more threads: its micro-batches are 1,536 tokens, and after each product
# threads wait for each other. benchmarks/cpu_replicas.py: on 2 cores, two replicas of one thread do 1.1 to 1.2 times
# what one of two does. A larger model has more work a product, and its copies take memory and time to load.
CORES_OF_SMALL, CORES_OF_LARGE = 2, 4
SMALL_FLOPS = 5e8  # a token's: 250 million parameters outside embeddings
PROCESS_BYTES = 1 << 30  # of a replica beside its weights: Python, torch, a micro-batch
KEPT = 0.75  # of the cores a replica on CPUs computes with, so much is no task's


@dataclass(frozen=True)
class Node:
    """cores: that threads can run on. cpus: what the engine shares out. memory: bytes for replicas; None: not known."""

    cores: int
    cpus: int
    gpus: int = 0
    memory: int | None = None


@dataclass(frozen=True)
class ModelSize:
    """flops_per_token: 0 for a model that computes nothing (the fake one). weights_bytes: in the dtype it computes
    in."""

    flops_per_token: float = 0.0
    weights_bytes: int = 0


@dataclass(frozen=True)
class Share:
    """replicas: in all. threads: of each. cpus, memory (bytes): what each keeps, in the engine's books."""

    replicas: int
    threads: int
    cpus: float
    memory: int = 0


def on_cpus(nodes: Sequence[Node], size: ModelSize, threads: int | None) -> Share:
    """As many replicas as have `threads` cores each (None: 2, or 4 for a larger model), as many as the memory of each
    node holds, and on each a CPU for the tasks."""
    each = threads or (CORES_OF_SMALL if size.flops_per_token <= SMALL_FLOPS else CORES_OF_LARGE)
    if not size.flops_per_token:
        return Share(1, each, 1)
    memory = PROCESS_BYTES + size.weights_bytes
    counts = [_most(node, each, memory) for node in nodes]
    used = [(node, count) for node, count in zip(nodes, counts, strict=True) if count]
    if not used:
        return Share(1, threads or max(node.cores for node in nodes), 1)
    threads = threads or min(node.cores // count for node, count in used)
    spare = min((node.cpus - 1) / count for node, count in used)
    return Share(sum(counts), threads, max(1.0, int(100 * min(KEPT * threads, spare)) / 100), memory)


def _most(node: Node, cores_each: int, memory_each: int) -> int:
    by_memory = node.cores if node.memory is None else node.memory // memory_each
    return max(0, min(node.cores // cores_each, node.cpus - 1, by_memory))


def beside_gpus(nodes: Sequence[Node]) -> float:
    """CPUs that each replica on a GPU keeps: the core that feeds its GPU, or the part of one that leaves half of each
    node's CPUs, and one at least, to the tasks: with none left they wait for ever. 0 while there is no GPU to see."""
    shares = [(node.cpus - max(1, node.cpus // 2)) / node.gpus for node in nodes if node.gpus]
    return max(0, int(100 * min([1.0, *shares]))) / 100 if shares else 0.0


def fair_threads(nodes: Sequence[Node], replicas: int) -> int:
    """Threads of each of so many replicas that share the cores of these nodes."""
    return max(1, max(node.cores for node in nodes) // -(-replicas // len(nodes)))
