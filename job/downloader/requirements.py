"""What an item's way from URL to file is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from job.body import Body
from job.model import Entry, FileType, NotModified, Reply, Stored, Validators
from job.resilience.retrying import RetryEvent
from job.revalidation import RevalidationPolicy


class Source(Protocol):
    """Where replies come from: `fetch.Fetcher`."""

    def get(self, url: str, validators_to_send: Validators | None) -> Reply | NotModified:
        """Return the 200 answer, or the 304 to validators; raise an AttemptError or a StorageError."""
        ...


class Destination(Protocol):
    """Where files go: `store.LocalStore` and its like."""

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Give a body its name and return the file's version, or raise a StorageError."""
        ...

    def has(self, stored: Stored) -> bool:
        """Tell whether a file is there just as it was stored."""
        ...


class Memory(Protocol):
    """What earlier runs learned: `manifest.Manifest`."""

    def find(self, code: str) -> Entry | None:
        """Return what is known of a code."""
        ...

    def recorded_url(self, url: str) -> str:
        """Return a URL as entries hold it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Who is told of what happens inside an item. Called in worker threads; must not raise."""

    attempt: Callable[[str | None, float, int], None]
    """An attempt ended: the reason of its failure or None, its seconds, the bytes of its body."""
    retry: Callable[[str, RetryEvent], None]
    """An item, by its code, is tried again."""
    bug: Callable[[str, Exception], None]
    """An item, by its code, met an exception that nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a file must be, and when it is asked for."""

    accepted: tuple[FileType, ...]
    checksums: Mapping[str, str] = field(default_factory=dict)
    """The sha256, in hex, that a file must have, by its path below the destination."""
    revalidation: RevalidationPolicy = field(default_factory=RevalidationPolicy)
