"""An HTTP proxy before an S3 server that does to requests what object stores and networks do.

    with FaultProxy(moto_url) as proxy:
        proxy.rules = [Rule("slow-down", kinds={"put", "list"}, probability=0.3), Rule("lost-answer", key="manifest")]
        ...  # endpoint_url: proxy.url
        proxy.rules = []  # may be changed while requests run
        assert proxy.injected["slow-down"]

The first rule that fires decides a request's fate. Whether a rule fires for the n-th request that it matches follows
from the proxy's seed and n alone. Signatures go through untouched but stand for another host: moto does not check them.
"""

from __future__ import annotations

import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

KINDS = frozenset({
    "put", "put-if-absent", "multipart-create", "multipart-part", "multipart-complete", "list", "get", "head",
    "delete", "other",
})  # fmt: skip
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "content-length", "te", "trailer"})
TRICKLES = 20  # pieces of a slow read
ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message>{}</Error>'
ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "slow-down": (503, "SlowDown", "Please reduce your request rate."),
    "expired-credentials": (400, "ExpiredToken", "The provided token has expired."),  # the status that S3 gives
    "access-denied": (403, "AccessDenied", "Access Denied"),
    "wrong-credentials": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."),
}
FAULTS = {
    **dict.fromkeys(ANSWERS, "an error in the store's place; nothing reaches it"),
    "hang": "no answer for `seconds`, then a closed connection; nothing reaches the store",
    "drop": "a closed connection; nothing reaches the store",
    "lost-answer": "the store does it, then the connection is closed",
    "lost-answer-500": "the store does it, then the answer is a 500",
    "slow-read": "the answer's body takes `seconds`",
    "truncated-read": "the right Content-Length, half of the body, a closed connection",
    "ignore-if-none-match": "a store that does not know conditional PUTs",
}


@dataclass(eq=False)
class Rule:
    """What to do to which requests.

    kinds: of KINDS; empty for all. key: a pattern searched in `bucket/key`. skip: so many matching requests pass first.
    times: fires at most so often. status: in place of an error's own. when: asked last, with `bucket/key`."""

    fault: str
    kinds: Collection[str] = ()
    key: str = ""
    probability: float = 1.0
    skip: int = 0
    times: int | None = None
    seconds: float = 30.0
    status: int | None = None
    when: Callable[[str], bool] | None = None
    seen: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert self.fault in FAULTS, f"{self.fault!r} is none of {sorted(FAULTS)}"
        assert set(self.kinds) <= KINDS, f"{set(self.kinds) - KINDS} are none of {sorted(KINDS)}"

    def fires(self, kind: str, key: str, seed: int) -> bool:
        if (self.kinds and kind not in self.kinds) or not re.search(self.key, key):
            return False
        self.seen += 1
        if self.seen <= self.skip or self.fired == self.times:
            return False
        if random.Random(f"{seed} {self.fault} {self.key} {self.seen}").random() >= self.probability:
            return False
        if self.when is not None and not self.when(key):
            return False
        self.fired += 1
        return True


def kind_of(method: str, path: str, headers: dict[str, str]) -> str:
    """What S3 operation a request is."""
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    has_key = "/" in url.path.strip("/")
    if method == "POST":
        kinds = {"uploads": "multipart-create", "uploadId": "multipart-complete", "delete": "delete"}
        return next((kind for name, kind in kinds.items() if name in query), "other")
    if method == "PUT" and has_key:
        if "partNumber" in query:
            return "multipart-part"
        return "put-if-absent" if "if-none-match" in headers else "put"
    if method == "GET":
        return "get" if has_key else "list"
    return {"HEAD": "head", "DELETE": "delete"}.get(method, "other")


class FaultProxy:
    """Listens on 127.0.0.1 while the block lasts. injected: faults by name. on: the same by (fault, kind of request).
    requests: all that came, by kind."""

    def __init__(self, upstream_url: str, seed: int = 0):
        self.upstream = urlsplit(upstream_url)
        self.seed = seed
        self.rules: list[Rule] = []
        self.injected: Counter[str] = Counter()
        self.on: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.closing = threading.Event()  # ends what hangs
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, bad: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fate(self, kind: str, key: str) -> Rule | None:
        """The rule that this request meets."""
        with self._lock:
            self.requests[kind] += 1
            for rule in list(self.rules):
                if rule.fires(kind, key, self.seed):
                    self.injected[rule.fault] += 1
                    self.on[rule.fault, kind] += 1
                    return rule
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer's head and body in one packet
    proxy: FaultProxy

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(headers)
        rule = self.proxy.fate(kind_of(self.command, self.path, headers), unquote(urlsplit(self.path).path)[1:])
        fault = rule.fault if rule is not None else ""
        if fault == "hang":
            self.proxy.closing.wait(rule.seconds if rule else 0)
        if fault in ("hang", "drop"):
            self._close()
        elif fault in ANSWERS:
            self._error(fault, rule.status if rule else None)
        else:
            try:
                response, content = self._forwarded(body, without_condition=fault == "ignore-if-none-match")
            except (OSError, HTTPException):
                self._close()  # as a proxy whose upstream is gone
                return
            if fault == "lost-answer":
                self._close()
            elif fault == "lost-answer-500":
                self._error("500", None)
            else:
                self._answer(response, content, fault, rule.seconds if rule else 0)

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" not in headers.get("transfer-encoding", ""):
            return self.rfile.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _forwarded(self, body: bytes, without_condition: bool) -> tuple[HTTPResponse, bytes]:
        dropped = HOP_BY_HOP | {"if-none-match"} if without_condition else HOP_BY_HOP
        connection = HTTPConnection(self.proxy.upstream.hostname or "", self.proxy.upstream.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in dropped:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def _answer(self, response: HTTPResponse, content: bytes, fault: str, seconds: float) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if fault == "truncated-read":
            self.wfile.write(content[: len(content) // 2])
            self._close()
        elif fault == "slow-read":
            piece = len(content) // TRICKLES + 1
            for at in range(0, len(content), piece):
                self.wfile.write(content[at : at + piece])
                self.wfile.flush()
                self.proxy.closing.wait(seconds / TRICKLES)
        else:
            self.wfile.write(content)

    def _error(self, fault: str, status: int | None) -> None:
        usual, code, message = ANSWERS[fault]
        told = ""
        if fault.endswith("credentials"):  # as S3 does: its answers quote the access key and the session token
            key = re.sub(".*Credential=|/.*", "", self.headers.get("Authorization", ""))
            token = self.headers.get("X-Amz-Security-Token", "")
            told = f"<AWSAccessKeyId>{key}</AWSAccessKeyId><Token-0>{token}</Token-0>"
        content = b"" if self.command == "HEAD" else ERROR.format(code, message, told).encode()
        self.send_response_only(status or usual)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _close(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
