"""The built-in origin: real flags (the GIFs of django-countries, MIT licence) over HTTP, with faults on demand."""

import re
import socket
import threading
from calendar import timegm
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate
from hashlib import sha256
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from random import Random
from socketserver import StreamRequestHandler, ThreadingTCPServer
from time import perf_counter
from typing import Literal, NamedTuple, Self, cast

from job.errors import Fault, UsageError

PATH = "/data/flags/{cc}/{cc}.gif"
_NOT_COUNTRIES = {"eu", "xk"}  # in the distribution, not in ISO 3166-1
_REQUEST_LINE = re.compile(rb"([!-~]+) (?:http://[^/?]*)?([/*][!->@-~]*)(?:\?[!-~]*)? HTTP/1\.([0-9])\r?\n")
_MAX_LINE, _MAX_FIELDS = 8192, 100
Injected = Literal["error", "truncate"]
_Answer = tuple[int, bytes, bytes]  # status; head, with places for the date and for Connection; body


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on purpose, all off by default; rates are shares of the requests, 0 to 1."""

    delay_seconds: tuple[float, float] | None = None  # drawn evenly between the two
    error_rate: float = 0.0  # 503
    retry_after_seconds: int | None = None  # a field of those 503
    truncate_rate: float = 0.0  # half of a body, announced whole, then the connection closes


@dataclass(frozen=True, slots=True)
class Request:
    """How one request was answered; its method and path (without query) are empty when it was malformed."""

    method: str
    path: str
    status: int
    sent_bytes: int  # of the body
    duration_seconds: float
    fault: Injected | None


class _Flag(NamedTuple):
    whole: _Answer
    not_modified: _Answer
    etag: bytes
    modified: int


def _answer(status: HTTPStatus, *fields: str, body: bytes = b"") -> _Answer:
    start = f"HTTP/1.1 {status.value} {status.phrase}", "Server: flagjob", "Date: %b%b"
    return status.value, "\r\n".join([*start, *fields, "", ""]).encode(), body


def _text(status: HTTPStatus, *fields: str) -> _Answer:
    body = f"{status.value} {status.phrase}\n".encode()
    return _answer(status, "Content-Type: text/plain", f"Content-Length: {len(body)}", *fields, body=body)


_BAD_REQUEST = _text(HTTPStatus.BAD_REQUEST)
_NOT_FOUND = _text(HTTPStatus.NOT_FOUND)
_NOT_ALLOWED = _text(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET, HEAD")


def load_flags(name: str = "django-countries") -> dict[str, _Flag]:
    """Read every ISO 3166-1 code's flag into memory (90 kB), by path; UsageError if distribution `name` has none."""
    files: list[Path] = []
    with suppress(PackageNotFoundError):
        directory = Path(str(distribution(name).locate_file("django_countries/static/flags")))
        files = [file for file in directory.glob("[a-z][a-z].gif") if file.stem not in _NOT_COUNTRIES]
    if not files:
        advice = "the built-in origin has no flags: pip install 'flagjob[origin]', or set FLAGJOB_URL"
        raise UsageError(Fault("FLAGJOB_SERVER", None, advice))
    return {PATH.format(cc=file.stem): _flag(file.read_bytes(), int(file.stat().st_mtime)) for file in files}


def _flag(body: bytes, modified: int) -> _Flag:
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    validators = f"ETag: {etag}", f"Last-Modified: {formatdate(modified, usegmt=True)}"
    whole = _answer(HTTPStatus.OK, "Content-Type: image/gif", f"Content-Length: {len(body)}", *validators, body=body)
    return _Flag(whole, _answer(HTTPStatus.NOT_MODIFIED, *validators), etag.encode(), modified)


def _choose(flags: Mapping[str, _Flag], method: str, path: str, fields: Mapping[bytes, bytes]) -> _Answer:
    if method not in ("GET", "HEAD"):
        return _NOT_ALLOWED if method else _BAD_REQUEST
    flag = flags.get(path)
    if flag is None:
        return _NOT_FOUND
    return flag.not_modified if _is_current(flag, fields) else flag.whole


def _is_current(flag: _Flag, fields: Mapping[bytes, bytes]) -> bool:
    """Whether the client's copy is the flag; If-None-Match goes before If-Modified-Since (RFC 9110, 13.2.2)."""
    tags = fields.get(b"if-none-match")
    if tags is not None:
        return tags == b"*" or flag.etag in re.findall(rb'"[^"]*"', tags)
    date = parsedate(fields.get(b"if-modified-since", b"").decode("latin-1"))
    try:
        return date is not None and flag.modified <= timegm(date)
    except (ValueError, OverflowError):
        return False  # no such date: as if the field were not there (RFC 9110, 13.1.3)


