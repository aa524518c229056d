"""Weights from the hub, ModelScope and S3: only the files wanted, once a machine, and never stale."""

import json
import sys
import threading
import types
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from huggingface_hub import constants

from actors.spec import ModelError, ModelSpec
from actors.weights import fetch
from actors.weights.locate import digest, file_sha256, locate, revision_of
from actors.weights.recipe import resolve

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}
MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]
TOKENIZER = {"added_tokens": [], "model": {"type": "WordLevel", "unk_token": "x", "vocab": {"x": 0}}}
SMALL = {
    "config.json": json.dumps(BERT).encode(),
    "modules.json": json.dumps(MODULES).encode(),
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "tokenizer.json": json.dumps(TOKENIZER).encode(),
    "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
}
UNWANTED = {"model.bin": b"pickle", "modeling.py": b"code", "README.md": b"", "onnx/config.json": b"{}"}
FILES = {**SMALL, **UNWANTED, "model.safetensors": b"weights"}
COMMIT, LATER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def all_at_once(count: int, function: Any) -> list[Any]:
    everyone = threading.Barrier(count)

    def one(_: int) -> Any:
        everyone.wait(timeout=30)
        return function()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


# ---------------------------------------------------------------------- the Hugging Face hub


@dataclass
class Hub:
    """A hub with one model, as far as huggingface_hub asks it. `asked` counts the requests."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    head: str = COMMIT
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        path = path.split("?")[0]
        self.asked[f"{method} {path}"] += 1
        if "/resolve/" in path:
            revision, _, name = path.split("/resolve/")[1].partition("/")
            if name not in self.files:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            etag = f'"{zlib.crc32(name.encode() + self.files[name]):x}"'
            return 200, {"ETag": etag, "X-Repo-Commit": revision}, self.files[name]
        if "/tree/" in path:
            listed = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in self.files.items()]
            return 200, {}, json.dumps(listed).encode()
        return 200, {}, json.dumps({"id": "org/model", "sha": self.head, "siblings": []}).encode()

    def fetched(self) -> set[str]:
        return {
            key.rpartition(f"/{self.head}/")[2] for key in self.asked if key.startswith("GET") and "/resolve/" in key
        }


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, headers, body = hub.answer(self.command, self.path)
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)  # HF_ENDPOINT is read only at import
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()


def test_the_hub_gives_only_what_is_wanted_and_its_commit(hub: Hub) -> None:
    folder = locate(ModelSpec("org/model", revision="main"))
    assert names_in(folder) == hub.fetched() == {*SMALL, "model.safetensors"}
    assert revision_of(folder) == COMMIT
    before = hub.asked.total()
    assert locate(ModelSpec("org/model", revision=COMMIT)) == folder
    assert hub.asked.total() == before, "a commit that is here is not asked for again"


def test_tokenising_leaves_the_weights_on_the_hub(hub: Hub) -> None:
    spec = ModelSpec("org/model")
    assert resolve(spec, with_weights=False).recipe.pooling == "mean"
    assert hub.fetched() == set(SMALL)
    folder = locate(spec)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_replicas_that_start_together_fetch_from_the_hub_once(hub: Hub) -> None:
    folders = all_at_once(4, lambda: locate(ModelSpec("org/model")))
    assert len(set(folders)) == 1
    assert [n for key, n in hub.asked.items() if key.startswith("GET") and key.endswith("model.safetensors")] == [1]


def test_a_branch_that_moved(hub: Hub) -> None:
    first = locate(ModelSpec("org/model"))
    hub.head, hub.files["model.safetensors"] = LATER, b"later"
    assert revision_of(locate(ModelSpec("org/model"))) == LATER
    again = locate(ModelSpec("org/model", revision=COMMIT))
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes() == b"weights"


# ---------------------------------------------------------------------- ModelScope


@pytest.fixture
def modelscope(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the modelscope package; gives the calls of snapshot_download."""
    calls: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        folder = (
            home / "modelscope" / "models" / name.replace("/", "--") / "snapshots" / (options["revision"] or "master")
        )
        for file, content in FILES.items():
            if file.endswith(tuple(pattern.lstrip("*") for pattern in options["allow_patterns"])):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
        return str(folder)

    module = types.ModuleType("modelscope")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", module)
    return calls


def test_modelscope_is_asked_for_the_same_files(modelscope: list[dict[str, Any]]) -> None:
    folder = locate(ModelSpec("modelscope:Qwen/Q", revision="v1.0"))
    assert (folder / "model.safetensors").exists()
    assert revision_of(folder) == "v1.0"
    (call,) = modelscope
    assert (call["name"], call["revision"]) == ("Qwen/Q", "v1.0")
    assert sorted(call["allow_patterns"]) == ["*.json", "*.model", "*.safetensors", "*.txt"]
    assert call["ignore_patterns"] == ["onnx/*", "openvino/*"]


def test_tokenising_leaves_the_weights_on_modelscope(modelscope: list[dict[str, Any]]) -> None:
    folder = locate(ModelSpec("modelscope:Qwen/Q"), tokenizer_only=True)
    assert not (folder / "model.safetensors").exists()
    assert revision_of(folder) == "master"
    assert (locate(ModelSpec("modelscope:Qwen/Q")) / "model.safetensors").exists()


