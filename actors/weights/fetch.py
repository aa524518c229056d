"""Brings a folder of weights to this machine: from the Hugging Face hub, ModelScope or S3.

Only files with wanted endings are fetched, never code, and each once a machine, however many replicas start together:
the first takes a lock, the others find what it fetched.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors.spec import ModelError, WeightsOutOfReach
from actors.weights import cache

DONE_MARKER = ".vectormill-complete.json"
OTHER_FORMATS = ("onnx/", "openvino/")  # folders with the same model for other programs
STAYS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
OUT_OF_REACH = re.compile(
    r"[Cc]onnect|[Tt]imed? ?out|Timeout|resolve|Name or service|NETWORK|curlCode|SLOW_DOWN|SlowDown|reset by peer|"
    r"SERVICE_UNAVAILABLE|INTERNAL_FAILURE|HTTP status 5\d\d|objects changed"
)
OFFLINE_HELP = (
    "Without a network: download the model elsewhere (hf download NAME --local-dir FOLDER) and give the folder as "
    "weights; or point HF_HOME at a filled hub cache and set HF_HUB_OFFLINE=1; or use weights: bundled."
)


def from_hub(name: str, revision: str | None, endings: Sequence[str]) -> Path:
    """The snapshot of a hub id in the hub's own cache, which sees to it that each file is fetched once.

    Raises ModelError when it cannot be had.
    """
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[f"*{ending}" for ending in endings],
            ignore_patterns=[f"{folder}*" for folder in OTHER_FORMATS],
        )
    except Exception as error:  # the hub client lets errors of several libraries through
        raise _kind(error)(
            f"weights {name!r}: there is no local folder of that name, and it could not be had from the Hugging Face "
            f"hub{_at(revision)}: {type(error).__name__}: {_first_line(error)}. {OFFLINE_HELP}"
        ) from error
    return Path(found)


def from_modelscope(name: str, revision: str | None, endings: Sequence[str], known: Callable[[Path], bool]) -> Path:
    """The snapshot of a ModelScope id, in ModelScope's own cache.

    known(folder) says that a folder fetched before holds the very files wanted; then nobody is asked: the client would
    hash all of it on each call. Raises ModelError when the client is not installed or the model cannot be had.
    """
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"weights modelscope:{name}: the package modelscope is not installed here. Install it on every node (pip "
            "install 'vectormill[modelscope]'), or give a folder or a Hugging Face id as weights"
        ) from error
    try:
        record = cache.folder("modelscope") / f"{cache.key(name, revision, endings)}.json"
        with cache.locked(record):
            before = cache.read(record).get("folder")
            if before is not None and known(Path(before)):
                return Path(before)
            found = snapshot_download(
                name,
                revision=revision,
                allow_patterns=[f"*{ending}" for ending in endings],
                ignore_patterns=[f"{folder}*" for folder in OTHER_FORMATS],
            )
            cache.write(record, {"folder": found, "name": name, "revision": revision})
    except Exception as error:  # the client lets errors of several libraries through
        raise _kind(error)(
            f"weights modelscope:{name}: could not be had from ModelScope{_at(revision)}: {type(error).__name__}: "
            f"{_first_line(error)}. Without a network: download the model elsewhere (modelscope download NAME "
            "--local_dir FOLDER) and give the folder as weights"
        ) from error
    return Path(found)


def from_s3(uri: str, options: dict[str, str], endings: Sequence[str]) -> Path:
    """A copy of s3://bucket/folder in the local cache; it takes its final name when it is complete.

    The name is made from what S3 lists, so objects that changed are fetched again, beside the old copy.
    Raises ModelError when it cannot be had.
    """
    try:
        remote = _s3(options)
        listing = _list(remote, uri, endings)
        folder = cache.folder("weights") / cache.key(uri, options.get("endpoint_url"), listing)
        with cache.locked(folder):
            if not (folder / DONE_MARKER).exists():
                _copy_whole(remote, uri, listing, folder)
                if _list(remote, uri, endings) != listing:
                    shutil.rmtree(folder)
                    raise ValueError("its objects changed while they were copied")
    except (OSError, ValueError) as error:
        raise _kind(error)(
            f"weights {uri!r} could not be copied to this machine: {_first_line(error)}. Check the address, the "
            "endpoint and region, and the credentials of this machine; or copy the folder here and give its path"
        ) from error
    return folder


def _s3(options: dict[str, str]) -> Any:
    from pyarrow import fs

    unknown = set(options) - {"endpoint_url", "region", "anonymous"}
    if unknown:
        raise ModelError(f"s3 options of the weights: {', '.join(sorted(unknown))} not known")
    arguments: dict[str, Any] = {"anonymous": options.get("anonymous", "").lower() in ("true", "1", "yes")}
    if options.get("region"):
        arguments["region"] = options["region"]
    if options.get("endpoint_url"):
        arguments["endpoint_override"] = options["endpoint_url"]
    return fs.S3FileSystem(**arguments)


def _list(remote: Any, uri: str, endings: Sequence[str]) -> list[tuple[str, int, int]]:
    """(name below uri, size, mtime in ns) of the wanted objects, sorted."""
    from pyarrow import fs

    base = uri.removeprefix("s3://")
    infos = remote.get_file_info(fs.FileSelector(base, recursive=True))
    files = [(info.path.removeprefix(base).lstrip("/"), info.size, info.mtime_ns) for info in infos if info.is_file]
    wanted = [file for file in files if file[0].endswith(tuple(endings)) and not file[0].startswith(OTHER_FORMATS)]
    if not wanted:
        raise ModelError(f"weights {uri!r}: there are no model files under this address")
    return sorted(wanted)


def _copy_whole(remote: Any, uri: str, listing: Sequence[tuple[str, int, int]], folder: Path) -> None:
    """Copies the listed objects to `folder`, all or nothing. Its lock must be held."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    names = [name for name, _, _ in listing]
    try:
        for parent in {(partial / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda name: _copy(remote, f"{uri.removeprefix('s3://')}/{name}", partial / name), names))
        (partial / DONE_MARKER).write_text(json.dumps({"uri": uri, "files": names}, indent=1))
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(remote: Any, path: str, target: Path) -> None:
    from pyarrow import fs

    fs.copy_files(path, str(target), source_filesystem=remote, destination_filesystem=fs.LocalFileSystem())


def _kind(error: BaseException | None) -> type[ModelError]:
    """WeightsOutOfReach where the network or the other side is to blame; ModelError for what stays as it is: an answer
    of "no", a name that is none, a full disk, a client that was told to stay offline."""
    kind: type[ModelError] = ModelError
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
            return ModelError
        if type(error).__name__ == "OfflineModeIsEnabled" or getattr(error, "errno", None) in STAYS:
            return ModelError
        if isinstance(status, int) or OUT_OF_REACH.search(f"{type(error).__name__}: {error}"):
            kind = WeightsOutOfReach
        error = error.__cause__ or error.__context__
    return kind


def _at(revision: str | None) -> str:
    return f" at revision {revision}" if revision else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
