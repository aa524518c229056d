"""The clients of stores: pyarrow for bulk reads (C++, no event loop), s3fs for listing and conditional PUTs, because
pyarrow shows neither etags nor `If-None-Match`, and what Lance's own client is told. Credentials come from the standard
AWS chain and pass through no code here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow.fs as pafs

from pipelines.config import StorageConfig
from pipelines.storage.faults import translate
from pipelines.storage.places import is_s3, local_path, split_s3

# What the client libraries do by themselves, all of it silently; what they give up is for retry.py.
ATTEMPTS = 3  # of a request, by pyarrow and by botocore, seconds apart
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30  # without a byte from the server; pyarrow and botocore
LANCE_RETRIES = 8  # of a request; all within about two seconds, unless the server is silent
LANCE_RETRY_SECONDS = 60  # no further retry when a request has taken so long
LANCE_REQUEST_SECONDS = 60  # a whole request, body included: 10 uploads of 5 MiB at once have to get through in it


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
        raise translate(bad, uri) from bad


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
def _s3fs_client(endpoint_url: str | None, region: str | None, anonymous: bool) -> Any:
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


def s3fs_client(storage: StorageConfig) -> Any:
    """The s3fs client of a store, one a process."""
    return _s3fs_client(storage.endpoint_url, storage.region, storage.anonymous)


def call_s3(storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """One call of the S3 API, with botocore's own retries. Raises what s3fs raises."""
    result: dict[str, Any] = s3fs_client(storage).call_s3(method, **arguments)
    return result


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
