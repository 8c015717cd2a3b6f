"""Storage of accepted files, each whole or not at all: in a directory, in generations of one, or in a bucket."""

from collections.abc import Callable
from typing import Protocol

from job.body import Body
from job.model import Stored
from job.storage.bucket import BucketStorage, open_state, scratch_directory
from job.storage.bucket_client import DEFAULT_TIMEOUTS
from job.storage.directory import DirectoryStorage, is_same_time
from job.storage.generations import Generations, GenerationStorage
from job.storage.offloaded import OffloadedStorage

__all__ = [
    "DEFAULT_TIMEOUTS",
    "BucketStorage",
    "DirectoryStorage",
    "GenerationStorage",
    "Generations",
    "OffloadedStorage",
    "Publisher",
    "Storage",
    "is_same_time",
    "open_state",
    "scratch_directory",
]


class Publisher(Protocol):
    """Publishes files at a destination. Every method may raise StorageError."""

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Store a body under its name, whole or not at all, and return the file's version."""
        ...

    def is_intact(self, stored: Stored) -> bool:
        """Return whether a file is still as it was published, by its size and version."""
        ...

    def verified_version(self, stored: Stored) -> str | None:
        """Return the present version of a file that is not intact by its version, if its bytes are; else None.

        Reads all of the file, if there is one of this size.
        """
        ...


class Storage(Publisher, Protocol):
    """Keeps the files of a destination: a directory, a generation or a bucket.

    `new_body`, `publish` and `is_intact` may be called by any thread. Every method may raise StorageError.
    """

    may_block_long: bool
    """Calls may wait for a network: never make them on a thread that others wait for. Known after `open`."""
    on_limitation: Callable[[str], None]
    """Called, by any thread and perhaps often, with what the destination cannot do and the run passes over."""

    def open(self) -> None:
        """Prove that the destination is writable."""
        ...

    def new_body(self) -> Body:
        """Return an empty body."""
        ...
