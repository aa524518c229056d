"""Object storage and local disk behind one seam: open, list, head, small side files, and errors a person can act on.

Bulk reads go through pyarrow (C++, no event loop); listing and conditional PUTs go through s3fs, because pyarrow
shows neither etags nor `If-None-Match`. Credentials come from the standard AWS chain and pass through no code here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import pyarrow.fs as pafs

from pipelines.config import StorageConfig
from pipelines.errors import StorageError
from pipelines.storage.retry import explain, patiently

# What the client libraries do by themselves, all of it silently; what they give up is for pipelines.storage.retry.
ATTEMPTS = 3  # of a request, by pyarrow and by botocore, seconds apart
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30  # without a byte from the server; pyarrow and botocore
LANCE_RETRIES = 8  # of a request; all within about two seconds, unless the server is silent
LANCE_RETRY_SECONDS = 60  # no further retry when a request has taken so long
LANCE_REQUEST_SECONDS = 60  # a whole request, body included: 10 uploads of 5 MiB at once have to get through in it
Found = tuple[str, int, str]  # path below the listed folder, size in bytes, stamp


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def local_path(uri: str) -> str:
    """The absolute path of a local uri (`~` and `file://` are understood). StorageError for other schemes."""
    path = uri.removeprefix("file://")
    if "://" in path:
        raise StorageError(f"{uri}: only local paths and s3:// are supported")
    return os.path.abspath(os.path.expanduser(path))


def split_s3(uri: str) -> tuple[str, str]:
    """(bucket, key) of an s3 uri, the key without a slash at its ends. StorageError without a bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{uri} names no bucket; write it as s3://bucket/prefix")
    return bucket, key.strip("/")


def filesystem_for(uri: str, storage: StorageConfig) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system that holds `uri`, and the path of `uri` in it. Raises StorageError."""
    if not is_s3(uri):
        return pafs.LocalFileSystem(), local_path(uri)
    bucket, key = split_s3(uri)
    region = storage.region
    try:
        if region is None and storage.endpoint_url is None:
            region = _bucket_region(bucket)
        return _arrow_s3(storage.endpoint_url, region, storage.anonymous), f"{bucket}/{key}" if key else bucket
    except OSError as bad:
        raise explain(bad, uri) from bad


@lru_cache(maxsize=64)
def _bucket_region(bucket: str) -> str:
    return str(pafs.resolve_s3_region(bucket))


@lru_cache(maxsize=16)
def _arrow_s3(endpoint_url: str | None, region: str | None, anonymous: bool) -> pafs.FileSystem:
    scheme, _, host = (endpoint_url or "https://").rpartition("//")
    return pafs.S3FileSystem(
        anonymous=anonymous,
        region=region,
        scheme="http" if scheme == "http:" else "https",
        endpoint_override=host.rstrip("/") or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENCE_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@lru_cache(maxsize=16)
def _s3fs(endpoint_url: str | None, region: str | None, anonymous: bool) -> Any:
    import s3fs  # 0.4 s that local corpora need not pay

    client = s3fs.S3FileSystem(
        anon=anonymous,
        endpoint_url=endpoint_url,
        client_kwargs={"region_name": region} if region else None,
        config_kwargs={
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
        },
        use_listings_cache=False,
    )
    client.retries = 1  # its own five, around those of botocore, would keep a wrong endpoint secret for a minute
    return client


def _call_s3(storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    client = _s3fs(storage.endpoint_url, storage.region, storage.anonymous)
    result: dict[str, Any] = client.call_s3(method, **arguments)
    return result


def _explained(uri: str, storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Raises VectormillError."""
    try:
        return _call_s3(storage, method, arguments)
    except Exception as bad:
        raise explain(bad, uri) from bad


def list_s3(uri: str, storage: StorageConfig) -> Iterator[Found]:
    """Every object below the folder `uri`, in the store's order. Raises StorageError."""
    bucket, key = split_s3(uri)
    prefix = f"{key}/" if key else ""
    arguments = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = patiently("listing", uri, lambda: _explained(uri, storage, "list_objects_v2", arguments), True)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield item["Key"][len(prefix) :], item["Size"], _etag(item)
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


