"""Demo server: serves real flags (the GIFs of django-countries, MIT licence) over HTTP, with injected faults."""

import re
import socket
import socketserver
from calendar import timegm
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from random import Random
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Literal, Self, cast

from job.errors import Fault, UsageError

PATH = "/data/flags/{cc}/{cc}.gif"
_NOT_COUNTRIES = {"eu", "xk"}
"""Flags of the distribution whose codes are not in ISO 3166-1."""
_REQUEST_LINE = re.compile(
    rb"(?P<method>[!-~]+) (?:http://[^/?]*)?(?P<path>[/*][!->@-~]*)(?:\?[!-~]*)? HTTP/1\.(?P<minor_version>[0-9])\r?\n"
)
"""RFC 9112, section 3, in printable ASCII: a target in origin form, absolute form or asterisk form."""
_LINE_MAX_BYTES = 8192
_FIELDS_MAX = 99
_ANSWER_BUFFER_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1024 * 1024

InjectedFault = Literal["error", "truncate"]


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults to inject, all off by default. Rates are shares of the requests, 0 to 1."""

    delay_seconds: tuple[float, float] | None = None
    """Each answer waits for a time drawn evenly between these two."""
    error_rate: float = 0.0
    """Answers with status 503."""
    retry_after_seconds: int | None = None
    """The Retry-After field of those 503."""
    truncate_rate: float = 0.0
    """Answers whose connection closes after half of the announced body."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request and how it was answered. Method and path are empty if the request was malformed."""

    method: str
    path: str
    """Without the query."""
    status: int
    sent_bytes: int
    """Of the body."""
    duration_seconds: float
    fault: InjectedFault | None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Flag:
    full: _Answer
    not_modified: _Answer
    etag: str
    modified: int
    """Unix time in seconds."""


def find_flags(name: str = "django-countries") -> dict[str, Path]:
    """Return the files of the flags of all ISO 3166-1 codes by URL path; raise UsageError if `name` is not installed.

    They are data files of the distribution `name`, whose code is never imported.
    """
    files: list[Path] = []
    with suppress(PackageNotFoundError):
        directory = Path(str(distribution(name).locate_file("django_countries/static/flags")))
        files = [file for file in directory.glob("[a-z][a-z].gif") if file.stem not in _NOT_COUNTRIES]
    if not files:
        advice = "the built-in origin has no flags: pip install 'flagjob[origin]', or set FLAGJOB_URL"
        raise UsageError(Fault("FLAGJOB_SERVER", None, advice))
    return {PATH.format(cc=file.stem): file for file in files}


@cache
def _read_flag(file: Path) -> _Flag:
    """Read a flag once: all together are 90 kB, but a short run asks for few of them."""
    body = file.read_bytes()
    modified = int(file.stat().st_mtime)
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    validators = (("ETag", etag), ("Last-Modified", formatdate(modified, usegmt=True)))
    content = (("Content-Type", "image/gif"), ("Content-Length", str(len(body))))
    return _Flag(
        full=_Answer(HTTPStatus.OK, content + validators, body),
        not_modified=_Answer(HTTPStatus.NOT_MODIFIED, validators),
        etag=etag,
        modified=modified,
    )


