"""What tools leave beside data: markers of folders in object stores, and what Hugging Face's `save_to_disk` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import accumulate

from pipelines.config import StorageConfig
from pipelines.corpus.broken import BrokenFile
from pipelines.corpus.shard_file import extension
from pipelines.errors import CorpusError
from pipelines.storage.files import Found, head, read_bytes

MARKER = "_$folder$"  # as Hadoop's older clients of S3 write it
STATE, DICT = "state.json", "dataset_dict.json"
OF_A_DATASET = (STATE, "dataset_info.json")


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def is_object(uri: str, storage: StorageConfig) -> bool:
    """Whether there is one, and not an empty one without an extension, which stands for the folder of its name.

    Raises StorageError."""
    status = head(uri, storage)
    return status is not None and (status[0] > 0 or bool(extension(uri)))


def without_markers(found: Iterable[Found]) -> list[Found]:
    """Without empty objects that stand for a folder: of the folder's own name, or with MARKER at its end."""
    files = list(found)
    folders: set[str] = set()
    if any(not size for _, size, _ in files):
        for path, _, _ in files:
            folders.update(accumulate(path.split("/")[:-1], _below))
    return [one for one in files if one[1] or not (one[0] in folders or one[0].endswith(MARKER))]


def data_of(
    found: Iterable[Found], uri: Callable[[str], str], storage: StorageConfig, broken: list[BrokenFile]
) -> list[Found]:
    """What of a listing is data where `save_to_disk` wrote: not its JSON, nor Arrow files that this JSON does not name,
    such as those of an earlier save or of a cache. Files that it names and that are not there are added to `broken`.
    uri: of a path. Raises CorpusError, StorageError."""
    files = list(found)
    arrow = {folder_of(path) for path, _, _ in files if path.endswith(".arrow")}
    states = [path for path, _, _ in files if path.rpartition("/")[2] == STATE and folder_of(path) in arrow]
    if not states:
        return files
    named = {folder_of(path): _named(uri(path), read_bytes(uri(path), storage)) for path in states}
    left_out = {_below(folder, name) for folder in named for name in OF_A_DATASET}
    left_out |= {_below(folder_of(folder), DICT) for folder in named if folder}
    wanted = {_below(folder, name) for folder, names in named.items() for name in names}
    taken = []
    for one in files:
        folder = folder_of(one[0])
        chooses = bool(named.get(folder)) and one[0].endswith(".arrow")
        if one[0] in wanted if chooses else one[0] not in left_out:
            taken.append(one)
    for path in sorted(wanted - {path for path, _, _ in files}):
        broken.append(BrokenFile(uri(path), f"{uri(path)} is named in the {STATE} beside it, and is not there"))
    return taken


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _named(path: str, content: bytes | None) -> set[str]:
    try:
        state = json.loads(content or b"")
        names = {file["filename"] for file in state["_data_files"]}
        subset = state.get("_indices_data_files") or state.get("_indices_files")
    except (ValueError, TypeError, KeyError, AttributeError) as bad:
        raise CorpusError(f"{path} beside Arrow files is not what datasets' save_to_disk writes; remove it") from bad
    if subset:
        raise CorpusError(
            f"{path}: this dataset is a selection of the rows in its files, kept in other files; call "
            "flatten_indices() and save_to_disk() again"
        )
    return names
