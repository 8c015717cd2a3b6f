"""Whole accepted files at the destination, or nothing."""

from typing import Protocol

from job.body import Body
from job.model import Stored
from job.storage.generations import Generations, GenerationStorage
from job.storage.local import DirectoryStorage
from job.storage.objects import BucketStorage
from job.storage.parts import Parts
from job.storage.place import BucketTimeouts

__all__ = [
    "BucketStorage",
    "BucketTimeouts",
    "DirectoryStorage",
    "GenerationStorage",
    "Generations",
    "Parts",
    "Storage",
]


class Storage(Protocol):
    """What every kind of storage does; see `DirectoryStorage`."""

    def open(self) -> None:
        """Show that the destination can be written."""
        ...

    def new_body(self) -> Body:
        """Return an empty body."""
        ...

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Commit a body under its name, and return the file's version."""
        ...

    def has(self, stored: Stored) -> bool:
        """Return whether a file is there just as it was stored."""
        ...

    def sync(self) -> None:
        """Make what was published durable."""
        ...
