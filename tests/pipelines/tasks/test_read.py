"""The first stage: what travels together, and in how many pieces."""

from pipelines.corpus.corpus import Corpus
from pipelines.tasks.read import reader
from pipelines.units import cut
from tests.support.jobs import job, write_parquet


def test_rows_of_many_small_files_travel_in_one_piece(tmp_path):
    """Each piece costs every later stage, and Ray, as much as a large one."""
    write_parquet(tmp_path / "corpus", shards=5, rows=20)
    config = job(tmp_path)
    corpus = Corpus(config.corpus, config.storage)
    shards = [corpus.scan(listing) for listing in corpus.list()]
    bundle = tuple(unit for shard in shards for unit in cut(shard, 64))
    (parcel,) = reader(corpus, corpus.carried(shards))((bundle,))
    assert parcel.rows.num_rows == parcel.carried.num_rows == 100
    assert {column.num_chunks for column in [*parcel.rows.columns, *parcel.carried.columns]} == {1}
    assert [unit.path for unit in parcel.bundle] == [shard.path for shard in shards]
