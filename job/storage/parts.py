"""Small objects of flagjob's own in a bucket: they take the place of a file that grows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from job.layout import OWN_DIRECTORY

if TYPE_CHECKING:
    from job.storage.bucket import Bucket


class Parts:
    """Objects under `PREFIX/.flagjob/`, by their names below it, such as `manifest/0-of-1/20261122T041700Z-3f9c`.

    Nothing can be appended to an object, so what grows is written as parts: each one is there whole or not at all,
    and stays when the writer is killed. Whoever merges parts writes the merged one first and deletes those that it
    has read after that: a crash in between leaves lines twice, never none. Names must be the writer's alone (a
    random part in them), since two pods may do this at once: what one deletes, the other then reads as empty.

    Thread-safe. Every method raises StorageError where the bucket fails.
    """

    def __init__(self, bucket: "Bucket") -> None:
        self._bucket = bucket

    def names(self, below: str) -> list[str]:
        """Return the names that begin with the segments of `below` (`a` has `a/b`, not `ab`), in order."""
        own = f"{OWN_DIRECTORY}/"
        return sorted(found.path.removeprefix(own) for found in self._bucket.objects(own + below))

    def read(self, name: str) -> Iterator[bytes]:
        """Give a part's bytes in chunks of any length (no whole lines); nothing if it is not there any more."""
        return self._bucket.read(f"{OWN_DIRECTORY}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Make a part of these bytes, or replace it; when this returns it is durable."""
        self._bucket.put(f"{OWN_DIRECTORY}/{name}", data)

    def delete(self, names: Sequence[str]) -> None:
        """Delete parts; one that is not there is as good as deleted."""
        self._bucket.delete([f"{OWN_DIRECTORY}/{name}" for name in names])
