"""A response body as a spooled temporary file: in memory up to 64 KiB, then on disk; committed by fsync and rename."""

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, TypeVar, cast

from job.atomic_write import lock, map_os_errors, name_error, storage_error, sync_file, write_all

T = TypeVar("T")

_HEAD_BYTES = 512
_TAIL_BYTES = 12
_IN_MEMORY_BYTES = 64 * 1024
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL
"""Flags of a temporary file: it is made, never opened, so no link that somebody has put there is followed."""
_MODE = 0o666
"""Mode of a file, less the umask."""
_NO_DESCRIPTOR = -1


def temporary_stem(directory: Path) -> str:
    """Return the beginning of the paths of a storage's temporary files; a number that it never uses again follows.

    It is random, with no process ID: two pods that share a volume can have the same one. So it belongs to this process
    alone, and a forked child would need another; flagjob never forks.
    """
    return f"{directory / token_hex(8)}-"


class Body:
    """A spooled temporary file: in memory up to 64 KiB, then on disk at `temporary`, with its digest as it grows.

    A body is written once (`write`), may be read (`rewind`, `read`), and then becomes a file (`commit`) or, in a
    bucket, an object. `close` removes the temporary file, unless it was committed. `commit` does, in this order:

    1. write a small body, until then in memory, to the temporary file, which is locked;
    2. fsync the file, so that a power cut after step 4 finds all of its bytes;
    3. close it, which shows write errors of a network file system while the old file is still there;
    4. rename it: readers see the old file or the whole new one, never a part;
    5. stat it by its final name, for the modification time that is its version: a FUSE mount, WebDAV or SMB server may
       set another time when the file is closed, or when it is renamed.

    The name itself is durable when the storage has synced the directory. Belongs to one thread at a time.
    """

    def __init__(self, temporary: str) -> None:
        """Take the path of the temporary file, on the file system of the final one; it is made when it is needed."""
        self.size = 0
        """Bytes written so far."""
        self.head = b""
        """The first 512 bytes, by which the type of a file is recognised."""
        self.tail = b""
        """The last 12 bytes of a body that is on disk; nothing while it is in memory, where all of it can be read."""
        self._temporary = temporary
        self._digest = sha256()
        self._file: BytesIO | FileIO = BytesIO()
        self._descriptor = _NO_DESCRIPTOR
        """The temporary file, while it is open."""
        self._on_disk = False
        """Whether there is a temporary file, open or not."""
        self.is_durable = False
        """Whether the body is committed and on the disk: not where the file system cannot flush files."""

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
        if self._on_disk:
            with map_os_errors(self._temporary):
                write_all(self._descriptor, data)
            self.tail = (self.tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        else:
            self._file.write(data)
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes from where the last read ended."""
        with map_os_errors(self._temporary):
            return self._file.read(size)

    def rewind(self) -> None:
        """Make the next read begin at the first byte."""
        self._file.seek(0)

    def examine(self, check: Callable[[BinaryIO], T]) -> T:
        """Return what `check` says of a stream of the whole body, which stands at its first byte before and after."""
        file = self._file
        if isinstance(file, BytesIO):
            file.seek(0)
            answer = check(file)
        else:
            with map_os_errors(self._temporary):
                file.seek(0)
                reader = BufferedReader(file)
                answer = check(cast("BinaryIO", reader))
                reader.detach()
        file.seek(0)
        return answer

    def commit(self, final: str) -> str:
        """Make the body the file `final`, and return its version: the mtime in nanoseconds, or "" if it has none.

        Its bytes are durable then, if the file system can do that (`is_durable`), its name only after the storage has
        synced the directory.

        An older file or a symbolic link at `final` is replaced. Raises StorageError if a step fails, and PathError if
        it is the rename; `final` is then what it was before.
        """
        # Seven system calls for a small body, each of which gives the interpreter lock away: open, flock, write,
        # fsync, close, rename, lstat.
        try:
            if not self._on_disk:
                self._write_temporary()
            self.is_durable = sync_file(self._descriptor)
            # This releases the lock. Until the rename, a moment later, the file looks like one of a dead run, and
            # only its age keeps another run from removing it (storage.directory.SWEEP_AGE_SECONDS).
            self._close_temporary()
        except OSError as error:
            raise storage_error(self._temporary, error) from error
        try:
            os.rename(self._temporary, final)  # noqa: PTH104  (on strings: the hot path)
        except OSError as error:
            raise name_error(final, error) from error
        # The temporary file has its final name now, so `close` has nothing to remove.
        self._on_disk = False
        return self._version_at(final)

    def close(self) -> None:
        """Discard the body, unless it was committed; may be called again."""
        self._file.close()
        if self._on_disk:
            # If the disk has failed in the meantime the error is reported already, and a later run removes the file.
            with suppress(OSError):
                self._close_temporary()
            with suppress(OSError):
                Path(self._temporary).unlink()

    def _version_at(self, final: str) -> str:
        """Return the version of the file that has just got its name.

        Another process may have replaced it since: a file of another size is not this one, and has no version here.
        Nor has one that cannot be found any more. It is published all the same, and the next run compares its digest.
        """
        try:
            found = os.lstat(final)
        except OSError:
            return ""
        return str(found.st_mtime_ns) if found.st_size == self.size else ""

    def _roll_over(self) -> None:
        """Move the body from memory to the temporary file, which stays open, and locked, until it is closed."""
        with map_os_errors(self._temporary):
            self.tail = self._write_temporary()[-_TAIL_BYTES:]
            # Unbuffered: chunks are large already, and a second buffer would only be copied through.
            self._file = FileIO(self._descriptor, "r+b", closefd=False)

    def _write_temporary(self) -> bytes:
        """Make the temporary file, lock it, and write to it what is in memory, which is returned; raise OSError."""
        self._file.seek(0)
        data = self._file.read()
        self._descriptor = os.open(self._temporary, _CREATE, _MODE)
        self._on_disk = True
        # The lock keeps a run that starts now from removing the file as a leftover of a dead run. A file system
        # without locks is no error: there nothing is ever removed, as that needs the lock, too.
        try:  # noqa: SIM105  (`suppress` takes half a microsecond)
            lock(self._descriptor)
        except OSError:
            pass
        write_all(self._descriptor, data)
        return data

    def _close_temporary(self) -> None:
        """Close the temporary file, once: afterwards its number may be another thread's file. Raises OSError."""
        descriptor = self._descriptor
        if descriptor == _NO_DESCRIPTOR:
            return
        self._descriptor = _NO_DESCRIPTOR
        self._file.close()
        os.close(descriptor)
