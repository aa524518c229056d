"""How many replicas a job gets of its engine: rules that need no cluster."""

import pytest

from pipelines.config import ReplicaRange
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.open import capacity, open_executor
from pipelines.errors import ConfigError
from tests.support.commands import refused, write_job
from tests.support.devices import plug_in, plug_in_unusable
from tests.support.jobs import job, write_parquet


class Fixed:
    """An executor with so many GPUs; it has room for `most` replicas."""

    def __init__(self, gpus, most):
        self.gpus = gpus
        self._most = most

    def threads(self, replicas):
        return 1

    def require(self, replicas):
        if replicas > self._most:
            raise ConfigError(f"{replicas} are too many")


def replicas(tmp_path, executor, **settings):
    found = capacity(job(tmp_path, run=settings), executor).replicas
    return found.min, found.max


def test_replicas_as_asked(tmp_path):
    assert replicas(tmp_path, Fixed(4, 4)) == (4, 4)
    assert replicas(tmp_path, Fixed(0, 4)) == (1, 1)
    assert replicas(tmp_path, Fixed(4, 4), replicas=2) == (2, 2)
    assert replicas(tmp_path, Fixed(4, 4), replicas={"min": 2, "max": 9}) == (2, 9), "room for the least is enough"
    with pytest.raises(ConfigError, match="5 are too many"):
        replicas(tmp_path, Fixed(4, 4), replicas={"min": 5, "max": 9})
    asked = {"device": "cuda", "replicas": {"min": 5, "max": 9}}
    assert replicas(tmp_path, Fixed(0, 0), **asked) == (5, 9), "GPU nodes that come up on demand"
    with pytest.raises(ConfigError, match=r"set run\.replicas"):
        replicas(tmp_path, Fixed(0, 0), device="cuda")


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
    with pytest.raises(ConfigError, match="too old"), open_executor(job(tmp_path, run={"engine": "ray"}, **REAL)):
        pass
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
