"""Files that grow by whole lines or are replaced whole, with one clear message where the disk refuses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from job.disk import named, refused, sync_directory

_LOCK = "manifest.lock"
_DRAFTS = "manifest-*.tmp"
_BLOCK_BYTES = 64 * 1024
_LINE_BYTES = 2048
"""Few lines are longer; those that are cost a second read."""
_LONGEST_BYTES = 1024 * 1024
"""No line of ours is longer (libcurl takes 300 kB of headers): what is, is damage, and passed over in pieces."""


def first_line(path: Path) -> bytes:
    """Return how a file begins, up to the end of its first line; raise StorageError if it cannot be read."""
    with named(path), path.open("rb") as file:
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
        with named(self.path):
            self._descriptor = os.open(self.path, flags, 0o666)
            size = self.size
            if write and size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                self.append(b"")

    @property
    def size(self) -> int:
        """Bytes, whoever wrote them."""
        with named(self.path):
            return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> int:
        """Hand a line, without its end, to the kernel, where it outlives this process; return where it ends there."""
        data = (b"\n" if self._torn else b"") + line + b"\n"
        self._torn = True
        with named(self.path):
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
        with named(self.path):
            try:
                there = self.path.stat()
            except FileNotFoundError:
                return True
            return not os.path.samestat(there, os.fstat(self._descriptor))

    def sync(self) -> None:
        """Put every byte on the disk."""
        with named(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of it; one that is not open stays so."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with named(self.path):
                os.close(descriptor)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:  # `named` would take longer than the read
            raise refused(self.path, error) from error


@contextmanager
def replacing(final: Path, directory: Path) -> Iterator[BinaryIO]:
    """Give a file to write: at the end it has its final name, durably; after an exception nothing has happened.

    The draft lies in `directory`, on the same file system, and is locked against `sweep`.
    """
    with named(final), _locked(directory, LOCK_SH):
        draft = directory / _DRAFTS.replace("*", token_hex(8))
        try:
            with draft.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(final)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(final.parent)


def sweep(directory: Path) -> None:
    """Remove the drafts that a killed process left, unless some process is writing one just now."""
    with named(directory), _locked(directory, LOCK_EX | LOCK_NB) as held:
        for draft in directory.glob(_DRAFTS) if held else ():
            draft.unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[bool]:
    """Hold the lock of a directory, where it is free and its file system has locks; give whether it is held."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks no directory, and no reader
    held = False
    try:
        with suppress(OSError):
            flock(descriptor, operation)
            held = True
        yield held
    finally:
        os.close(descriptor)
