"""Atomic writes: temporary file, lock, fsync, replace; with one clear message where the system refuses."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from job.errors import PathError, StorageError, map_exceptions

_ONE_PATH_ONLY = {
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.EBUSY,  # a file is mounted in the way
}
"""Errors that concern one path; any other means that the destination as a whole cannot be written."""


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return what an error of the operating system means for the path that it is about."""
    kind = PathError if error.errno in _ONE_PATH_ONLY else StorageError
    return kind(f"{path}: {error.strerror or error}")


def map_os_errors(path: Path) -> AbstractContextManager[None]:
    """Raise a StorageError about this path in place of an OSError. Thread-safe."""
    translators: dict[type[BaseException], Callable[[OSError], StorageError]] = {OSError: partial(storage_error, path)}
    return map_exceptions(translators)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raise StorageError if that fails."""
    with map_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file or directory until its descriptor is closed or its process ends (flock, advisory).

    Raises BlockingIOError if another process holds a lock that excludes this one and `wait` is False, and OSError where
    the file system has no locks. A lock marks what is in use: whoever gets one on a temporary file knows that the run
    that made it is dead.
    """
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def replacing(final: Path, lock_file: Path) -> Iterator[BinaryIO]:
    """Yield a file to write: at the end it has its final name, durably; after an exception nothing has happened.

    The temporary file lies beside `lock_file`, on the same file system. A shared lock on `lock_file`, held all the
    while, keeps `sweep` in another process from removing it. Raises StorageError.
    """
    with map_os_errors(final), _try_lock(lock_file, shared=True, wait=True):
        temporary = lock_file.parent / _TEMPORARY.replace("*", token_hex(8))
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(final.parent)


_TEMPORARY = "manifest-*.tmp"


def sweep(lock_file: Path) -> None:
    """Remove what killed processes left of `replacing`, unless some process is writing just now; raise StorageError."""
    directory = lock_file.parent
    with map_os_errors(directory), _try_lock(lock_file, shared=False, wait=False) as held:
        for temporary in directory.glob(_TEMPORARY) if held else ():
            temporary.unlink(missing_ok=True)


@contextmanager
def _try_lock(lock_file: Path, *, shared: bool, wait: bool) -> Iterator[bool]:
    """Hold a lock where it is free and the file system has locks; yield whether it is held."""
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks no directory, and no reader
    held = False
    try:
        with suppress(OSError):
            lock(descriptor, shared=shared, wait=wait)
            held = True
        yield held
    finally:
        os.close(descriptor)
