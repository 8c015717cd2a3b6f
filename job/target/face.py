"""What every destination does, and what each is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.codes import shard_of
from job.manifest import Manifest
from job.model import Body, Stored
from job.store import Draft

SUMS = "SHA256SUMS"


class Store(Protocol):
    """What every kind of store does; see `store.LocalStore`."""

    def open(self) -> None:
        """Show that the destination can be written."""
        ...

    def new_body(self) -> Draft:
        """Begin a file."""
        ...

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Give a body its name, and return the file's version."""
        ...

    def has(self, stored: Stored) -> bool:
        """Tell whether a file is there just as it was stored."""
        ...

    def sync(self) -> None:
        """Make what was published durable."""
        ...


class Target(Protocol):
    """A destination during one run; `open` and `close` are called once each, and nothing else beside them."""

    store: Store
    manifest: Manifest

    def open(self, *, accept_new_origin: bool) -> None:
        """Make ready; raise StorageError where it cannot be written, UsageError where it is another origin's."""
        ...

    def told(self) -> Callable[[], None] | None:
        """Take note that the manifest was told a result; return what is to be done now, which may take its time."""
        ...

    def close(self, *, publish: bool) -> bool:
        """Make everything durable, and return whether readers see it; raise StorageError where that fails."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """Whose results a manifest holds: those of one origin, in one shard."""

    origin: str
    index: int = 0
    count: int = 1

    def owns(self, code: str) -> bool:
        """Tell whether a code is in this shard."""
        return shard_of(code, self.count) == self.index


def manifest_of(directory: Path, sums: Path, share: Share) -> Manifest:
    """Return the manifest of a shard, in a directory, that lists its files in `sums`."""
    return Manifest(directory, sums, origin=share.origin, shard=share.index, shards=share.count, mine=share.owns)
