"""Where things lie: local paths and `s3://` addresses, taken apart."""

from __future__ import annotations

import os

from pipelines.errors import ConfigError


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def local_path(uri: str) -> str:
    """The absolute path of a local uri (`~` and `file://` are understood). ConfigError for other schemes."""
    path = uri.removeprefix("file://")
    if "://" in path:
        raise ConfigError(f"{uri}: only local paths and s3:// are supported")
    return os.path.abspath(os.path.expanduser(path))


def split_s3(uri: str) -> tuple[str, str]:
    """(bucket, key) of an s3 uri, the key without a slash at its ends. ConfigError without a bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri} names no bucket; write it as s3://bucket/prefix")
    return bucket, key.strip("/")
