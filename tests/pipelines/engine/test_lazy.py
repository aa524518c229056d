"""An engine that is started when it is needed, once."""

import pytest

from pipelines.engine.inline import InlineExecutor
from pipelines.engine.lazy import FEW_ITEMS, LazyExecutor
from pipelines.errors import EngineError


class Counting(InlineExecutor):
    closed = mapped = 0

    def close(self):
        self.closed += 1

    def map(self, function, items):
        self.mapped += 1
        return super().map(function, items)


def test_few_items_need_no_engine_and_many_do():
    engine = Counting(gpus=3)
    started = []
    lazy = LazyExecutor(lambda: started.append(1) or engine)
    assert list(lazy.map(abs, [-1] * FEW_ITEMS)) == [1] * FEW_ITEMS
    assert not lazy.started
    assert list(lazy.map(abs, [-1] * (FEW_ITEMS + 1))) == [1] * (FEW_ITEMS + 1)
    assert lazy.started
    assert list(lazy.map(abs, [-1])) == [1]
    assert engine.mapped == 2, "where it is there anyway it does all"
    assert (lazy.gpus, lazy.describe(), len(started)) == (3, {"engine": "inline"}, 1)
    lazy.close()
    assert engine.closed == 1


def test_what_was_never_started_is_not_closed_and_a_start_that_fails_says_why():
    def fail():
        raise EngineError("nothing answers")

    lazy = LazyExecutor(fail)
    lazy.close()
    with pytest.raises(EngineError, match="nothing answers"):
        _ = lazy.gpus
    lazy.close()
