"""Maintenance of a destination without downloading: the commands verify and rollback."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, file_digest
from pathlib import Path

from job import manifest
from job.atomic_write import map_os_errors
from job.cancellation import Cancellation
from job.errors import Cancelled, Fault, PathError, StorageError, UsageError
from job.exit_code import ExitCode
from job.layout import CHECKSUMS, OWN_DIRECTORY, is_bucket
from job.log import RunLog
from job.model import Entry, Status, Stored
from job.settings import Publish, Settings
from job.storage import Generations

_KEY_BYTES = 14
_MANIFESTS = "manifest*.jsonl"


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


_FAILURES = {Finding.CHANGED, Finding.MISSING}


@dataclass(slots=True)
class Verification:
    """One look at a directory. `tell` is called for each file that is not simply whole. Memory: 110 bytes a file."""

    root: Path
    on_finding: Callable[[Finding, str], None]
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
            self.on_finding(finding, file)

    def _judged(self, entry: Entry, stored: Stored) -> Finding:
        path = self.root / stored.path
        gone = entry.status is Status.NOT_FOUND
        if gone and self.delete:
            return self._deleted(entry, path)
        if not path.is_file() or path.is_symlink():
            return Finding.MISSING
        with map_os_errors(path), path.open("rb") as file:
            whole = file_digest(file, "sha256").hexdigest() == stored.sha256
            if not whole and str(os.fstat(file.fileno()).st_mtime_ns) == stored.version:
                os.utime(path)
        return (Finding.GONE if gone else Finding.WHOLE) if whole else Finding.CHANGED

    def _deleted(self, entry: Entry, path: Path) -> Finding:
        try:
            with map_os_errors(path):
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
                if _key(file) not in self._known and not file.startswith(CHECKSUMS):
                    yield file


def verify(settings: Settings, log: RunLog, cancellation: Cancellation, *, delete: bool) -> int:
    """Hash every file of the destination, of a set those that readers see, and say which are not what they were.

    Returns the exit code: 4 where a file is changed or missing, which the next run repairs; after a signal its own.
    Whatever ends it, what was deleted is forgotten. In a dry run nothing is deleted.
    Raises UsageError where there is nothing to verify.
    """
    root = _root(settings)
    own = root / OWN_DIRECTORY
    if not any(own.glob(_MANIFESTS)):
        raise UsageError(Fault("FLAGJOB_DEST", str(root), "holds nothing of flagjob's: there is nothing to verify"))

    def on_finding(finding: Finding, file: str) -> None:
        log.finding(file, finding, is_failure=finding in _FAILURES)

    verification = Verification(root, on_finding, delete and not settings.dry_run, cancellation.check)
    try:
        with ExitStack() as ended:
            ended.callback(_forget, verification, own, root)
            code: int = ExitCode.OK if verification.run(manifest.read_entries(own)) else ExitCode.PERMANENT
    except StorageError as error:
        log.storage_failed(str(error))
        return ExitCode.STORAGE
    except Cancelled:
        code = 128 + (cancellation.signal or 0)
    log.verified(code, {finding.value: count for finding, count in verification.counts.items()})
    return code


def roll_back(settings: Settings, log: RunLog) -> int:
    """Show readers the set before the current one, and return the exit code."""
    if settings.dry_run:
        raise UsageError(Fault("--dry-run", None, "is for runs and for verify: rollback only flips a link"))
    try:
        shown = Generations(_directory(settings)).roll_back()
    except StorageError as error:
        log.storage_failed(str(error))
        return ExitCode.STORAGE
    log.info("rolled_back", generation=shown.name)
    return ExitCode.OK


def _forget(verification: Verification, own: Path, root: Path) -> None:
    if verification.deleted:
        manifest.forget(own, root / CHECKSUMS, verification.deleted)


def _root(settings: Settings) -> Path:
    """Return what readers see: the current set, if the destination is one of sets, else the destination itself."""
    destination = _directory(settings)
    has_files = any((destination / OWN_DIRECTORY).glob(_MANIFESTS))
    if has_files and settings.publish is not Publish.SET:
        return destination
    return Generations(destination).current or destination


def _directory(settings: Settings) -> Path:
    if settings.arguments:
        raise UsageError(Fault("arguments", " ".join(settings.arguments), "are codes, which are for runs only"))
    if is_bucket(settings.dest):
        raise UsageError(Fault("FLAGJOB_DEST", settings.dest, "must be a directory: a bucket's objects are not read"))
    return Path(settings.dest)


def _key(file: str) -> bytes:
    return blake2b(os.fsencode(file), digest_size=_KEY_BYTES).digest()
