"""How many replicas machines have room for, and what each keeps of them: arithmetic, no cluster."""

import pytest

from pipelines.engine.nodes import ModelSize, Node, Share, beside_gpus, fair_threads, on_cpus

GB = 1 << 30
MINILM = ModelSize(2.1e7, 9 * 10**7)
QWEN_06B, QWEN_8B = ModelSize(8.8e8, 24 * 10**8), ModelSize(1.39e10, 32 * 10**9)


def node(cores, memory_gb=1000, cpus=None, gpus=0):
    return Node(cores, cpus or cores, gpus, memory_gb * GB)


@pytest.mark.parametrize(
    ("nodes", "size", "replicas", "threads"),
    [
        ([node(1, cpus=4)], MINILM, 1, 1),
        ([node(2, cpus=4)], MINILM, 1, 2),
        ([node(4)], MINILM, 2, 2),
        ([node(32)], MINILM, 16, 2),
        ([node(33)], MINILM, 16, 2),
        ([node(2, cpus=4)], QWEN_06B, 1, 2),
        ([node(32)], QWEN_06B, 8, 4),
        ([node(32, memory_gb=16)], QWEN_06B, 4, 8),
        ([node(32, memory_gb=64)], QWEN_8B, 2, 16),
        ([node(32, memory_gb=16)], QWEN_8B, 1, 32),
        ([Node(8, 8)], QWEN_06B, 2, 4),
        ([node(4), node(32)], MINILM, 18, 2),
        ([node(16), node(16), node(16)], QWEN_06B, 12, 4),
        ([node(1), node(1), node(8)], MINILM, 4, 2),
        ([node(32, memory_gb=40), node(32, memory_gb=8)], QWEN_8B, 1, 32),
        ([node(64)], ModelSize(), 1, 2),
    ],
)
def test_replicas_on_cpus(nodes, size, replicas, threads):
    """One for two cores, for four of a larger model; no more than memory holds; the sum over the nodes that can."""
    found = on_cpus(nodes, size, None)
    assert (found.replicas, found.threads) == (replicas, threads)


def test_as_many_replicas_as_have_the_threads_that_are_asked_for():
    assert on_cpus([node(8, cpus=9)], MINILM, 1).replicas == 8
    assert on_cpus([node(8)], MINILM, 8) == Share(1, 8, 6.0, GB + 9 * 10**7)
    assert on_cpus([node(8)], MINILM, 32) == Share(1, 32, 1)


@pytest.mark.parametrize("cores", [[2], [3], [4], [8], [4, 32], [2, 2, 16], [96]])
@pytest.mark.parametrize("size", [MINILM, QWEN_06B])
def test_every_node_is_left_a_cpu_for_tasks_and_holds_its_own_replicas_alone(cores, size):
    """What each keeps makes the engine place them as they were counted, and never starves the tasks."""
    nodes = [node(each) for each in cores]
    share = on_cpus(nodes, size, None)
    assert share.cpus >= 1
    counted = [on_cpus([each], size, None).replicas for each in nodes if each.cores >= 4]
    for each, count in zip([each for each in nodes if each.cores >= 4], counted, strict=True):
        assert count * share.cpus <= each.cpus - 1
    assert sum(int(each.cpus // share.cpus) for each in nodes) >= share.replicas


@pytest.mark.parametrize(
    ("nodes", "cpus"),
    [
        ([node(2, gpus=1)], 1.0),
        ([node(1, gpus=1)], 0.0),
        ([node(8, gpus=8)], 0.5),
        ([node(16, gpus=8)], 1.0),
        ([node(96, gpus=8)], 1.0),
        ([node(4, gpus=8)], 0.25),
        ([node(3, gpus=3)], 0.66),
        ([node(64), node(8, gpus=8)], 0.5),
        ([Node(0, 0, 8), node(64)], 0.0),
        ([node(64)], 0.0),
    ],
)
def test_a_replica_on_a_gpu_keeps_a_core_where_there_are_enough(nodes, cpus):
    assert beside_gpus(nodes) == cpus
    for each in nodes:
        assert not each.gpus or not each.cpus or each.cpus - each.gpus * cpus >= 1, "a CPU is left for the tasks"


def test_threads_of_so_many_replicas():
    assert fair_threads([node(8)], 1) == 8
    assert fair_threads([node(8)], 3) == 2
    assert fair_threads([node(8), node(8)], 3) == 4
    assert fair_threads([node(2)], 5) == 1
