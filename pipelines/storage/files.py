"""Files and objects, by the same verbs on a disk and in a store: list, head, read, write, remove. Errors are those a
person can act on.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow.fs as pafs

from pipelines.config import StorageConfig
from pipelines.storage.clients import call_s3, filesystem_for, s3fs_client
from pipelines.storage.faults import translate
from pipelines.storage.places import is_s3, local_path, split_s3
from pipelines.storage.retry import with_backoff

Found = tuple[str, int, str]  # path below the listed folder, size in bytes, stamp


def list_s3(uri: str, storage: StorageConfig) -> Iterator[Found]:
    """Every object below the folder `uri`, in the store's order. Raises StorageError."""
    bucket, key = split_s3(uri)
    prefix = f"{key}/" if key else ""
    arguments = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = with_backoff("listing", uri, lambda: _translated(uri, storage, "list_objects_v2", arguments), True)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield item["Key"][len(prefix) :], item["Size"], _etag(item)
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


def first_keys(folder: str, prefix: str, storage: StorageConfig) -> list[str]:
    """Up to 1,000 objects below a folder of a store whose names there begin so, by one request. Raises StorageError."""
    bucket, key = split_s3(folder)
    base = f"{key}/" if key else ""
    arguments = {"Bucket": bucket, "Prefix": base + prefix}
    page = with_backoff("listing", folder, lambda: _translated(folder, storage, "list_objects_v2", arguments), True)
    return [item["Key"][len(base) :] for item in page.get("Contents", ())]


def _translated(uri: str, storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Raises VectormillError."""
    try:
        return call_s3(storage, method, arguments)
    except Exception as bad:
        raise translate(bad, uri) from bad


def head(uri: str, storage: StorageConfig) -> tuple[int, str] | None:
    """Size in bytes and stamp of one file or object, None where there is none. Raises StorageError."""
    try:
        if not is_s3(uri):
            status = os.stat(local_path(uri))
            return status.st_size, local_stamp(status)
        bucket, key = split_s3(uri)
        item = call_s3(storage, "head_object", {"Bucket": bucket, "Key": key})
    except FileNotFoundError:
        return None
    except Exception as bad:
        raise translate(bad, uri) from bad
    return item["ContentLength"], _etag(item)


def local_stamp(status: os.stat_result) -> str:
    """What the file system says of a file's version. Its modification time may be set to anything, and is by whatever
    copies a file with its times; the time of the last change to the inode, and which inode it is, are not."""
    return f"mtime:{status.st_mtime_ns},ctime:{status.st_ctime_ns},inode:{status.st_ino}"


def modified(stamp: str) -> str:
    """The part of a stamp that every honest write changes."""
    return stamp.partition(",")[0]


def _etag(item: dict[str, Any]) -> str:
    etag = item.get("ETag", "").strip('"')
    return f"etag:{etag}" if etag else f"mtime:{int(item['LastModified'].timestamp() * 1e9)}"


def entries(uri: str, storage: StorageConfig) -> list[tuple[str, datetime]]:
    """(name, time of the last change in UTC) of each file right in a folder, none where there is no such
    folder. Raises StorageError."""
    filesystem, path = filesystem_for(uri, storage)
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return [(info.base_name, info.mtime) for info in found]
    except OSError as bad:
        raise translate(bad, uri) from bad


def remove_file(uri: str, storage: StorageConfig) -> None:
    """Nothing happens where there is none. Raises StorageError."""
    try:
        if is_s3(uri):  # not by pyarrow, which would put a marker where a folder becomes empty
            bucket, key = split_s3(uri)
            call_s3(storage, "delete_object", {"Bucket": bucket, "Key": key})
        else:
            with contextlib.suppress(FileNotFoundError):  # removed by somebody else, or by an attempt before
                os.remove(local_path(uri))
    except Exception as bad:
        raise translate(bad, uri) from bad


def remove_folder(uri: str, storage: StorageConfig) -> None:
    """With all that is in it. Raises StorageError, CorpusError where there is no such folder."""
    filesystem, path = filesystem_for(uri, storage)
    try:
        filesystem.delete_dir(path)
    except OSError as bad:
        raise translate(bad, uri) from bad


def read_bytes(uri: str, storage: StorageConfig) -> bytes | None:
    """A small file whole, None where there is none. Raises StorageError."""
    filesystem, path = filesystem_for(uri, storage)
    try:
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None
    except OSError as bad:
        raise translate(bad, uri) from bad


def write_bytes(uri: str, content: bytes, storage: StorageConfig) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part. Raises StorageError."""
    try:
        if is_s3(uri):
            bucket, key = split_s3(uri)
            call_s3(storage, "put_object", {"Bucket": bucket, "Key": key, "Body": content})
            return
        path = local_path(uri)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(6)}.tmp"
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
    except Exception as bad:
        raise translate(bad, uri) from bad


@contextlib.contextmanager
def writing(uri: str, storage: StorageConfig) -> Iterator[Any]:
    """A binary stream to a file of any size, which appears whole when the block ends and not at all if it raises: a
    reader sees the old content or the new. Raises StorageError."""
    try:
        if is_s3(uri):
            bucket, key = split_s3(uri)
            stream = s3fs_client(storage).open(f"{bucket}/{key}", "wb", autocommit=False)
            finish, give_up = stream.commit, stream.discard
        else:
            path = local_path(uri)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{secrets.token_hex(6)}.tmp"
            stream = open(temporary, "wb")  # noqa: SIM115 - closed before it gets its name
            finish, give_up = partial(os.replace, temporary, path), partial(os.remove, temporary)
        try:
            with stream:
                yield stream
            finish()
        except BaseException:
            give_up()
            raise
    except OSError as bad:
        raise translate(bad, uri) from bad


def read_json(uri: str, storage: StorageConfig) -> Any:
    """A side file's JSON; None where there is none or it is not JSON (side files are caches). Raises StorageError."""
    content = read_bytes(uri, storage)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None


def write_json(uri: str, data: Any, storage: StorageConfig) -> None:
    """Write a side file at once, as `write_bytes` does. Raises StorageError."""
    write_bytes(uri, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n", storage)
