"""What the operating system says of a path, as one clear message; and names that outlive a power cut."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.errors import PathError, StorageError

_ONE_FILE_ONLY = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
_ONE_FILE_ONLY |= {errno.EBUSY}  # a file is mounted in the way
"""Errors that concern one path; any other means that the destination as a whole cannot be written."""


def refused(path: Path, error: OSError) -> StorageError:
    """Return what an error of the operating system means for the path that it is about."""
    kind = PathError if error.errno in _ONE_FILE_ONLY else StorageError
    return kind(f"{path}: {error.strerror or error}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Raise in place of an OSError what it means for this path, which any thread may do."""
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raise StorageError if that fails."""
    with named(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
