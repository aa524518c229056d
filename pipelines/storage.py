"""Object storage and local disk behind one seam: open, list, head, small side files, and errors a person can act on.

Bulk reads go through pyarrow (C++, no event loop); listing and conditional PUTs go through s3fs, because pyarrow
shows neither etags nor `If-None-Match`. Credentials come from the standard AWS chain and pass through no code here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from pipelines.config import StorageConfig
from pipelines.errors import CorpusError, StorageError, VectormillError

ATTEMPTS = 4
CONNECT_SECONDS = 10
REQUEST_SECONDS = 60
Found = tuple[str, int, str]  # path below the listed folder, size in bytes, stamp

CAUSES = (
    (r"No space left|Disk quota exceeded", "the disk is full", "make room and run the same command again"),
    (r"error sending request", "no server answers at the store's endpoint",
     "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network"),
    (r"NoCredentials|locate credentials|Failed to get AWS credentials|CredentialsNotLoaded|no credentials",
     "no credentials were found",
     "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role; a public bucket is read with "
     "storage.anonymous: true"),
    (r"NoSuchBucket|NO_SUCH_BUCKET|bucket does not exist", "there is no such bucket",
     "check the bucket's name, storage.endpoint_url and storage.region"),
    (r"InvalidAccessKey|INVALID_ACCESS_KEY|SignatureDoesNotMatch|SIGNATURE_DOES_NOT|ExpiredToken|InvalidToken",
     "the store does not accept these credentials", "renew them, or check that they belong to this endpoint"),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|Moved Permanently|HTTP status 301",
     "the bucket is in another region", "set storage.region to the bucket's region"),
    (r"AccessDenied|ACCESS_DENIED|Forbidden|PermissionError|HTTP status 403", "access is denied",
     "the credentials need s3:ListBucket and s3:GetObject, and for the table s3:PutObject and s3:DeleteObject"),
    (r"resolve host|getaddrinfo|Name or service not known|dns error|name resolution|DNSError|failed to lookup",
     "the host name of the store's endpoint is unknown", "check storage.endpoint_url (or AWS_ENDPOINT_URL) and DNS"),
    (r"ould not connect|ouldn't connect|Connect call failed|refused|NETWORK_CONNECTION|ConnectionError|tcp connect",
     "no server answers at the store's endpoint", "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network"),
    (r"[Tt]imed? ?out|Timeout", "the store did not answer in time", "run the same command again, or check the network"),
    (r"InvalidBucketName|Invalid bucket name", "this is not a valid bucket name", "write it as s3://bucket/prefix"),
)  # fmt: skip


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
        request_timeout=REQUEST_SECONDS,
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
            "read_timeout": REQUEST_SECONDS,
            "retries": {"max_attempts": ATTEMPTS, "mode": "standard"},
        },
        use_listings_cache=False,
    )
    client.retries = 1  # its own five, around those of botocore, would keep a wrong endpoint secret for a minute
    return client


def _call_s3(storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    client = _s3fs(storage.endpoint_url, storage.region, storage.anonymous)
    result: dict[str, Any] = client.call_s3(method, **arguments)
    return result


def list_s3(uri: str, storage: StorageConfig) -> Iterator[Found]:
    """Every object below the folder `uri`, in the store's order. Raises StorageError."""
    bucket, key = split_s3(uri)
    prefix = f"{key}/" if key else ""
    arguments = {"Bucket": bucket, "Prefix": prefix}
    while True:
        try:
            page = _call_s3(storage, "list_objects_v2", arguments)
        except Exception as bad:
            raise explain(bad, uri) from bad
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
    options = {}
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


def explain(error: BaseException, uri: str) -> VectormillError:
    """What a failed call means: what, where, what to do (CorpusError for a missing file, else StorageError).

    Knows the errors of pyarrow, s3fs, botocore and Lance; only of other errors is the own text shown."""
    if isinstance(error, VectormillError):
        return error
    if not is_s3(uri) and isinstance(error, OSError) and error.strerror and not isinstance(error, FileNotFoundError):
        return StorageError(f"{uri}: {error.strerror}; check the path, its permissions and the space on the disk")
    text = " ".join(_chain(error))
    for pattern, what, advice in CAUSES:
        if re.search(pattern, text):
            url = re.search(r"https?://[^/\s\"'<>@]+(?=[/\s\"'<>]|$)", text)
            where = f" ({url[0]})" if url and "endpoint" in what else ""
            return StorageError(f"{uri}: {what}{where}; {advice}")
    if isinstance(error, FileNotFoundError):
        return CorpusError(f"{uri}: there is nothing of this name; check the path")
    return StorageError(f"{uri}: the store failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


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
    try:
        # A first PUT that is refused was retried by the client after its answer got lost: as good a proof.
        refused = _is_refused(place, storage) or _is_refused(place, storage)
        with contextlib.suppress(PermissionError):
            _call_s3(storage, "delete_object", place)
    except Exception as bad:
        if "NotImplemented" in " ".join(_chain(bad)):
            raise StorageError(_UNFIT.format(uri=uri)) from bad
        raise explain(bad, uri) from bad
    if not refused:
        raise StorageError(_UNFIT.format(uri=uri))


_UNFIT = (
    "{uri}: this store ignores conditional PUTs (If-None-Match), so two runs could overwrite each other's commits and "
    "exactly-once cannot be kept; use AWS S3, a recent MinIO, Ceph or R2, or a local folder for table.uri"
)


def _is_refused(place: dict[str, Any], storage: StorageConfig) -> bool:
    try:
        _call_s3(storage, "put_object", {**place, "Body": b"", "IfNoneMatch": "*"})
    except OSError as bad:
        response = getattr(bad.__cause__, "response", None) or {}
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
            return True
        raise
    return False
