"""Atomic writes to a file system: temporary file, flock, fsync, rename; and OSError translated to StorageError."""

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
    errno.EBUSY,  # the path is a mount point
}
"""Errors that concern one path; any other means that the destination as a whole cannot be written."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
"""Errors of fsync that say that the file system has none; those that say that bytes are lost, EIO say, are not here."""
_CANNOT_SYNC_DIRECTORY = {*_CANNOT_SYNC, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
"""The same for a directory, which can be open only to be read: some file systems, and FUSE servers, refuse that."""
_TEMPORARY_SUFFIX = ".tmp"


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """Return the exception for an error of the operating system at this path: a PathError if it concerns only that."""
    kind = PathError if error.errno in _ONE_PATH_ONLY else StorageError
    return kind(f"{path}: {error.strerror or error}")


def name_error(path: Path | str, error: OSError) -> PathError:
    """Return the exception for a name that the operating system refuses, whatever the error.

    EACCES, EINVAL or ENOSPC may be about this name, its directory or all of the file system: no table can tell, only an
    attempt at another name. The storage makes it (`DirectoryStorage.publish`).
    """
    return PathError(f"{path}: {error.strerror or error}")


def map_os_errors(path: Path | str) -> AbstractContextManager[None]:
    """Raise a StorageError about this path in place of an OSError. Thread-safe.

    Each use takes 1.5 us; where one file is written after the other, `storage_error` does the same in an `except`.
    """
    translators: dict[type[BaseException], Callable[[OSError], StorageError]] = {OSError: partial(storage_error, path)}
    return map_exceptions(translators)


def sync_file(descriptor: int) -> bool:
    """Make the bytes of an open file durable; return False where the file system cannot do that. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
        return False
    return True


def sync_directory(path: Path) -> bool:
    """Make the names in a directory durable; return False where that cannot be done, raise StorageError if it fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_DIRECTORY:
            raise storage_error(path, error) from error
        return False
    return True


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file or directory until its descriptor is closed or its process ends (flock, advisory).

    Every lock between processes is taken here. The kernel releases it when a process is killed, so a temporary file
    that can be locked belongs to a dead run and may be removed, if it is also older than
    `storage.directory.SWEEP_AGE_SECONDS`, because a living run has it unlocked for a moment. So may a generation, under
    the conditions of `storage.generations`: NFS does not tell one machine of another one's locks on directories, nor
    of those on files where it is mounted so.
    Raises BlockingIOError if another descriptor has a conflicting lock and `wait` is False, and another OSError where
    the file system has no locks.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    fcntl.flock(descriptor, operation)


def write_all(descriptor: int, data: bytes) -> None:
    """Write until nothing is left: a disk that is nearly full takes a part and refuses only the next write.

    Raises OSError.
    """
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


@contextmanager
def replacing(final: Path, lock_file: Path) -> Iterator[BinaryIO]:
    """Yield a file to write: at the end it durably replaces `final`; after an exception `final` is as before.

    Only if the sync of the directory fails, which is the last step, `final` is the new file already.

    Readers see the old file or the whole new one at every moment, also after a power cut. The temporary file lies
    beside `lock_file`, whose name its own begins with, on the same file system as `final`. Raises StorageError.
    """
    # The lock is shared: several processes may replace files at once. It keeps `sweep` in another process from
    # removing this temporary file, which is not renamed yet, as a leftover of a dead run.
    with map_os_errors(final), _try_lock(lock_file, shared=True, wait=True):
        temporary = lock_file.parent / f"{lock_file.stem}-{token_hex(8)}{_TEMPORARY_SUFFIX}"
        try:
            with temporary.open("xb") as file:
                yield file
                # The bytes before the name: a power cut after the rename must find all of them.
                file.flush()
                sync_file(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        # The rename is visible already; from here on it also survives a power cut.
        sync_directory(final.parent)


def replace_file(final: Path, data: bytes) -> None:
    """Write a file beside its place and rename it, so that readers see the old one or the whole new one.

    For a directory that is not flagjob's own: it takes no lock there, and nothing removes the temporary file of a
    process that is killed meanwhile. Raises StorageError.
    """
    temporary = final.with_name(f".{final.name}-{token_hex(8)}{_TEMPORARY_SUFFIX}")
    with map_os_errors(final):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                sync_file(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(lock_file: Path) -> None:
    """Remove the temporary files that killed processes left in `replacing`; raise StorageError.

    Removes nothing while another process is in `replacing`, which holds the lock: a later run does it.
    """
    directory = lock_file.parent
    with map_os_errors(directory), _try_lock(lock_file, shared=False, wait=False) as is_locked:
        if is_locked:
            for temporary in directory.glob(f"{lock_file.stem}-*{_TEMPORARY_SUFFIX}"):
                temporary.unlink(missing_ok=True)


@contextmanager
def _try_lock(lock_file: Path, *, shared: bool, wait: bool) -> Iterator[bool]:
    """Lock a file, which is made if it is missing; yield whether that succeeded. Raises OSError if it cannot be made.

    Where the file system has no locks `replacing` works without one, and `sweep` removes nothing.
    """
    # A file, opened for writing: NFS has no locks on directories, and exclusive ones only for writers.
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    is_locked = False
    try:
        with suppress(OSError):
            lock(descriptor, shared=shared, wait=wait)
            is_locked = True
        yield is_locked
    finally:
        os.close(descriptor)
