"""The certificate: recomputed here with lance, hashlib and struct alone, and what each way to spoil a table does to it.

`recount` is what docs/architecture.md says, written a second time: it shares no code with the package.
"""

import hashlib
import json
import os
import struct
from collections import Counter
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, TableError
from pipelines.maintenance.scan import scan
from pipelines.maintenance.verify import verify
from pipelines.run.certificate import Certificate, account, corpus_digest, differences, parse
from pipelines.run.job import embed
from pipelines.run.prepare import prepare
from pipelines.table import contents, digests, sink
from pipelines.table.files import TableAddress
from pipelines.table.schema import METADATA_KEY
from pipelines.table.sink import AppendRows
from pipelines.table.table import LanceTable
from pipelines.tasks import write
from pipelines.units import cut
from tests.support.jobs import Said, job, run, write_jsonl, write_parquet

SMALL = {"weights": "fake", "dimensions": 16}
WRITTEN = "records as they were written"
KEYS = (
    *("fingerprint", "corpus_digest", "shards", "rows", "id_digest", "embedded_rows", "bad_rows", "reasons"),
    *("deleted_rows", "records", "tokens", "truncated", "pair_digest"),
)


def blake(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def recount(table):
    """Every figure of a certificate that a table (without stale shards) tells, read with lance alone."""
    ids = pairs = tokens = truncated = bad = 0
    reasons = Counter()
    records = lance.dataset(table).to_table().to_pylist()
    letter = "e" if lance.dataset(table).schema.field("vector").type.value_type == pa.float16() else "f"
    for r in records:
        own = blake(r["id"].encode())
        if r["vector"] is None:
            content = b"\0" + r["_reason"].encode()
            reasons[r["_reason"]] += 1
        else:
            content = b"\1" + struct.pack(f"<{len(r['vector'])}{letter}", *r["vector"])
        pairs += blake(struct.pack("<Qi", own, r["_chunk"]) + content)
        if r["_chunk"] == 0:
            ids, bad = ids + own, bad + (r["_reason"] is not None)
        tokens, truncated = tokens + r["_tokens"], truncated + r["_truncated"]
    return {
        "id_digest": f"{ids % 2**64:016x}",
        "pair_digest": f"{pairs % 2**64:016x}",
        "embedded_rows": sum(r["_chunk"] == 0 for r in records) - bad,
        "bad_rows": bad,
        "reasons": dict(reasons),
        "records": len(records),
        "tokens": tokens,
        "truncated": truncated,
    }


def recount_corpus(folder, rows):
    """The corpus digest of local .jsonl and .parquet files; `rows` by file name."""
    lines = []
    for path in folder.iterdir():
        content = path.read_bytes()
        kind, name = path.suffix[1:], "blake2b"
        if kind == "parquet":  # the footer: thrift, its length, the magic number
            name, content = "footer", content[-8 - struct.unpack("<I", content[-8:-4])[0] :]
        version = f"{name}:{hashlib.blake2b(content, digest_size=16).hexdigest()}"
        row = [path.name, path.stat().st_size, version, kind, rows[path.name]]
        lines.append(json.dumps(row, separators=(",", ":")) + "\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def certificate_of(config):
    """As at the end of a run: digests as they were written."""
    prepared = prepare(config, InlineExecutor())
    return account(prepared, LanceTable.open(prepared.address))


def doubts(config, **options):
    return [(check.name, check.found) for check in verify(config, Said(), **options).checks if not check.ok]


@pytest.fixture
def config(tmp_path):
    """A finished job over 120 rows."""
    write_parquet(tmp_path / "corpus")
    run(job(tmp_path))
    return job(tmp_path)


# ---------------------------------------------------------------------- what another program finds


def test_another_program_finds_the_same(tmp_path):
    """Passages, rows with a reason, half precision, a Parquet shard beside the others."""
    long = " ".join(f"w{n}" for n in range(100))
    records = [{"doc_id": f"ü{n}", "text": long if n % 2 else "short", "n": n} for n in range(40)]
    bad = [{"doc_id": None, "text": "x", "n": 1}, b"{broken\n", {"doc_id": "e", "text": " ", "n": 2}]
    write_jsonl(tmp_path / "corpus" / "a b.jsonl", [*records, *bad])
    config = job(
        tmp_path, chunking={"max_tokens": 32, "overlap_tokens": 4}, table={"vector_dtype": "float16"}, model=SMALL
    )
    certificate = run(config)
    assert certificate.adds_up
    assert {key: certificate.to_dict()[key] for key in recount(config.table.location)} == recount(config.table.location)
    assert (certificate.records, certificate.bad_rows, certificate.reasons["no_id"]) == (103, 3, 1)
    assert certificate.corpus_digest == recount_corpus(tmp_path / "corpus", {"a b.jsonl": 43})
    assert verify(config, Said()).certificate == certificate


def test_another_program_finds_the_same_of_parquet(config, tmp_path):
    certificate = certificate_of(config)
    assert {key: certificate.to_dict()[key] for key in recount(config.table.location)} == recount(config.table.location)
    names = {f"part-{n}.parquet": 40 for n in range(3)}
    assert set(names) == {path.name for path in (tmp_path / "corpus").iterdir()}
    assert certificate.corpus_digest == recount_corpus(tmp_path / "corpus", names)
    shards = prepare(config, InlineExecutor()).shards
    assert corpus_digest(shards) == corpus_digest(shards[::-1]) != corpus_digest(shards[1:])


def test_one_document_in_every_place(config):
    certificate = certificate_of(config).to_dict()
    assert list(certificate) == sorted(certificate)
    assert certificate["format"] == "vectormill-certificate"
    verdict = verify(config, Said())
    assert verdict.ok
    assert verdict.to_dict()["certificate"] == certificate
    side = Path(config.table.side_folder)
    assert embed(config, Said()).to_dict() == certificate
    left = side / "certificate.json"
    (record,) = (side / "runs").iterdir()
    kept = json.loads(json.dumps(certificate))
    assert json.loads(left.read_text()) == json.loads(record.read_text())["certificate"] == kept
    assert left.read_text() == json.dumps(kept, indent=1, sort_keys=True) + "\n"
    for file in (left, record):
        assert parse(file.read_bytes(), "x") == kept


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_digests_of_slices_with_nulls(dtype, monkeypatch):
    monkeypatch.setattr(digests, "BATCH_ROWS", 7)
    vectors = [None if n % 5 == 3 else [n, -n, 0.5, n / 3] for n in range(50)]
    columns = {
        "id": pa.array([f"d{n}" for n in range(50)]),
        "_chunk": pa.array([n % 3 for n in range(50)], pa.int32()),
        "vector": pa.array(vectors, pa.list_(pa.from_numpy_dtype(dtype), 4)),
        "_reason": pa.array(["no_text" if v is None else None for v in vectors]),
    }
    table = pa.concat_tables([pa.table(columns).slice(3, 20), pa.table(columns).slice(23)])
    found = digests.with_digests(table)
    for r in found.to_pylist():
        own = blake(r["id"].encode())
        plain = r["_reason"] or np.array(r["vector"], dtype).tobytes()
        content = b"\0" + plain.encode() if r["_reason"] else b"\1" + plain
        assert r["_id_digest"] % 2**64 == own
        assert r["_digest"] % 2**64 == blake(struct.pack("<Qi", own, r["_chunk"]) + content)
    assert digests.with_digests(table.slice(0, 0)).num_rows == 0


# ---------------------------------------------------------------------- what changes it, and what does not


def test_how_a_run_went_changes_nothing(config, tmp_path):
    """Other unit size, compacted, another root, a stop in the middle: all that is compared is the same."""
    first = certificate_of(config).to_dict()
    os.rename(tmp_path / "corpus", tmp_path / "moved")
    other = job(tmp_path, corpus={"uri": str(tmp_path / "moved")}, table={"name": "other"}, run={"rows_per_unit": 7})
    second = run(other).to_dict()
    assert second["units"] > first["units"]
    assert list(differences(first, second)) == []
    lance.dataset(other.table.location).optimize.compact_files()
    third = certificate_of(other).to_dict()
    assert third["table_version"] > second["table_version"]
    assert list(differences(second, third)) == []


def test_added_shard_changes_the_sets(config, tmp_path):
    first = certificate_of(config)
    write_parquet(tmp_path / "corpus", shards=1, first=1000)
    second = run(config)
    named = [key for key, _ in differences(first.to_dict(), second.to_dict())]
    rest = ["id_digest", "embedded_rows", "records", "tokens", "pair_digest"]
    assert named == ["corpus_digest", "shards", "rows", *rest]


def test_stale_shards_are_left_out(config, tmp_path):
    """A changed shard's old rows are still in the table, with the same ids."""
    write_parquet(tmp_path / "corpus", shards=1, rows=44)
    kept = run(config)
    assert kept.stale_rows == 40
    fresh = run(job(tmp_path, table={"name": "fresh"}))
    assert list(differences(kept.to_dict(), fresh.to_dict())) == []
    assert recount(config.table.location)["id_digest"] != kept.id_digest
    verdict = verify(config, Said())
    assert [check.name for check in verdict.checks if not check.ok] == ["no row without a source"]
    assert verdict.certificate == kept


def replaced(config, only, change):
    """Take records out of the table and put them back changed, with the digests that they had."""
    dataset = lance.dataset(config.table.location)
    records = dataset.to_table(filter=only).to_pylist()
    dataset.delete(only)
    change(records)
    lance.write_dataset(pa.Table.from_pylist(records, schema=dataset.schema), config.table.location, mode="append")


def one_bit(records):
    """The last bit of one number: no length, cosine or sum shows it."""
    vector = np.array(records[0]["vector"], np.float32)
    vector.view(np.uint32)[np.flatnonzero(vector)[0]] ^= 1
    records[0]["vector"] = vector.tolist()


def exchanged(records):
    a, b = records
    a["vector"], b["vector"] = b["vector"], a["vector"]


def test_one_changed_bit_is_found(config):
    before = certificate_of(config)
    replaced(config, "n = 17", one_bit)
    ((name, found),) = doubts(config)
    assert (name, found.split()[0]) == (WRITTEN, "1")
    verdict = verify(config, Said())
    assert [key for key, _ in differences(before.to_dict(), verdict.certificate.to_dict())] == ["pair_digest"]


def test_exchanged_vectors_are_found(config):
    before = certificate_of(config)
    replaced(config, "n IN (17, 90)", exchanged)
    found = dict(doubts(config, sample=1))
    assert found[WRITTEN].split()[0] == "2"
    assert verify(config, Said(), 1).certificate.pair_digest != before.pair_digest


@pytest.mark.parametrize(
    ("column", "value", "key"), [("id", "'stranger'", "id_digest"), ("_chunk", "CAST(1 AS INT)", "pair_digest")]
)
def test_what_else_a_digest_covers(config, column, value, key):
    before = certificate_of(config).to_dict()
    lance.dataset(config.table.location).update({column: value}, where="n = 17")
    assert dict(doubts(config, sample=1))[WRITTEN].split()[0] == "1"
    assert verify(config, Said(), 1).certificate.to_dict()[key] != before[key]


def test_another_reason_is_found(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "a", "text": "", "n": 1}, {"doc_id": "b", "text": "x"}])
    config = job(tmp_path)
    run(config)
    assert doubts(config) == []
    lance.dataset(config.table.location).update({"_reason": "'no_text'"}, where="id = 'a'")
    assert [name for name, _ in doubts(config)] == [WRITTEN]


