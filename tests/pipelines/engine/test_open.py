"""How many replicas a job gets of its engine, and how many threads each: rules that need no cluster."""

import pytest

from actors.device import cpu
from pipelines.config import ReplicaRange
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.nodes import ModelSize, Node
from pipelines.engine.open import capacity, open_executor
from pipelines.errors import ConfigError
from tests.support.commands import refused, write_job
from tests.support.devices import plug_in, plug_in_unusable
from tests.support.jobs import job, write_parquet

MINILM = ModelSize(2.1e7, 9 * 10**7)


class Fixed:
    """An executor on one node."""

    in_process = False

    def __init__(self, gpus=0, cores=8):
        self.gpus = gpus
        self.nodes = [Node(cores, cores, gpus)]


@pytest.fixture(autouse=True)
def _no_threads_asked_for(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def given(tmp_path, executor, **settings):
    return capacity(job(tmp_path, run=settings), executor, MINILM)


def replicas(tmp_path, executor, **settings):
    found = given(tmp_path, executor, **settings).replicas
    return found.min, found.max


def test_replicas_as_asked(tmp_path):
    assert replicas(tmp_path, Fixed(4)) == (4, 4)
    assert replicas(tmp_path, Fixed()) == (4, 4)
    assert replicas(tmp_path, Fixed(4), replicas=2) == (2, 2)
    assert replicas(tmp_path, Fixed(4), replicas={"min": 2, "max": 9}) == (2, 9), "room for the least is enough"
    with pytest.raises(ConfigError, match=r"has 4 GPUs, and 5 replica\(s\) are to run on it; lower run\.replicas"):
        replicas(tmp_path, Fixed(4), replicas={"min": 5, "max": 9})
    asked = {"device": "cuda", "replicas": {"min": 5, "max": 9}}
    assert replicas(tmp_path, Fixed(), **asked) == (5, 9), "GPU nodes that come up on demand"
    with pytest.raises(ConfigError, match=r"set run\.replicas"):
        replicas(tmp_path, Fixed(), device="cuda")


def test_replicas_on_cpus_beside_gpus_are_counted_by_cpus(tmp_path):
    assert replicas(tmp_path, Fixed(2), device="cpu", replicas=7) == (7, 7)
    assert replicas(tmp_path, Fixed(2), device="cpu") == (4, 4)
    with pytest.raises(ConfigError, match="has 7 spare CPUs"):
        replicas(tmp_path, Fixed(2), device="cpu", replicas=8)
    with pytest.raises(ConfigError, match="has 0 spare CPUs"):
        replicas(tmp_path, Fixed(cores=1))


def test_a_range_in_order():
    with pytest.raises(ValueError, match="less than min"):
        ReplicaRange(min=3, max=2)


REAL = {"model": {"weights": "some/model"}}


def test_a_gpu_that_torch_cannot_use_stops_a_job_instead_of_a_cpu_that_takes_its_place(tmp_path, monkeypatch):
    plug_in_unusable(monkeypatch, tmp_path)
    for device in ("auto", "cuda"):
        said = rf"run.device is {device}, and .*too old.*CUDA 13.0, the driver here is 535.104.05.*run.device: cpu"
        with pytest.raises(ConfigError, match=said), open_executor(job(tmp_path, run={"device": device}, **REAL)):
            pass
    with open_executor(job(tmp_path, run={"device": "cpu"}, **REAL)) as executor:
        assert executor.gpus == 0
    with open_executor(job(tmp_path)) as executor:
        assert executor.gpus == 0, "the fake model computes on no device"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with open_executor(job(tmp_path, **REAL)) as executor:
        assert executor.gpus == 0


def test_the_same_of_a_ray_that_is_started_here_and_sees_no_gpu(tmp_path, monkeypatch):
    closed = []

    class NoGpus(InlineExecutor):
        in_process = False

        def __init__(self, address, replicas):
            super().__init__(0)

        def close(self):
            closed.append(True)

    monkeypatch.setattr("pipelines.engine.ray.RayExecutor", NoGpus)
    plug_in_unusable(monkeypatch, tmp_path)
    refused = pytest.raises(ConfigError, match="too old")
    with refused, open_executor(job(tmp_path, run={"engine": "ray"}, **REAL)) as executor:
        executor.gpus  # noqa: B018 - for which it is started
    assert closed == [True]
    elsewhere = job(tmp_path, run={"engine": "ray", "address": "head:6379"}, **REAL)
    with open_executor(elsewhere) as executor:
        assert executor.gpus == 0, "what this machine has says nothing of a cluster elsewhere"


def test_a_gpu_that_works_is_used(tmp_path, monkeypatch):
    plug_in(monkeypatch, tmp_path, "NVIDIA A100", (8, 0))
    with open_executor(job(tmp_path, **REAL)) as executor:
        assert executor.gpus == 1


def test_the_command_ends_with_2(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    plug_in_unusable(monkeypatch, tmp_path)
    refused(2, "update the driver", "embed", write_job(tmp_path / "job.yaml", job(tmp_path, **REAL)))


def test_threads_are_shared_out(tmp_path, monkeypatch):
    def threads(executor, **settings):
        return given(tmp_path, executor, **settings).threads

    inline = InlineExecutor()
    monkeypatch.setattr(cpu, "cores", lambda: 6)
    assert threads(inline) == threads(inline, replicas=3) == 6, "alone in its process"
    assert threads(Fixed()) == 2
    assert threads(Fixed(), replicas=1) == 8
    assert threads(Fixed(), replicas=2) == 4
    assert threads(Fixed(1)) is None, "torch's own choice"
    for executor in (inline, Fixed(), Fixed(1)):
        assert threads(executor, threads=3) == 3
    assert replicas(tmp_path, Fixed(), threads=1) == (7, 7), "one CPU is for the tasks"


def test_omp_num_threads_bounds_what_is_left_to_us(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for executor in (InlineExecutor(), Fixed()):
        for settings in ({}, {"replicas": 1}):
            assert given(tmp_path, executor, **settings).threads == 1
        assert given(tmp_path, executor, threads=3).threads == 3, "said in the job"
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert given(tmp_path, InlineExecutor()).threads == 6


def test_little_work_starts_few_replicas(tmp_path, monkeypatch):
    found = given(tmp_path, Fixed(cores=32))
    assert (found.replicas.max, found.threads) == (16, 2)
    for bundles, count, threads in ((0, 1, 8), (1, 1, 8), (5, 5, 6), (15, 15, 2), (16, 16, 2), (99, 16, 2)):
        less = found.for_work(bundles)
        assert (less.replicas.min, less.replicas.max, less.threads) == (count, count, threads)
    for settings in ({"replicas": 3}, {"replicas": {"min": 2, "max": 3}}):
        asked = given(tmp_path, Fixed(cores=32), **settings)
        assert asked.for_work(0) == asked, "what the job says stands"
    assert given(tmp_path, Fixed(cores=32), threads=3).for_work(1).threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert given(tmp_path, Fixed(cores=32)).for_work(1).threads == 2
