"""What the operating system says, as one clear message with the path it is about."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.errors import PathError, StorageError

_ONE_FILE_ONLY = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
"""Errors that concern one path; any other means that the destination as a whole cannot be written."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn what the operating system says into one clear message, with the path it is about."""
    try:
        yield
    except OSError as error:
        kind = PathError if error.errno in _ONE_FILE_ONLY else StorageError
        raise kind(f"{path}: {error.strerror or error}") from error