def test_a_bit_that_flips_on_the_way_to_the_disk_is_found(tmp_path, monkeypatch):
    """The digest is of what the replica gave, not of what Lance got."""
    write_parquet(tmp_path / "corpus", shards=1)
    real = sink.write_rows

    def flips(address, rows, run):
        records = rows.read_all().to_pylist()
        one_bit(records)
        return real(address, pa.Table.from_pylist(records, schema=rows.schema), run)

    monkeypatch.setattr(sink, "write_rows", flips)
    certificate = run(job(tmp_path))
    assert certificate.adds_up
    assert [name for name, _ in doubts(job(tmp_path))] == [WRITTEN]
    assert recount(job(tmp_path).table.location)["pair_digest"] != certificate.pair_digest


def test_lost_and_doubled_rows_change_the_digests(config):
    before = certificate_of(config)
    dataset = lance.dataset(config.table.location)
    row = dataset.to_table(filter="n = 17")
    dataset.delete("n = 17")
    lost = certificate_of(config)
    assert lost.id_digest != before.id_digest
    assert lost.pair_digest != before.pair_digest
    lance.write_dataset(row, config.table.location, mode="append")
    assert list(differences(certificate_of(config).to_dict(), before.to_dict())) == []
    lance.write_dataset(row, config.table.location, mode="append")
    doubled = certificate_of(config)
    assert len({before.id_digest, lost.id_digest, doubled.id_digest}) == 3
    assert len({before.pair_digest, lost.pair_digest, doubled.pair_digest}) == 3


