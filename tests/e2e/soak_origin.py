"""A fast origin of many small files, one in twenty of them with a fault; runs by itself and logs its answers."""

import asyncio
import signal
import socket
import struct
import sys
from pathlib import Path

from images import GIF

KINDS = {7: "busy", 27: "cut", 47: "reset", 67: "missing", 87: "slow"}
"""The fault of a file, by the last two digits of its number; all but `missing` only at the first request."""
SLOW_SECONDS = 0.2
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: %d\r\n\r\n%s"
EMPTY = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"


class Origin:
    """The state that all connections share, in one thread."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._asked: set[int] = set()

    def kind(self, number: int) -> str:
        """Return how a request is answered, and log it."""
        kind = KINDS.get(number % 100, "ok")
        if number in self._asked and kind != "missing":
            kind = "ok"
        elif kind != "ok":
            self._asked.add(number)
        self.log.append(f"{number} {kind}\n")
        return kind


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            number, self._received = int(self._received[6:13]), b""  # GET /c0000000.gif
            self._answer(self._origin.kind(number))

    def _answer(self, kind: str) -> None:
        whole = WHOLE % (len(GIF), GIF)
        if kind == "reset":
            self._wire.write(whole[:20])  # libcurl repeats a request whose kept connection ends without a byte
            self._wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._wire.abort()
        elif kind == "cut":
            self._wire.write(whole[:-9])
            self._wire.close()
        elif kind == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._wire.write, whole)
        elif kind == "ok":
            self._wire.write(whole)
        else:
            self._wire.write(EMPTY % (b"404 Not Found" if kind == "missing" else b"503 Service Unavailable"))


async def serve(origin: Origin, listener_socket: socket.socket) -> None:
    """Serve requests until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(lambda: Connection(origin), sock=listener_socket)
    await ended.wait()


if __name__ == "__main__":
    listener, log, served = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), Origin()
    asyncio.run(serve(served, listener))
    log.write_text("".join(served.log))
