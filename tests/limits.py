"""Resource limits of this process, lowered for a while: the kernel then refuses as with a full disk."""

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def limited(which: int, soft: int) -> Iterator[None]:
    """Lower a limit (`resource.RLIMIT_...`) of this process in a `with` block."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def files_limited_to(size: int) -> AbstractContextManager[None]:
    """Make the kernel refuse to extend a file beyond `size` bytes, as a full disk does, in a `with` block."""
    return limited(resource.RLIMIT_FSIZE, size)
