"""Files that grow by whole lines, with one clear message where the disk refuses."""

import os
from collections.abc import Iterator
from pathlib import Path

from job.atomic_write import map_os_errors, storage_error

_BLOCK_BYTES = 64 * 1024
_LINE_BYTES = 2048
"""Few lines are longer; those that are cost a second read."""
_LONGEST_BYTES = 1024 * 1024
"""No line of ours is longer (libcurl takes 300 kB of headers): what is, is damage, and passed over in pieces."""


def first_line(path: Path) -> bytes:
    """Return how a file begins, up to the end of its first line; raise StorageError if it cannot be read."""
    with map_os_errors(path), path.open("rb") as file:
        return file.readline(_LONGEST_BYTES)


class LineFile:
    """A file of lines. Any thread may read lines; all else is for one thread. Every method may raise StorageError.

    Processes may append to it at the same time: a line is one write to the end, and no line is ever taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._torn = False

    def open(self, *, write: bool) -> None:
        """Open it; to write, make it if it is missing, and end a last line that a crash tore, so that none joins it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
        with map_os_errors(self.path):
            self._descriptor = os.open(self.path, flags, 0o666)
            size = self.size
            if write and size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self.append(b"")

    @property
    def size(self) -> int:
        """Bytes, whoever wrote them."""
        with map_os_errors(self.path):
            return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> int:
        """Hand a line, without its end, to the kernel, where it outlives this process; return where it ends there."""
        data = (b"\n" if self._torn else b"") + line + b"\n"
        self._torn = True
        with map_os_errors(self.path):
            while data:
                data = data[os.write(self._descriptor, data) :]  # a full disk takes a part, and then refuses
            self._torn = False
            return os.lseek(self._descriptor, 0, os.SEEK_CUR)  # O_APPEND moves it to behind what was just written

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield each whole line from a byte on, after its own offset and without its end."""
        rest = b""
        while block := self._read(_BLOCK_BYTES, start + len(rest)):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield start, line
                start += len(line) + 1
            if len(rest) > _LONGEST_BYTES:
                start, rest = start + len(rest), b""

    def line_at(self, offset: int) -> bytes:
        """Return what stands there up to the end of its line."""
        line, end, _ = self._read(_LINE_BYTES, offset).partition(b"\n")
        return line if end else self._read(_LONGEST_BYTES, offset).partition(b"\n")[0]

    def is_replaced(self) -> bool:
        """Tell whether another file has this one's name by now, or none."""
        with map_os_errors(self.path):
            try:
                there = self.path.stat()
            except FileNotFoundError:
                return True
            return not os.path.samestat(there, os.fstat(self._descriptor))

    def sync(self) -> None:
        """Put every byte on the disk."""
        with map_os_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of it; one that is not open stays so."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with map_os_errors(self.path):
                os.close(descriptor)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:  # `named` would take longer than the read
            raise storage_error(self.path, error) from error