def test_modelscope_is_not_asked_for_files_known_by_their_digest(modelscope: list[dict[str, Any]]) -> None:
    """Its client hashes all files on each call; replicas know what they want and look for themselves."""
    spec = ModelSpec("modelscope:Qwen/Q")
    folder = locate(spec)
    known = replace(spec, digest=digest(folder))
    assert all_at_once(4, lambda: locate(known)) == [folder] * 4
    assert len(modelscope) == 1
    locate(spec)
    assert len(modelscope) == 2, "who does not know the digest asks"
    (folder / "model.safetensors").write_bytes(b"stale")
    locate(known)
    assert len(modelscope) == 3, "other files are fetched again"
    tokenizer = file_sha256(folder / "tokenizer.json")
    for _ in range(2):
        locate(replace(spec, tokenizer_digest=tokenizer), tokenizer_only=True)
    assert len(modelscope) == 4


def test_without_the_modelscope_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match=r"modelscope is not installed here.*vectormill\[modelscope\]"):
        locate(ModelSpec("modelscope:Qwen/Q"))


def test_modelscope_fails(modelscope: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(name: str, **options: Any) -> str:
        raise OSError("cannot reach it\nlong trace")

    monkeypatch.setattr(sys.modules["modelscope"], "snapshot_download", no_network)
    with pytest.raises(ModelError, match=r"modelscope:Qwen/Q: .* at revision v2: OSError: cannot reach it\.") as bad:
        locate(ModelSpec("modelscope:Qwen/Q", revision="v2"))
    assert "long trace" not in str(bad.value)


# ---------------------------------------------------------------------- S3


@dataclass
class Bucket:
    client: Any
    name: str
    spec: ModelSpec

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"mini/{name}", Body=content)


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Bucket:
    name = f"models-{zlib.crc32(request.node.name.encode()):x}"
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    spec = ModelSpec(f"s3://{name}/mini/", s3=(("endpoint_url", s3_endpoint), ("region", "us-east-1")))
    found = Bucket(client, name, spec)
    for file, content in FILES.items():
        found.put(file, content)
    return found


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is copied from S3."""
    real, counts = fetch._copy, Counter[str]()

    def counting(remote: Any, path: str, target: Path) -> None:
        counts[path.rpartition("mini/")[2]] += 1
        real(remote, path, target)

    monkeypatch.setattr(fetch, "_copy", counting)
    return counts


def cached(home: Path) -> list[str]:
    return [p.name for p in (home / ".cache" / "vectormill" / "weights").iterdir() if p.suffix != ".lock"]


def test_s3_only_what_is_wanted_once(bucket: Bucket, copied: Counter[str]) -> None:
    folder = locate(bucket.spec)
    assert names_in(folder) == {*SMALL, "model.safetensors", fetch.DONE_MARKER}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert locate(bucket.spec) == folder
    assert set(copied.values()) == {1}
    assert revision_of(folder) is None


def test_s3_replicas_that_start_together_copy_once(bucket: Bucket, copied: Counter[str], home: Path) -> None:
    assert len(set(all_at_once(6, lambda: locate(bucket.spec)))) == 1
    assert copied == dict.fromkeys((*SMALL, "model.safetensors"), 1)
    assert len(cached(home)) == 1


def test_s3_changed_weights_are_fetched_again(bucket: Bucket) -> None:
    first = locate(bucket.spec)
    bucket.put("model.safetensors", b"other weights")
    second = locate(bucket.spec)
    assert (second / "model.safetensors").read_bytes() == b"other weights"
    assert (first / "model.safetensors").read_bytes() == b"weights", "who still uses the old copy is not disturbed"


def test_s3_tokenising_leaves_the_weights_there(bucket: Bucket, copied: Counter[str]) -> None:
    assert resolve(bucket.spec, with_weights=False).recipe.pooling == "mean"
    assert set(copied) == set(SMALL)
    assert resolve(bucket.spec).recipe.pooling == "mean"
    assert copied["model.safetensors"] == 1


def test_s3_a_torn_copy_is_not_left_behind(bucket: Bucket, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetch._copy

    def torn(remote: Any, path: str, target: Path) -> None:
        if path.endswith(".safetensors"):
            raise OSError("connection lost")
        real(remote, path, target)

    monkeypatch.setattr(fetch, "_copy", torn)
    with pytest.raises(ModelError, match="connection lost"):
        locate(bucket.spec)
    assert cached(home) == []
    monkeypatch.setattr(fetch, "_copy", real)
    folder = locate(bucket.spec)
    # A process that was killed while it copied.
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    (folder.with_name(f"{folder.name}.partial") / "left.json").write_text("{}")
    assert locate(bucket.spec) == folder
    assert "left.json" not in names_in(folder)


def test_s3_addresses_without_a_model(bucket: Bucket) -> None:
    with pytest.raises(ModelError, match=r"/other' could not be copied to this machine: .*does not exist"):
        locate(replace(bucket.spec, weights=f"s3://{bucket.name}/other"))
    bucket.client.put_object(Bucket=bucket.name, Key="other/README.md", Body=b"")
    with pytest.raises(ModelError, match="there are no model files under this address"):
        locate(replace(bucket.spec, weights=f"s3://{bucket.name}/other"))


def test_s3_objects_that_change_while_they_are_copied(
    bucket: Bucket, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetch._copy

    def meanwhile(remote: Any, path: str, target: Path) -> None:
        real(remote, path, target)
        bucket.put("model.safetensors", b"other weights")

    monkeypatch.setattr(fetch, "_copy", meanwhile)
    with pytest.raises(ModelError, match="changed while they were copied"):
        locate(bucket.spec)
    assert cached(home) == []
