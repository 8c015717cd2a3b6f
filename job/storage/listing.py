"""What lies in a bucket, in eight bytes an object."""

from array import array
from bisect import bisect_left, insort
from threading import Lock

_SHELVES = 1024
"""An insertion moves what lies behind it on its shelf: 4 kB at a million objects."""


class Listing:
    """Remembers of each object that it has this size and ETag. Thread-safe.

    It keeps 64-bit hashes: the chance that it takes an object for one of a million others is 1 in 10**13.
    """

    def __init__(self) -> None:
        self._shelves = [array("Q") for _ in range(_SHELVES)]  # each in order
        self._use = Lock()  # guards them

    def add(self, path: str, size: int, etag: str) -> None:
        """Remember an object; what was known of the path stays known."""
        mark = _mark(path, size, etag)
        with self._use:
            insort(self._shelves[mark % _SHELVES], mark)

    def has(self, path: str, size: int, etag: str) -> bool:
        """Tell whether that object was added just so."""
        mark = _mark(path, size, etag)
        with self._use:
            shelf = self._shelves[mark % _SHELVES]
            at = bisect_left(shelf, mark)
            return at < len(shelf) and shelf[at] == mark


def _mark(path: str, size: int, etag: str) -> int:
    return hash((path, size, etag)) % 2**64