def head(uri: str, storage: StorageConfig) -> tuple[int, str] | None:
    """Size in bytes and stamp of one file or object, None where there is none. Raises StorageError."""
    try:
        if not is_s3(uri):
            status = os.stat(local_path(uri))
            return status.st_size, f"mtime:{status.st_mtime_ns}"
        bucket, key = split_s3(uri)
        item = _call_s3(storage, "head_object", {"Bucket": bucket, "Key": key})
    except FileNotFoundError:
        return None
    except Exception as bad:
        raise explain(bad, uri) from bad
    return item["ContentLength"], _etag(item)


def _etag(item: dict[str, Any]) -> str:
    etag = item.get("ETag", "").strip('"')
    return f"etag:{etag}" if etag else f"mtime:{int(item['LastModified'].timestamp() * 1e9)}"


def lance_options(storage: StorageConfig) -> dict[str, str]:
    """What Lance needs to know of the store; never credentials, which Lance finds by the standard chain."""
    options = {
        "client_max_retries": f"{LANCE_RETRIES}",
        "client_retry_timeout": f"{LANCE_RETRY_SECONDS}",
        "lance_aimd_max_retries": "0",  # a second layer, whose attempts would multiply those of the first
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "timeout": f"{LANCE_REQUEST_SECONDS}s",
    }
    if storage.endpoint_url:
        options["aws_endpoint"] = storage.endpoint_url
    if storage.region or storage.endpoint_url:
        options["aws_region"] = storage.region or "us-east-1"
    if (storage.endpoint_url or "").startswith("http://"):
        options["allow_http"] = "true"
    if storage.anonymous:
        options["aws_skip_signature"] = "true"
    return options


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
        raise explain(bad, uri) from bad


def write_bytes(uri: str, content: bytes, storage: StorageConfig) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part. Raises StorageError."""
    try:
        if is_s3(uri):
            bucket, key = split_s3(uri)
            _call_s3(storage, "put_object", {"Bucket": bucket, "Key": key, "Body": content})
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
        raise explain(bad, uri) from bad


@contextlib.contextmanager
def writing(uri: str, storage: StorageConfig) -> Iterator[Any]:
    """A binary stream to a file of any size, which appears whole when the block ends and not at all if it raises: a
    reader sees the old content or the new. Raises StorageError."""
    try:
        if is_s3(uri):
            bucket, key = split_s3(uri)
            stream = _s3fs(storage.endpoint_url, storage.region, storage.anonymous).open(
                f"{bucket}/{key}", "wb", autocommit=False
            )
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
        raise explain(bad, uri) from bad


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


def check_conditional_put(uri: str, storage: StorageConfig) -> None:
    """Prove that the store under `uri` refuses to overwrite on `If-None-Match: *`, which the commit's fence leans on;
    for a local folder, that it can be written. Leaves nothing behind. Raises StorageError."""
    probe = f"{uri.rstrip('/')}/.vectormill-probe-{secrets.token_hex(8)}"
    if not is_s3(uri):
        write_bytes(probe, b"", storage)
        os.remove(local_path(probe))
        return
    bucket, key = split_s3(probe)
    place = {"Bucket": bucket, "Key": key}
    # A first PUT that is refused was tried again after its answer got lost: as good a proof.
    refused = _is_refused(uri, place, storage) or _is_refused(uri, place, storage)
    with contextlib.suppress(StorageError):  # an empty object stays, and says what it is
        _explained(uri, storage, "delete_object", place)
    if not refused:
        raise StorageError(_UNFIT.format(uri=uri))


_UNFIT = (
    "{uri}: this store ignores conditional PUTs (If-None-Match), so two runs could overwrite each other's commits and "
    "exactly-once cannot be kept; use AWS S3, a recent MinIO, Ceph or R2, or a local folder for table.uri"
)


def _is_refused(uri: str, place: dict[str, Any], storage: StorageConfig) -> bool:
    def put() -> bool:
        try:
            _call_s3(storage, "put_object", {**place, "Body": b"", "IfNoneMatch": "*"})
        except Exception as bad:
            response = getattr(bad.__cause__, "response", None) or {}
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                return True
            if "NotImplemented" in f"{bad!r} {bad.__cause__!r}":
                raise StorageError(_UNFIT.format(uri=uri)) from bad
            raise explain(bad, uri) from bad
        return False

    return patiently("checking for conditional PUTs", uri, put, first_contact=True)