@pytest.mark.parametrize("reason", list(write.LOST))
def test_row_that_killed_or_hung_its_process_has_digests_and_is_bad(config, tmp_path, reason):
    write_parquet(tmp_path / "corpus", shards=1, first=1000)
    prepared = prepare(config, InlineExecutor())
    new = next(shard for shard in prepared.shards if shard.path == "part-1000.parquet")
    to = AppendRows(prepared.address, prepared.schema, "a run")
    receipt = write.lost_row(next(iter(cut(new, 1))), reason, to, prepared.task.results)
    table = LanceTable.open(prepared.address)
    table.take_fence("a run", {})
    table.fence.commit(receipt.fragments, {})
    assert contents.totals(table, prepared.by_id).reasons == {reason: 1}
    assert {check.name: check.ok for check in verify(config, Said()).checks}["bad rows are bad"]
    soundness = prepared.task.soundness(table.schema, table.metadata)
    assert scan(table, prepared.by_id, prepared.carried.names, prepared.task.results.columns, soundness).changed == 0
    assert account(prepared, table).id_digest == recount(config.table.location)["id_digest"]


# ---------------------------------------------------------------------- one against another


def against(config, other, tmp_path, **options):
    """The checks of `verify --against` that compare."""
    (tmp_path / "other.json").write_text(other if isinstance(other, str) else json.dumps(other))
    checks = verify(config, Said(), 1, against=str(tmp_path / "other.json"), **options).checks
    return [(check.ok, check.found) for check in checks if check.name == f"as certified in {tmp_path}/other.json"]


