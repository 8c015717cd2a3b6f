"""Limits of this process, lowered for a while: a real kernel that refuses, as a full disk or a poor machine does."""

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    """Lower a limit (`resource.RLIMIT_...`) of this process, and raise it again."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def files_limited_to(size: int) -> AbstractContextManager[None]:
    """Let the kernel refuse to let a file grow beyond `size` bytes, as a full disk does."""
    return limited(resource.RLIMIT_FSIZE, size)
