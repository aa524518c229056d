"""A replica that cannot be set up ends the run at once: one attempt, the reason, exit code 2; on both engines."""

import errno
import subprocess
import sys

import pytest
import ray

from actors.embedder.fake import FakeEmbedModel
from actors.reranker.fake import FakeRerankModel
from actors.spec import ModelError, ReplicaBroken, WeightsOutOfReach
from pipelines.engine.inline import InlineExecutor
from pipelines.tasks import embed, rerank
from tests.support.bulk_jobs import pairs, rerank_job
from tests.support.commands import refused, write_job
from tests.support.jobs import job, run, write_jsonl, write_parquet

FAMILY = {
    "an old card": RuntimeError("FlashAttention only supports Ampere GPUs or newer."),
    "no compiler": subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    "no libcuda": AssertionError("libcuda.so cannot found!"),
    "a full /dev/shm": OSError(errno.ENOSPC, "No space left on device"),
    "a config": KeyError("rope_theta"),
    "a package": ImportError("cannot import name 'varlen_attn'"),
    "no memory": MemoryError(),
}


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def unstartable(spec, make, model, error, attempts):
    """A replica whose model raises while it starts; each attempt leaves a byte."""

    def start(self, *arguments):
        with attempts.open("ab") as file:
            file.write(b".")
        raise error

    honest, model.start = model.start, start
    try:
        return make(spec)
    finally:
        model.start = honest


def patched(monkeypatch, error, attempts):
    for task, name, model in ((embed, "embedder", FakeEmbedModel), (rerank, "reranker", FakeRerankModel)):
        make = getattr(task, name)
        monkeypatch.setattr(
            task, name, lambda spec, make=make, model=model: unstartable(spec, make, model, error, attempts)
        )


def engines(request, name):
    return InlineExecutor() if name == "inline" else request.getfixturevalue("executor")


@pytest.mark.parametrize(("engine", "what"), [*(("inline", what) for what in FAMILY), ("ray", "an old card")])
def test_one_attempt_and_the_reason(request, tmp_path, monkeypatch, engine, what):
    error, attempts = FAMILY[what], tmp_path / "attempts"
    write_parquet(tmp_path / "corpus")
    patched(monkeypatch, error, attempts)
    with pytest.raises(ModelError, match=r"^a replica refuses to work: fake could not be set up on cpu") as caught:
        run(job(tmp_path, run={"engine": engine}), engines(request, engine))
    assert (type(caught.value), caught.value.exit_code) == (ModelError, 2)
    assert f"{type(error).__name__}" in str(caught.value)
    assert "goes on" not in str(caught.value)
    assert attempts.read_bytes() == b"."


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_the_same_of_a_reranker(request, tmp_path, monkeypatch, engine):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", pairs())
    attempts = tmp_path / "attempts"
    patched(monkeypatch, FAMILY["an old card"], attempts)
    with pytest.raises(
        ModelError, match=r"refuses to work: fake could not be set up .* Ampere GPUs or newer"
    ) as caught:
        run(rerank_job(tmp_path, run={"engine": engine}), engines(request, engine))
    assert caught.value.exit_code == 2
    assert attempts.read_bytes() == b"."


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (WeightsOutOfReach("the hub does not answer"), WeightsOutOfReach, 1),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), ReplicaBroken, 1),
    ],
    ids=["out of reach", "broken"],
)
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_what_may_come_back_keeps_its_class(request, tmp_path, monkeypatch, engine, error, kind, code):
    write_parquet(tmp_path / "corpus")
    patched(monkeypatch, error, tmp_path / "attempts")
    with pytest.raises(kind, match=r"^a replica refuses to work: ") as caught:
        run(job(tmp_path, run={"engine": engine}), engines(request, engine))
    assert caught.value.exit_code == code


def test_the_command_says_it_and_ends_with_2(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    patched(monkeypatch, FAMILY["no compiler"], tmp_path / "attempts")
    said = refused(2, "CalledProcessError: gcc ended with 1.", "embed", write_job(tmp_path / "job.yaml", job(tmp_path)))
    assert "a replica refuses to work: fake could not be set up on cpu" in " ".join(said.split())
    assert "goes on from there" not in said


def test_a_search_says_it_too(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    run(config)

    def start(self, *arguments):
        raise FAMILY["an old card"]

    monkeypatch.setattr(FakeEmbedModel, "start", start)
    refused(2, "fake could not be set up on cpu", "search", write_job(tmp_path / "job.yaml", config), "alpha")


def test_an_import_that_fails_in_a_worker_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "actors.replica.embed", None)
    write_parquet(tmp_path / "corpus")
    with pytest.raises(ModelError, match=r"refuses to work: the stage embed could not be set up on .*constraints.txt"):
        run(job(tmp_path))