def _text_answer(status: HTTPStatus, *fields: tuple[str, str]) -> _Answer:
    """Return an answer whose body is its status line."""
    body = f"{status.value} {status.phrase}\n".encode()
    return _Answer(status, (("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *fields), body)


_NOT_FOUND = _text_answer(HTTPStatus.NOT_FOUND)
_NOT_ALLOWED = _text_answer(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))


def _is_current(flag: _Flag, fields: Mapping[str, str]) -> bool:
    """Return whether the client's copy is the flag; If-None-Match precedes If-Modified-Since (RFC 9110, 13.2.2)."""
    tags = fields.get("if-none-match")
    if tags is not None:
        return tags == "*" or flag.etag in re.findall('"[^"]*"', tags)
    date = parsedate(fields.get("if-modified-since", ""))
    try:
        return date is not None and flag.modified <= timegm(date)
    except (ValueError, OverflowError):
        return False  # an invalid date is ignored (RFC 9110, 13.1.3)


class _RequestHandler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, on a thread of its own."""

    server: "_FlagServer"
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # An answer is collected here and sent by one write: the second of two writes would cost another packet.
    wbufsize = _ANSWER_BUFFER_BYTES

    def handle(self) -> None:
        """Answer requests until the connection is to be closed, then let the client read the last answer."""
        super().handle()
        # If the socket was closed while the client still sends (a request body, for example), the kernel would send
        # a reset, and the client could lose the answer. So end our side first, and read the rest (RFC 9112, 9.6).
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(_LINGER_SECONDS)
        self.rfile.read(_LINGER_BYTES)

    def handle_one_request(self) -> None:
        """Answer one request. First discard the request before it, in case this one is refused before it is parsed."""
        self.command = ""
        self.path = ""
        self.request_version = self.protocol_version
        self._began = perf_counter()
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Parse the request line and the header; return whether the request can be answered.

        Replaces the base class's method, for speed and strictness. That method uses the parser of the email package,
        which takes longer than the rest of an answer; it waits for the header of an HTTP/0.9 request, which has none;
        and it accepts control characters in the target, a header line without a colon, and a header that breaks off.
        """
        self._began = perf_counter()
        is_short = len(self.raw_requestline) <= _LINE_MAX_BYTES
        request_line = _REQUEST_LINE.fullmatch(self.raw_requestline) if is_short else None
        fields = self._read_header() if request_line else None
        if request_line is None or fields is None:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        self.command = request_line["method"].decode()
        self.path = request_line["path"].decode()
        self._fields = fields
        # A request body is not read, so what follows it is not the next request.
        has_body = "transfer-encoding" in fields or fields.get("content-length", "0") != "0"
        is_last = request_line["minor_version"] == b"0" or "close" in fields.get("connection", "").lower()
        self.close_connection = has_body or is_last
        return True

    def _read_header(self) -> dict[str, str] | None:
        """Return the fields by their names in lower case, the last of equal names; None for a malformed header."""
        fields: dict[str, str] = {}
        for _ in range(_FIELDS_MAX + 1):
            line = self.rfile.readline(_LINE_MAX_BYTES)
            if line in {b"\r\n", b"\n"}:
                return fields
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                return None
            fields[name.lower()] = value.strip()
        return None

    def do_GET(self) -> None:
        """Answer GET or HEAD with a flag, 304 or 404."""
        file = self.server.flags.get(self.path)
        if file is None:
            self._answer_with_faults(_NOT_FOUND)
            return
        flag = _read_flag(file)
        self._answer_with_faults(flag.not_modified if _is_current(flag, self._fields) else flag.full)

    def do_POST(self) -> None:
        """Answer any other known method with 405; the base class answers an unknown one with 501."""
        self._answer_with_faults(_NOT_ALLOWED)

    do_HEAD = do_GET  # noqa: N815  (the base class calls it by this name)
    do_PUT = do_POST  # noqa: N815  (the base class calls it by this name)
    do_PATCH = do_POST  # noqa: N815  (the base class calls it by this name)
    do_DELETE = do_POST  # noqa: N815  (the base class calls it by this name)
    do_OPTIONS = do_POST  # noqa: N815  (the base class calls it by this name)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002  (the base class's parameters)
        """Answer a request that cannot be served with one line of text, and close the connection."""
        self.close_connection = True
        self._send(_text_answer(HTTPStatus(code)), fault=None)

    def _answer_with_faults(self, answer: _Answer) -> None:
        """Send an answer after its delay, or the fault that is injected in its place."""
        delay_seconds, fault = self.server.draw_faults()
        if delay_seconds and self.server.stopping.wait(delay_seconds):
            self.close_connection = True
            return
        if fault == "error":
            answer = self.server.unavailable
        has_body = bool(answer.body) and self.command != "HEAD"
        if fault == "truncate" and not has_body:
            fault = None
        self._send(answer, fault)

    def _send(self, answer: _Answer, fault: InjectedFault | None) -> None:
        body = b"" if self.command == "HEAD" else answer.body
        self.send_response(answer.status)
        for name, value in answer.fields:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        if fault == "truncate":
            body = body[: len(body) // 2]
            self.close_connection = True  # which the header does not announce: the cut has to come as a surprise
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if self.server.on_request:
            duration_seconds = perf_counter() - self._began
            self.server.on_request(Request(self.command, self.path, answer.status, len(body), duration_seconds, fault))

    def version_string(self) -> str:
        """Return the Server field."""
        return "flagjob"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: `on_request` reports every answer."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Log nothing: standard error is for people."""


class _FlagServer(ThreadingHTTPServer):
    """Accepts connections on one thread, and serves each on another."""

    request_queue_size = 1024
    """More than the workers that may connect at once."""

    def __init__(self, options: "DemoServer") -> None:
        self.flags = find_flags()
        self.on_request = options.on_request
        retry_after = options.faults.retry_after_seconds
        fields = [] if retry_after is None else [("Retry-After", str(retry_after))]
        self.unavailable = _text_answer(HTTPStatus.SERVICE_UNAVAILABLE, *fields)
        self.stopping = Event()
        self._faults = options.faults
        # All connections draw from one generator. The lock keeps the three draws of a request together: two threads
        # that interleave their draws would change which requests fail for a given seed.
        self._random = Random(options.seed)  # noqa: S311  (nothing secret)
        self._random_lock = Lock()
        # Only the accepting thread changes this; `stop` reads it after that thread has ended. So it needs no lock.
        self._open: dict[Thread, socket.socket] = {}
        addresses = socket.getaddrinfo(options.bind, options.port, type=socket.SOCK_STREAM)
        self.address_family, _, _, _, address = addresses[0]
        super().__init__(cast("tuple[str, int]", address), _RequestHandler)
        self._accepting = Thread(target=self.serve_forever, name="demo-server", daemon=True)
        self._accepting.start()

    def server_bind(self) -> None:
        """Bind as the base class does, but do not look up the name of the host, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name = str(host)
        self.server_port = int(port)

    def draw_faults(self) -> tuple[float, InjectedFault | None]:
        """Return the seconds to wait before an answer and the fault to inject. Thread-safe.

        Draws three numbers for each request, whatever the rates, so that one rate does not shift another's faults.
        """
        with self._random_lock:
            delay_seconds = self._random.uniform(*self._faults.delay_seconds or (0.0, 0.0))
            error = self._random.random()
            truncate = self._random.random()
        if error < self._faults.error_rate:
            return delay_seconds, "error"
        if truncate < self._faults.truncate_rate:
            return delay_seconds, "truncate"
        return delay_seconds, None

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Serve a connection on a daemon thread, and remember both until the thread has ended."""
        thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._open = {known: connection for known, connection in self._open.items() if known.is_alive()}
        thread.start()
        self._open[thread] = cast("socket.socket", request)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Serve a connection; a client that goes away ends it, and is no error of the server."""
        with suppress(OSError):
            super().finish_request(request, client_address)

    def stop(self) -> None:
        """Close the listening socket and all connections, and wait for their threads."""
        # First end the delays: a thread that waits in one would not notice that its connection is closed.
        self.stopping.set()
        # On Linux this wakes the accepting thread at once; elsewhere it polls twice a second.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        # No connection is accepted after the join, so the loop below meets all of them.
        self._accepting.join()
        for thread, connection in self._open.items():
            # Wakes a thread that reads; it may also have closed the socket by itself in the meantime.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
        self.server_close()


@dataclass(slots=True)
class DemoServer:
    """The server, as a context manager or by `start` and `stop`, both called by one thread.

    Listens on `bind`, a host name or an IPv4 or IPv6 address, at `port` (0: a free port); `url` is `http://HOST:PORT`
    once it is started. `on_request` is called after each answer in the thread that serves the connection, so several
    calls may run at once; it must not call `stop`. Servers with the same `seed` inject the same faults in the same
    order.
    """

    bind: str = "127.0.0.1"
    port: int = 0
    faults: Faults = Faults()
    on_request: Callable[[Request], None] | None = None
    seed: int | None = None
    url: str = field(default="", init=False)
    _server: _FlagServer | None = field(default=None, init=False)

    def start(self) -> Self:
        """Listen, and serve on threads of its own; raise UsageError without flags, or if the port cannot be bound."""
        try:
            self._server = _FlagServer(self)
        except OSError as error:
            problem = f"cannot listen on {self.bind}: {error.strerror}"
            raise UsageError(Fault("--port", str(self.port), problem)) from error
        host = self._server.server_name
        port = self._server.server_port
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    def stop(self) -> None:
        """Stop at once, delays and open connections too; no thread or socket is left. Does nothing if not started."""
        if self._server:
            self._server.stop()
            self._server = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()
