"""Which kind of index is chosen, and what the table records of it."""

from dataclasses import replace

import pytest

from pipelines.errors import ConfigError
from pipelines.maintenance.status import status
from pipelines.table.index import segments
from pipelines.table.index.records import FLAT, RECORDS_KEY, RQ1, RQ4, SQ, Kind, Vectors, choose, record_of, tuning_of
from tests.support.indexes import DIMENSIONS, add, clustered, fitted

# ---------------------------------------------------------------------- the choice


def test_choice_by_memory():
    vectors = Vectors(10_000_000, 384, 4)  # SQ 3.92 GB, RQ 2.18 and 0.68 GB, flat 15.44 GB
    kinds = lambda gb, asked="auto": [kind for kind, _ in choose(vectors, asked, gb)]  # noqa: E731
    assert kinds(16) == [SQ, FLAT]
    assert kinds(8) == [SQ]
    assert kinds(3) == [RQ4]
    assert kinds(1) == [RQ1]
    assert kinds(0.1) == [RQ1]
    assert kinds(1, "ivf_sq") == [SQ]
    assert kinds(1, "ivf_flat") == [FLAT]
    assert [kinds(gb, "ivf_rq") for gb in (3, 1)] == [[RQ4], [RQ1]]
    ((_, why),) = choose(vectors, "auto", 3)
    assert why == (
        "IVF_RQ with 4 bit(s): 10,000,000 vectors of 384 dimensions take about 2.18 GB in it; IVF_SQ would take "
        "3.92 GB; the limit is 3 GB"
    )
    assert "nothing takes less" in choose(vectors, "auto", 0.1)[0][1]
    assert "half of this machine's memory" in choose(Vectors(1000, 384, 4), "auto", None)[0][1]


def test_dimensions_that_rq_cannot_take():
    odd = Vectors(10_000_000, 100, 4)
    assert [kind for kind, _ in choose(odd, "auto", 0.1)] == [SQ]
    with pytest.raises(ConfigError, match="--index ivf_rq needs a multiple of 8 dimensions, not 100; use ivf_sq"):
        choose(odd, "ivf_rq", None)


@pytest.mark.parametrize("kind", [FLAT, SQ, RQ1, RQ4])
def test_bytes_of_an_index_are_about_what_was_estimated(address, kind):
    """The memory limit leans on this."""
    dataset = add(address, clustered(2000)).handle.dataset
    build = segments.Build(address, dataset.version, "v", kind, segments.train(dataset, 32, 2000))
    (fragment,) = dataset.get_fragments()
    found = sum(file.size_bytes for file in build([fragment.fragment_id]).files)
    assert 0.75 < found / (2000 * kind.bytes_per_vector(DIMENSIONS, 4)) < 1.35


# ---------------------------------------------------------------------- what is recorded


def test_records_of_another_release_count_as_nothing(address):
    add(address, clustered(1200))
    fitted(address)
    for text in ("{", "[]", '{"records": [{"name": "x"}]}', '{"records": 3}'):
        dataset = address.open()
        dataset.update_metadata({RECORDS_KEY: text})
        assert tuning_of(address.open()) is None
        assert status(address).to_dict()["vector_index"]["recall"] is None
    assert fitted(address)["action"] == "built"


def test_kind_is_what_a_record_says(address):
    add(address, clustered(1200))
    fitted(address, index="ivf_rq")
    record = record_of(address.open())
    assert record.kind == Kind("IVF_RQ", 4) == RQ4
    assert replace(record, bits=1).kind == RQ1
