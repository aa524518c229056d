"""Whether a store refuses to overwrite on `If-None-Match: *`: the commit's fence leans on it."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from pipelines.config import StorageConfig
from pipelines.errors import StorageError, StorageRefused
from pipelines.storage.clients import call_s3
from pipelines.storage.faults import translate
from pipelines.storage.files import remove_file, write_bytes
from pipelines.storage.places import is_s3, split_s3
from pipelines.storage.retry import with_backoff


def check_conditional_put(uri: str, storage: StorageConfig) -> None:
    """Prove that the store under `uri` refuses to overwrite on `If-None-Match: *`, which the commit's fence leans on;
    for a local folder, that it can be written. Leaves nothing behind. Raises StorageError."""
    probe = f"{uri.rstrip('/')}/.vectormill-probe-{secrets.token_hex(8)}"
    if not is_s3(uri):
        write_bytes(probe, b"", storage)
        remove_file(probe, storage)
        return
    bucket, key = split_s3(probe)
    place = {"Bucket": bucket, "Key": key}
    # A first PUT that is refused was tried again after its answer got lost: as good a proof.
    refused = _is_refused(uri, place, storage) or _is_refused(uri, place, storage)
    with contextlib.suppress(StorageError):  # an empty object stays, and says what it is
        remove_file(probe, storage)
    if not refused:
        raise StorageRefused(_UNFIT.format(uri=uri))


_UNFIT = (
    "{uri}: this store ignores conditional PUTs (If-None-Match), so two runs could overwrite each other's commits and "
    "exactly-once cannot be kept; use AWS S3, a recent MinIO, Ceph or R2, or a local folder for table.uri"
)


def _is_refused(uri: str, place: dict[str, Any], storage: StorageConfig) -> bool:
    def put() -> bool:
        try:
            call_s3(storage, "put_object", {**place, "Body": b"", "IfNoneMatch": "*"})
        except Exception as bad:
            response = getattr(bad.__cause__, "response", None) or {}
            if response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                return True
            if "NotImplemented" in f"{bad!r} {bad.__cause__!r}":
                raise StorageRefused(_UNFIT.format(uri=uri)) from bad
            raise translate(bad, uri) from bad
        return False

    return with_backoff("checking for conditional PUTs", uri, put, first_contact=True)