def test_against_an_equal_one(config, tmp_path):
    same = [(True, "the same corpus, ids, counts, fingerprint and vectors")]
    mine = certificate_of(config).to_dict()
    assert against(config, mine, tmp_path) == same
    assert against(config, {"outcome": "complete", "certificate": mine}, tmp_path) == same
    assert against(config, {**mine, "table": "elsewhere", "table_version": 99, "units": 1}, tmp_path) == same


def test_against_names_each_difference(config, tmp_path):
    mine = certificate_of(config).to_dict()
    theirs = {**mine, "rows": 121, "bad_rows": 1, "reasons": {"no_text": 1}, "id_digest": "0" * 16, "tokens": 3}
    assert against(config, theirs, tmp_path) == [
        (False, "rows in the corpus: 120 here, 121 there"),
        (False, f"set of ids: {mine['id_digest']} here, {'0' * 16} there"),
        (False, "rows with a reason: 0 here, 1 there"),
        (False, 'rows with a reason, by reason: {} here, {"no_text": 1} there'),
        (False, f"tokens: {mine['tokens']} here, 3 there"),
    ]


@pytest.mark.parametrize("key", KEYS)
def test_nothing_compared_is_passed_over(config_document, key):
    assert [name for name, _ in differences(config_document, {**config_document, key: "other"})] == [key]


