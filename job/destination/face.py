"""What every destination does, and what each is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.manifest import Manifest
from job.shard import ALL_CODES, Shard
from job.storage import Storage


class Destination(Protocol):
    """A destination during one run; `open` and `close` are called once each, and nothing else beside them."""

    storage: Storage
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
class Scope:
    """Whose results a manifest holds: those of one origin, in one shard."""

    origin: str
    shard: Shard = ALL_CODES


def manifest_for(directory: Path, checksums: Path, scope: Scope) -> Manifest:
    """Return the manifest of a scope, in a directory, that lists its files in `checksums`."""
    return Manifest(directory, checksums, origin=scope.origin, shard=scope.shard)
