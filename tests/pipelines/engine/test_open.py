"""How many replicas a job gets of its engine: rules that need no cluster."""

import pytest

from pipelines.config import ReplicaRange
from pipelines.engine.open import capacity
from pipelines.errors import ConfigError
from tests.support.jobs import job


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