@pytest.fixture(scope="module")
def config_document():
    numbers = dict.fromkeys(("shards", "units", "rows", "embedded_rows", "bad_rows", "deleted_rows", "records"), 1)
    more = dict.fromkeys(("tokens", "truncated", "table_version", "stale_rows", "overlapping_rows"), 1)
    more |= dict.fromkeys(("incomplete_rows", "duplicate_ids"), 1)
    words = dict.fromkeys(("table", "fingerprint", "corpus_digest", "id_digest", "pair_digest"), "x")
    return Certificate(**numbers, **more, **words, reasons={}).to_dict()


def test_other_bits_alone(config, tmp_path):
    """What two runs on GPUs give: doubted, unless it is said that it may be."""
    theirs = {**certificate_of(config).to_dict(), "pair_digest": "0" * 16}
    ((ok, found),) = against(config, theirs, tmp_path)
    assert not ok
    assert "the same corpus, ids, counts and fingerprint, but other vectors" in found
    assert "--vectors rounded" in found
    ((ok, found),) = against(config, theirs, tmp_path, vectors="rounded")
    assert (ok, found.endswith("accepted with --vectors rounded")) == (True, True)
    both = against(config, {**theirs, "rows": 121}, tmp_path, vectors="rounded")
    assert [ok for ok, _ in both] == [False, False], "rounding explains no other count"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "this is not JSON"),
        ("[1]", "this holds no certificate"),
        ('{"certificate": null}', "this holds no certificate"),
        ('{"format": "vectormill-certificate", "format_version": 2}', "has format version 2, this release knows 1"),
        ('{"format": "vectormill-certificate", "format_version": 1}', "lacks fingerprint, corpus_digest"),
    ],
)
def test_file_that_is_no_certificate(config, tmp_path, content, words):
    with pytest.raises(ConfigError, match=words):
        against(config, content, tmp_path)
    with pytest.raises(ConfigError, match="there is no such file"):
        verify(config, Said(), against=str(tmp_path / "nope.json"))


# ---------------------------------------------------------------------- the account


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({}, True),
        ({"embedded_rows": 89}, False),
        ({"embedded_rows": 88, "deleted_rows": 2}, True),
        ({"overlapping_rows": 1}, False),
        ({"incomplete_rows": 1}, False),
        ({"duplicate_ids": 7}, True),
        ({"failures": ("a.parquet rows 0 to 10: broken",)}, False),
        ({"stale_rows": 5}, True),
    ],
)
def test_certificate_adds_up_only_if_every_row_is_accounted_for(config_document, change, fine):
    numbers = {"rows": 100, "embedded_rows": 90, "bad_rows": 10, "deleted_rows": 0, "overlapping_rows": 0}
    numbers["incomplete_rows"] = 0
    own = {key: value for key, value in config_document.items() if key in Certificate.__dataclass_fields__}
    certificate = Certificate(**{**own, "failures": (), **numbers, **change})
    assert certificate.adds_up is fine
    assert certificate.to_dict()["adds_up"] is fine


def test_table_of_an_earlier_format_is_refused(tmp_path):
    schema = pa.schema([pa.field("id", pa.string())])
    metadata = {"identity": {"a": 1}, "model": {}, "rows_per_unit": 8, "format": 1}
    lance.write_dataset(schema.with_metadata({METADATA_KEY: json.dumps(metadata)}).empty_table(), tmp_path / "t.lance")
    with pytest.raises(TableError, match=r"format 1, this release knows 2 and 3; use the release that made the table"):
        LanceTable.open(TableAddress(f"{tmp_path}/t.lance", job(tmp_path).storage))
