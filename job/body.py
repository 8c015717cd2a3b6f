"""A response body as a spooled temporary file: in memory up to 64 KiB, then on disk; committed by fsync and rename."""

import os
from contextlib import suppress
from hashlib import sha256
from io import BytesIO, FileIO
from pathlib import Path

from job.atomic_write import lock, map_os_errors

_HEAD_BYTES = 512
_IN_MEMORY_BYTES = 64 * 1024


class Body:
    """A spooled temporary file: in memory up to 64 KiB, then on disk at `temporary`, with its digest as it grows.

    A body is written once (`write`), may be read (`rewind`, `read`), and then becomes a file (`commit`) or, in a
    bucket, an object. `close` removes the temporary file, unless it was committed. `commit` does, in this order:

    1. write a small body, until then in memory, to the temporary file, which is locked;
    2. fsync the file, so that a power cut after step 5 finds all of its bytes;
    3. stat it by its descriptor, for the modification time that is its version;
    4. close it, which shows write errors of a network file system while the old file is still there;
    5. rename it: readers see the old file or the whole new one, never a part.

    The name itself is durable when the storage has synced the directory. Belongs to one thread at a time.
    """

    def __init__(self, temporary: Path) -> None:
        """Take the path of the temporary file, on the file system of the final one; it is made when it is needed."""
        self.size = 0
        """Bytes written so far."""
        self.head = b""
        """The first 512 bytes, by which the type of a file is recognised."""
        self._temporary = temporary
        self._digest = sha256()
        self._file: BytesIO | FileIO = BytesIO()
        self._on_disk = False

    @property
    def sha256(self) -> str:
        """Digest of all bytes written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes, /) -> int:
        """Append all of `data` and return its length; raise StorageError if the disk refuses it."""
        if len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
        self._digest.update(data)
        self.size += len(data)
        if self.size > _IN_MEMORY_BYTES and not self._on_disk:
            self._roll_over()
        with map_os_errors(self._temporary):
            self._write_all(data)
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes from where the last read ended."""
        with map_os_errors(self._temporary):
            return self._file.read(size)

    def rewind(self) -> None:
        """Make the next read begin at the first byte."""
        self._file.seek(0)

    def commit(self, final: Path) -> str:
        """Make the body the file `final`, and return its version, the mtime in nanoseconds.

        Its bytes are durable then, its name only after the storage has synced the directory.

        An older file or a symbolic link at `final` is replaced. Raises StorageError if a step fails; `final` is then
        what it was before.
        """
        if not self._on_disk:
            self._roll_over()
        with map_os_errors(self._temporary):
            os.fsync(self._file.fileno())
            version = str(os.fstat(self._file.fileno()).st_mtime_ns)
            # This releases the lock. Until the rename, a moment later, the file looks like one of a dead run, and
            # only its age keeps another run from removing it (storage.directory.SWEEP_AGE_SECONDS).
            self._file.close()
        with map_os_errors(final):
            self._temporary.replace(final)
        # The temporary file has its final name now, so `close` has nothing to remove.
        self._on_disk = False
        return version

    def close(self) -> None:
        """Discard the body, unless it was committed; may be called again."""
        self._file.close()
        if self._on_disk:
            # If the disk has failed in the meantime the error is reported already, and a later run removes the file.
            with suppress(OSError):
                self._temporary.unlink()

    def _roll_over(self) -> None:
        """Move the body from memory to the temporary file, which stays locked until it is closed."""
        self._file.seek(0)
        data = self._file.read()
        with map_os_errors(self._temporary):
            # Unbuffered: chunks are large already, and a second buffer would only be copied through.
            self._file = self._temporary.open("x+b", buffering=0)
            self._on_disk = True
            # The lock keeps a run that starts now from removing the file as a leftover of a dead run. A file system
            # without locks is no error: there nothing is ever removed, as that needs the lock, too.
            with suppress(OSError):
                lock(self._file.fileno())
            self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        """Write until nothing is left: a disk that is nearly full takes a part and refuses only the next write."""
        remaining = memoryview(data)
        while remaining:
            written = self._file.write(remaining)
            remaining = remaining[written:]
