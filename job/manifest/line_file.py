"""Append-only files of lines: several processes may append to one, and a torn last line costs only itself."""

import os
from collections.abc import Iterator
from pathlib import Path

from job.atomic_write import map_os_errors, storage_error

_BLOCK_BYTES = 64 * 1024
_USUAL_LINE_BYTES = 2048
"""The size of the first read of `line_at`. Few lines are longer; a longer one costs a second read."""
_LONGEST_LINE_BYTES = 1024 * 1024
"""No line of ours is longer (libcurl accepts 300 kB of headers): more without a line end is damage, and is skipped."""


def read_first_line(path: Path) -> bytes:
    """Return the first line of a file, with its line end if it has one; raise StorageError if it cannot be read."""
    with map_os_errors(path), path.open("rb") as file:
        return file.readline(_LONGEST_LINE_BYTES)


class LineFile:
    """A file that only grows, by whole lines. Any thread may call `line_at`, one thread everything else.

    Several processes may append at the same time. The file is opened with O_APPEND, so the kernel finds the end of the
    file and writes there in one step (POSIX, write), and each line is one write: on a local file system the lines of
    two processes never mix. NFS does not guarantee that (Linux, open(2)), and a full disk writes part of a line; both
    leave a damaged line, which readers skip. No byte that was written is ever changed, so a reader needs no lock.

    Every method may raise StorageError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._is_torn = False  # the last append failed, perhaps after a part of its line was written

    def open(self, *, write: bool) -> None:
        """Open the file; to write, create it if it is missing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
        with map_os_errors(self.path):
            self._descriptor = os.open(self.path, flags, 0o666)
            size = self.size
            if write and size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                # A crash tore the last line. End it, or the next line would join it and both would be lost. The writer
                # may as well be alive and in the middle of a write: then this costs an empty line, which readers skip.
                self.append(b"")

    @property
    def size(self) -> int:
        """The size of the file in bytes, including lines of other processes."""
        with map_os_errors(self.path):
            return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> int:
        """Append a line, given without its line end, and return the offset where it ends in the file.

        The bytes are in the kernel when this returns: they survive the end of this process, but not yet a power cut.
        """
        # After a failed append the file may end in a part of a line: a line end first keeps this line apart from it.
        data = (b"\n" if self._is_torn else b"") + line + b"\n"
        self._is_torn = True
        with map_os_errors(self.path):
            while data:
                written = os.write(self._descriptor, data)  # a full disk takes a part, and then refuses the rest
                data = data[written:]
            self._is_torn = False
            # O_APPEND has moved this descriptor's position to the end of its own line, which may not be the end of the
            # file any more: another process may have appended since.
            return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of each whole line from an offset on, without line ends.

        A last line without an end is not yielded: another process may be writing it. Memory: bounded, also where a
        file system left a hole of gigabytes after a power cut.
        """
        rest = b""
        while block := self._read(_BLOCK_BYTES, start + len(rest)):
            *whole_lines, rest = (rest + block).split(b"\n")
            for line in whole_lines:
                yield start, line
                start += len(line) + 1
            if len(rest) > _LONGEST_LINE_BYTES:
                start += len(rest)
                rest = b""

    def line_at(self, offset: int) -> bytes:
        """Return the bytes from an offset up to the end of that line.

        Any thread may call it: `pread` moves no position, and bytes that were written never change.
        """
        line, line_end, _ = self._read(_USUAL_LINE_BYTES, offset).partition(b"\n")
        if line_end:
            return line
        return self._read(_LONGEST_LINE_BYTES, offset).partition(b"\n")[0]

    def is_replaced(self) -> bool:
        """Return whether the path now leads to another file than the one that is open here, or to none."""
        with map_os_errors(self.path):
            try:
                current = self.path.stat()
            except FileNotFoundError:
                return True
            return not os.path.samestat(current, os.fstat(self._descriptor))

    def sync(self) -> None:
        """Flush every byte to the disk."""
        with map_os_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; does nothing if it is not open."""
        descriptor = self._descriptor
        # First, so that a thread which still reads gets an error, not the bytes of a file that reuses this number.
        self._descriptor = -1
        if descriptor >= 0:
            with map_os_errors(self.path):
                os.close(descriptor)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:  # `map_os_errors` would take longer than the read
            raise storage_error(self.path, error) from error
