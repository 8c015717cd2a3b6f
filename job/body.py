"""A body on its way to become a file."""

import os
from contextlib import suppress
from hashlib import sha256
from io import BytesIO, FileIO
from pathlib import Path

from job.atomic_write import lock, map_os_errors

_HEAD_BYTES = 512
_IN_MEMORY_BYTES = 64 * 1024


class Body:
    """A body on its way to become a file (`model.Body`): in memory at first, above 64 KiB on disk beside its place.

    Belongs to one thread at a time. Closing it throws it away, unless it was published.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.head = b""
        self._path = path
        self._digest = sha256()
        self._file: BytesIO | FileIO = BytesIO()
        self._on_disk = False

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes, /) -> int:
        """Append; raise StorageError if the disk refuses."""
        if len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
        self._digest.update(data)
        self.size += len(data)
        if not self._on_disk and self.size > _IN_MEMORY_BYTES:
            self._roll_over()
        with map_os_errors(self._path):
            self._put(data)
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes from where the last read ended."""
        with map_os_errors(self._path):
            return self._file.read(size)

    def rewind(self) -> None:
        """Make the next read begin at the first byte."""
        self._file.seek(0)

    def commit(self, final: Path) -> str:
        """Put every byte on the disk, then give it this name; return the file's version, its mtime in nanoseconds.

        Raises StorageError where either fails; the name then has what it had before.
        """
        if not self._on_disk:
            self._roll_over()
        with map_os_errors(self._path):
            os.fsync(self._file.fileno())
            version = str(os.fstat(self._file.fileno()).st_mtime_ns)
            self._file.close()
        with map_os_errors(final):
            self._path.replace(final)
        self._on_disk = False  # it is no draft any more
        return version

    def close(self) -> None:
        """Throw away what was not published; may be called again."""
        self._file.close()
        if self._on_disk:
            with suppress(OSError):  # the disk failed meanwhile, which was told; a later run sweeps it up
                self._path.unlink()

    def _roll_over(self) -> None:
        self._file.seek(0)
        held = self._file.read()
        with map_os_errors(self._path):
            self._file = self._path.open("x+b", buffering=0)  # a buffer costs calls of its own, and is never filled
            self._on_disk = True
            with suppress(OSError):  # not every file system has locks; where there are none nothing is swept either
                lock(self._file.fileno())  # until it is closed nobody may take it for a dead run's
            self._put(held)

    def _put(self, data: bytes) -> None:
        """Write all of it: a disk that is nearly full takes a part, and then refuses."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
