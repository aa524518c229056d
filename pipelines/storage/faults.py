"""What the failed call of a store means: what, where, what to do.

call ──fails──> translate ──> StoreUnavailable: another attempt may help (retry.py)
                          └─> any other error: it will not
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from pipelines.errors import (
    CorpusError,
    CredentialsRefused,
    StorageError,
    StorageRefused,
    StoreUnavailable,
    VectormillError,
)

STORE_ERRORS = (OSError, ValueError)  # what pyarrow, s3fs and Lance raise; Lance gives ValueError for some store errors

ENDPOINT = "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network"
LATER = "run the same command again when the store works"
# What stays as it is comes first: an error may name several things, such as a time-out while asking for credentials.
CAUSES: tuple[tuple[str, type[StorageError], str, str], ...] = (
    (r"No space left|Disk quota exceeded", StorageRefused, "the disk is full",
     "make room and run the same command again"),
    (r"Permission denied|Operation not permitted|Read-only file system", StorageRefused,
     "this user may not do that here", "check the path and its permissions"),
    (r"NoCredentials|locate credentials|Failed to get AWS credentials|CredentialsNotLoaded|no credentials",
     CredentialsRefused, "no credentials were found",
     "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role; a public bucket is read with "
     "storage.anonymous: true"),
    (r"ExpiredToken|RequestExpired|TokenRefreshRequired", CredentialsRefused, "the credentials have expired",
     "renew them and run the same command again; what is committed stays"),
    (r"NoSuchBucket|NO_SUCH_BUCKET|bucket does not exist", StorageRefused, "there is no such bucket",
     "check the bucket's name, storage.endpoint_url and storage.region"),
    (r"InvalidAccessKey|INVALID_ACCESS_KEY|SignatureDoesNotMatch|SIGNATURE_DOES_NOT|InvalidToken", CredentialsRefused,
     "the store does not accept these credentials", "renew them, or check that they belong to this endpoint"),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|Moved Permanently|HTTP status 301", StorageRefused,
     "the bucket is in another region", "set storage.region to the bucket's region"),
    (r"AccessDenied|ACCESS_DENIED|Forbidden|PermissionError|HTTP status 403", StorageRefused, "access is denied",
     "the credentials need s3:ListBucket and s3:GetObject, and for the table s3:PutObject and s3:DeleteObject"),
    (r"InvalidBucketName|Invalid bucket name", StorageRefused, "this is not a valid bucket name",
     "write it as s3://bucket/prefix"),
    (r"resolve host|getaddrinfo|Name or service not known|dns error|name resolution|DNSError|failed to lookup",
     StoreUnavailable, "the host name of the store's endpoint is unknown",
     "check storage.endpoint_url (or AWS_ENDPOINT_URL) and DNS"),
    (r"SlowDown|SLOW_DOWN|Slow Down|TooManyRequests|Throttl|reduce your request rate|Service ?Unavailable|"
     r"SERVICE_UNAVAILABLE|status(?: code:)? (?:503|429)\b|\((?:503|429)\)",
     StoreUnavailable, "the store asks for fewer requests (503)", LATER),
    (r"InternalError|INTERNAL_FAILURE|[Ii]nternal (?:[Ss]erver )?[Ee]rror|status(?: code:)? 5\d\d\b|\(5\d\d\)",
     StoreUnavailable, "the store failed inside (500)", LATER),
    (r"result for version \d+ is unknown", StoreUnavailable, "the answer to a commit was lost",
     "run the same command again: the table knows whether it landed"),
    (r"(?<!retry_)[Tt]imed? ?out|Timeout|Operation too slow", StoreUnavailable, "the store did not answer in time",
     "run the same command again, or check the network"),
    (r"curlCode: (?:18|52|56)|ConnectionClosed|Connection was closed|[Cc]onnection reset|Server disconnected|"
     r"IncompleteRead|body error|[Cc]onnection closed before",
     StoreUnavailable, "the connection broke", "run the same command again, or check the network"),
    (r"error sending request|ould not connect|ouldn't connect|Connect call failed|refused|NETWORK_CONNECTION|"
     r"ConnectionError|EndpointConnection|tcp connect",
     StoreUnavailable, "no server answers at the store's endpoint", ENDPOINT),
    (r"Bad Request|status(?: code:)? 400\b|\(400\)", CredentialsRefused,  # an answer to HEAD has no body that says more
     "the store refuses the request (400)", "mostly the credentials have expired: renew them and run again"),
)  # fmt: skip
# What a local disk may get over: the rest (no room, no permission, a file in the way) stays as it is.
PASSES = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
}
NEVER_REACHED = ("no server answers", "the host name")  # at a first contact a mistake, and not worth waiting for


def translate(error: BaseException, uri: str) -> VectormillError:
    """What a failed call means: what, where, what to do.

    Knows the errors of pyarrow, s3fs, botocore and Lance. Of other errors the type is shown and the own text only as
    far as no store wrote it: an answer of S3 may hold the access key and the session token. CorpusError for a missing
    file, StoreUnavailable where another attempt may help, CredentialsRefused, StorageRefused, else StorageError."""
    if isinstance(error, VectormillError):
        return error
    missing = isinstance(error, FileNotFoundError)
    if not uri.startswith("s3://") and isinstance(error, OSError) and error.strerror and not missing:
        kind = StorageError if error.errno in PASSES else StorageRefused
        return kind(f"{uri}: {error.strerror}; check the path, its permissions and the space on the disk")
    found: VectormillError | None = cause_of(error, uri)
    if found is None and missing:
        found = CorpusError(f"{uri}: there is nothing of this name; check the path")
    return found or StorageError(f"{uri}: the store failed ({type(error).__name__}: {shown(error)})")


def cause_of(error: BaseException, uri: str) -> StorageError | None:
    """The error in our words if it is one of CAUSES."""
    text = " ".join(_chain(error))
    named = re.sub(r"https?://[^\s\"'<>]+", " ", text).replace(uri.partition("//")[2] or uri, " ")
    for pattern, kind, what, advice in CAUSES:
        if re.search(pattern, named):
            url = re.search(r"https?://[^/\s\"'<>@]+(?=[/\s\"'<>]|$)", text)
            where = f" ({url[0]})" if url and "endpoint" in what else ""
            message = f"{uri}: {what}{where}; {advice}"
            return kind(message, what) if issubclass(kind, StoreUnavailable) else kind(message)
    return None


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or error.__context__


def shown(error: BaseException) -> str:
    """The first words of an error, without what a store answered."""
    return re.sub(r"<\?xml.*|<Error>.*", "...", " ".join(str(error).split()))[:200]