class _Connection(StreamRequestHandler):
    disable_nagle_algorithm = True
    server: "_Server"

    def handle(self) -> None:
        with suppress(OSError):  # the client went away
            while self._serve_one():
                pass
            # Read what is still coming (1 MiB at most), lest closing resets the answer away (RFC 9112, 9.6).
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            self.rfile.read(1 << 20)

    def _serve_one(self) -> bool:
        """Read and answer one request; False when the connection is to be closed."""
        line = self.rfile.readline(_MAX_LINE)
        if not line:
            return False
        began, server = perf_counter(), self.server
        method, path, fields, last = self._read(line)
        delay, fault = server.roll()
        if delay and server.stopping.wait(delay):
            return False
        chosen = server.unavailable if fault == "error" else _choose(server.flags, method, path, fields)
        status, head, body = chosen if method != "HEAD" else (*chosen[:2], b"")
        if fault == "truncate":
            body, fault = body[: len(body) // 2], fault if body else None
        # At once, for the second of two writes may wait for an ACK.
        self.connection.sendall(head % (server.date, b"\r\nConnection: close" * last) + body)
        if server.on_request:
            server.on_request(Request(method, path, status, len(body), perf_counter() - began, fault))
        return not last and fault != "truncate"

    def _read(self, line: bytes) -> tuple[str, str, Mapping[bytes, bytes], bool]:
        """Give method, path, fields (of one name the last counts) and whether the connection ends with this request."""
        first = _REQUEST_LINE.fullmatch(line)
        fields: dict[bytes, bytes] = {}
        for _ in range(_MAX_FIELDS if first else 0):
            line = self.rfile.readline(_MAX_LINE)
            name, colon, value = line.partition(b":")
            if not colon:
                break
            fields[name.lower()] = value.strip()
        if first is None or line not in (b"\r\n", b"\n"):
            return "", "", {}, True  # malformed
        has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"
        last = has_body or first[3] == b"0" or b"close" in fields.get(b"connection", b"").lower()
        return first[1].decode(), first[2].decode(), fields, last


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 1024  # more than the workers that may connect at once

    def __init__(self, origin: "DemoServer") -> None:
        self.flags, self.on_request, self._faults = load_flags(), origin.on_request, origin.faults
        wait = origin.faults.retry_after_seconds
        self.unavailable = _text(HTTPStatus.SERVICE_UNAVAILABLE, *() if wait is None else (f"Retry-After: {wait}",))
        self.stopping, self._lock = threading.Event(), threading.Lock()
        self._random = Random(origin.seed)  # noqa: S311  (chance, nothing secret); shared, guarded by the lock
        self._open: dict[threading.Thread, socket.socket] = {}  # of the accepting thread; of `end` when that is gone
        self.service_actions()
        self.address_family, _, _, _, address = socket.getaddrinfo(origin.bind, origin.port, type=socket.SOCK_STREAM)[0]
        super().__init__(cast("tuple[str, int]", address), _Connection)
        self._accepting = threading.Thread(target=self.serve_forever, name="origin", daemon=True)
        self._accepting.start()

    def service_actions(self) -> None:
        self.date = formatdate(usegmt=True).encode()  # called twice a second

    def roll(self) -> tuple[float, Injected | None]:
        """Give seconds to wait and what to inject; always three draws, so that one rate does not shift another."""
        with self._lock:
            delay = self._random.uniform(*self._faults.delay_seconds or (0.0, 0.0))
            error, truncate = self._random.random(), self._random.random()
        if error < self._faults.error_rate:
            return delay, "error"
        return delay, "truncate" if truncate < self._faults.truncate_rate else None

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._open = {known: connection for known, connection in self._open.items() if known.is_alive()}
        thread.start()
        self._open[thread] = cast("socket.socket", request)

    def end(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread on Linux; elsewhere it polls
        self.shutdown()
        self._accepting.join()
        for thread, connection in self._open.items():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
        self.server_close()


@dataclass(slots=True)
class DemoServer:
    """The server, as a context manager or by `start` and `stop`, both called by one thread.

    Listens on `bind`, a name or an address (IPv4, IPv6), at `port` (0: a free one); `url` is `http://HOST:PORT` once
    started. `on_request` is called in the serving thread after each answer, several at once, and must not call `stop`.
    A seed repeats the faults in their order.
    """

    bind: str = "127.0.0.1"
    port: int = 0
    faults: Faults = Faults()
    on_request: Callable[[Request], None] | None = None
    seed: int | None = None
    url: str = field(default="", init=False)
    _server: _Server | None = field(default=None, init=False)

    def start(self) -> Self:
        """Listen and serve in threads of its own; UsageError when there are no flags or the port cannot be had."""
        try:
            self._server = server = _Server(self)
        except OSError as error:
            problem = f"cannot listen on {self.bind}: {error.strerror}"
            raise UsageError(Fault("--port", str(self.port), problem)) from error
        host, port = server.socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    def stop(self) -> None:
        """End at once, delays and open connections too; no thread or socket stays. Harmless when not started."""
        if self._server:
            self._server.end()
            self._server = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()
