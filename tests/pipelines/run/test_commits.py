import pytest

from pipelines.engine.stage import Receipt
from pipelines.run.commits import Committer
from pipelines.units import Unit


class Table:
    def __init__(self):
        self.commits = []
        self.broken = False

    def commit(self, fragments, properties):
        if self.broken:
            raise OSError("disk full")
        self.commits.append(list(fragments))


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def table():
    return Table()


def receipt(*starts, name="f"):
    units = tuple(Unit(1, "a", s, s + 10, 0, "") for s in starts)
    return Receipt(units, tuple(f"{name}{s}" for s in starts))


def committer(table, seconds=30, rows=1000):
    return Committer(table.commit, seconds, rows, dict)


def test_nothing_waits_nothing_is_committed(table, clock):
    c = committer(table)
    assert c.seconds_until_due() is None
    assert c.commit() == []
    assert table.commits == []


def test_many_units_in_one_transaction(table, clock):
    c = committer(table)
    for start in (0, 10, 20):
        c.offer(receipt(start))
    assert c.seconds_until_due() == 30
    clock[0] += 31
    assert c.seconds_until_due() == 0
    assert len(c.commit()) == 3
    assert table.commits == [["f0", "f10", "f20"]]
    assert c.seconds_until_due() is None


def test_rows_make_it_due(table, clock):
    c = committer(table, rows=20)
    c.offer(receipt(0))
    assert c.seconds_until_due() == 30
    c.offer(receipt(10))
    assert c.seconds_until_due() == 0


def test_failed_commit_is_not_tried_again(table, clock):
    """It may have landed all the same (interrupted after the manifest was written); only the table knows."""
    c = committer(table)
    c.offer(receipt(0))
    table.broken = True
    with pytest.raises(OSError, match="disk full"):
        c.commit()
    table.broken = False
    assert c.commit() == []
    assert table.commits == []
