"""A scripted HTTP server for tests: real sockets on loopback, and an answer or fault for each request."""

import contextlib
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses as phrases
from itertools import takewhile
from typing import BinaryIO, Self


@dataclass(frozen=True)
class Answer:
    """A valid answer with the right length and no other headers; the connection stays open."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def wire(self) -> bytes:
        """Return the whole answer as bytes."""
        lines = [f"HTTP/1.1 {self.status} {phrases.get(self.status, 'Unheard Of')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status not in {204, 304}:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True)
class Raw:
    """Raw bytes, then the end of the connection: in order (FIN), or with `reset` (RST)."""

    data: bytes
    reset: bool = False


@dataclass(frozen=True)
class Stall:
    """Raw bytes, then silence until the client leaves or the server stops."""

    data: bytes = b""


@dataclass(frozen=True)
class Drip:
    """Raw bytes, then `drop` every `interval` seconds until the client leaves or the server stops."""

    data: bytes = b""
    drop: bytes = b"."
    interval: float = 0.05


@dataclass(frozen=True)
class Hold:
    """A wait until `event` is set or the server stops, then the next step."""

    event: threading.Event
    then: "Step"


@dataclass(frozen=True)
class Request:
    """A received request. `connection` counts from 1; header names are in lower case; `head` is all lines as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int
    head: bytes
    body: bytes


Step = Answer | Raw | Stall | Drip | Hold
Script = Mapping[str, Step | Sequence[Step] | Callable[[Request], Step]]
"""The steps for each path (a target without its query), request by request; the last step repeats."""


class ScriptedServer:
    """Serves a script on a port of 127.0.0.1, by default a free one, while its `with` block runs; other paths are 404.

    One thread accepts, and one serves each connection; `_changed` guards their shared state. `requests` are in order of
    arrival. `sent` counts bytes in steps of 64 KiB, and is exact while one connection is in use.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._script = script
        self._port = port
        self._tls = tls
        self._changed = threading.Condition()
        self._served: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        self._events: set[threading.Event] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self.requests: list[Request] = []
        self.connections = self.sent = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._accepter = threading.Thread(target=self._accept)
        self._accepter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with self._changed, contextlib.suppress(OSError):  # a server that refuses has no listener now and then
            self._changed.notify_all()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        with self._changed:
            for event in self._events:
                event.set()
            for wire in self._open:
                with contextlib.suppress(OSError):  # the client was faster
                    wire.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def url(self, path: str = "/") -> str:
        """Return the URL of a path on this server."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def wait_for(self, count: int, timeout: float = 40) -> list[Request]:
        """Return the requests as soon as there are `count` of them; TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests after {timeout} s")
            return list(self.requests)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                wire, _ = self._listener.accept()
                self.connections += 1
                self._begin(wire)

    def _begin(self, wire: socket.socket) -> None:
        """Serve a connection on a thread of its own."""
        if self._tls:
            wire = self._tls.wrap_socket(wire, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open.add(wire)
        self._threads.append(threading.Thread(target=self._serve, args=(wire, self.connections)))
        self._threads[-1].start()

    def _serve(self, wire: socket.socket, number: int) -> None:
        """Answer requests until the script, the client or the server ends the connection."""
        with contextlib.suppress(OSError), wire.makefile("rb") as stream:  # clients leave; scripts provoke it
            if isinstance(wire, ssl.SSLSocket):
                _shake_hands(wire)
            while (request := _read_request(stream, number)) and self._act(wire, self._step_for(request)):
                pass
        with self._changed, wire:
            self._open.discard(wire)
            self._changed.notify_all()

    def _step_for(self, request: Request) -> Step:
        """Record the request, and return the step for it."""
        path = request.target.partition("?")[0]
        with self._changed:
            turn = self._served[path]
            self._served[path] += 1
            self.requests.append(request)
            self._changed.notify_all()
        steps = self._script.get(path, Answer(404))
        if callable(steps):
            return steps(request)
        return steps[min(turn, len(steps) - 1)] if isinstance(steps, Sequence) else steps

    def _act(self, wire: socket.socket, step: Step) -> bool:
        """Do a step; return whether another request may follow."""
        if isinstance(step, Hold):
            with self._changed:
                self._events.add(step.event)
            if not self._stopped.is_set():
                step.event.wait()
            return self._act(wire, step.then)
        self._send(wire, step.wire() if isinstance(step, Answer) else step.data)
        if isinstance(step, Raw) and step.reset:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if isinstance(step, Stall):
            wire.recv(1)
        while isinstance(step, Drip) and not self._stopped.wait(step.interval):
            self._send(wire, step.drop)
        return isinstance(step, Answer)

    def _send(self, wire: socket.socket, data: bytes) -> None:
        """Send all data, and count the bytes that the network accepts."""
        for part in (data[start : start + (1 << 16)] for start in range(0, len(data), 1 << 16)):
            wire.sendall(part)
            self.sent += len(part)


class ResettingServer(ScriptedServer):
    """Bears some connections at the same time, and resets the others as soon as they are there."""

    def __init__(self, script: Script, most: int) -> None:
        super().__init__(script)
        self._most = most
        self.resets = 0

    def _begin(self, wire: socket.socket) -> None:
        with self._changed:
            is_full = len(self._open) == self._most
        if is_full:
            self.resets += 1
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()
        else:
            super()._begin(wire)


class RefusingServer(ScriptedServer):
    """Bears some connections at the same time; while there are so many, nobody listens at its port."""

    def __init__(self, script: Script, most: int) -> None:
        super().__init__(script)
        self._most = most

    def _begin(self, wire: socket.socket) -> None:
        super()._begin(wire)
        with self._changed:
            if len(self._open) == self._most:
                self._listener.close()
                self._changed.wait_for(lambda: len(self._open) < self._most or self._stopped.is_set())
                if not self._stopped.is_set():
                    self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)


def _shake_hands(wire: ssl.SSLSocket) -> None:
    """Complete the handshake of TLS; where it fails, let the client read the alert."""
    try:
        wire.do_handshake()
    except OSError:
        # A close with unread bytes is a reset, which can reach the client before it has read the alert.
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(1 << 16):
            pass
        raise


def _read_request(stream: BinaryIO, number: int) -> Request | None:
    """Return the next request; None if the client has left, or does not speak HTTP."""
    lines = list(takewhile(bytes.strip, stream))
    if not lines or len(words := lines[0].decode("latin-1").split()) != 3:
        return None
    pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = stream.read(int(headers.get("content-length", 0)))
    return Request(words[0], words[1], headers, number, b"".join(lines), body)
