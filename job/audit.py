"""The destination against its manifest: which files are whole, changed, missing or unknown."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, file_digest
from pathlib import Path

from job.disk import named
from job.errors import PathError
from job.model import Entry, Status, Stored
from job.store import OWN_DIRECTORY

_SUMS = "SHA256SUMS"
_KEY_BYTES = 14


class Finding(StrEnum):
    """What a file turned out to be."""

    WHOLE = "whole"
    CHANGED = "changed"
    """Its bytes are not those that were stored."""
    MISSING = "missing"
    UNKNOWN = "unknown"
    """It is no code's file."""
    GONE = "gone"
    """Whole, but the origin had it no more when it was asked last."""
    DELETED = "deleted"
    """It was gone, and is deleted now."""


@dataclass(slots=True)
class Audit:
    """One look at a directory. `tell` is called for each file that is not simply whole. Memory: 110 bytes a file."""

    root: Path
    tell: Callable[[Finding, str], None]
    delete: bool = False
    """Delete the files that are gone; `deleted` then has their codes, to be forgotten."""
    check: Callable[[], None] = lambda: None
    """Called before each file; what it raises ends the audit."""
    counts: dict[Finding, int] = field(default_factory=lambda: dict.fromkeys(Finding, 0))
    deleted: list[str] = field(default_factory=list)
    _known: set[bytes] = field(default_factory=set)

    def run(self, entries: Iterable[Entry]) -> bool:
        """Read every file; return whether none is changed or missing. Raises StorageError where one cannot be read.

        A changed file that looks as it was stored, by size and mtime, is touched, so that the next run replaces it.
        """
        for entry in entries:
            self.check()
            if entry.stored:
                self._known.add(_key(entry.stored.path))
                self._count(self._judged(entry, entry.stored), entry.stored.path)
        for file in self._unknown():
            self._count(Finding.UNKNOWN, file)
        return not self.counts[Finding.CHANGED] + self.counts[Finding.MISSING]

    def _count(self, finding: Finding, file: str) -> None:
        self.counts[finding] += 1
        if finding is not Finding.WHOLE:
            self.tell(finding, file)

    def _judged(self, entry: Entry, stored: Stored) -> Finding:
        path = self.root / stored.path
        gone = entry.status is Status.NOT_FOUND
        if gone and self.delete:
            return self._deleted(entry, path)
        if not path.is_file() or path.is_symlink():
            return Finding.MISSING
        with named(path), path.open("rb") as file:
            whole = file_digest(file, "sha256").hexdigest() == stored.sha256
            if not whole and str(os.fstat(file.fileno()).st_mtime_ns) == stored.version:
                os.utime(path)
        return (Finding.GONE if gone else Finding.WHOLE) if whole else Finding.CHANGED

    def _deleted(self, entry: Entry, path: Path) -> Finding:
        try:
            with named(path):
                path.unlink(missing_ok=True)
        except PathError:  # something else is there, a directory say
            return Finding.MISSING
        self.deleted.append(entry.code)
        return Finding.DELETED

    def _unknown(self) -> Iterator[str]:
        """Find files that no entry names, but for what is flagjob's own."""
        for directory, directories, files in os.walk(self.root):
            below = Path(directory).relative_to(self.root)
            if below == Path():
                directories[:] = [name for name in directories if name != OWN_DIRECTORY]
            for file in (str(below / name) for name in files):
                if _key(file) not in self._known and not file.startswith(_SUMS):
                    yield file


def _key(file: str) -> bytes:
    return blake2b(os.fsencode(file), digest_size=_KEY_BYTES).digest()
