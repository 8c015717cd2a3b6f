"""Maintenance of a destination without downloading: the commands verify and rollback."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b, file_digest
from pathlib import Path
from unicodedata import normalize

from job import manifest
from job.atomic_write import map_os_errors
from job.cancellation import Cancellation
from job.errors import Cancelled, Fault, PathError, StorageError, UsageError
from job.exit_code import ExitCode, signal_exit_code
from job.layout import CHECKSUMS, MANIFEST_FILES, OWN_DIRECTORY, is_bucket
from job.log import RunLog
from job.model import Entry, Status, Stored
from job.settings import Publish, Settings
from job.storage import Generations, is_same_time


class Finding(StrEnum):
    """The state of one file, as `verify` reports it."""

    WHOLE = "whole"
    CHANGED = "changed"
    """Its bytes are not those that were stored."""
    MISSING = "missing"
    UNKNOWN = "unknown"
    """It is in no entry of a manifest."""
    GONE = "gone"
    """It is whole, but the origin did not have it any more when it was last asked."""
    DELETED = "deleted"
    """It was gone, and this command has deleted it."""


_FAILURES = {Finding.CHANGED, Finding.MISSING}
_PATH_DIGEST_BYTES = 14


def verify(settings: Settings, log: RunLog, cancellation: Cancellation, *, delete: bool) -> int:
    """Hash every file of the destination, log those that are not whole, and return the exit code.

    If the destination has sets, verify the one that readers see. The exit code is 4 if a file is changed or missing
    (the next run repairs it), 5 if a file cannot be read, and 128 plus the number after a signal. With `delete`, files
    that the origin has no more are deleted, except in a dry run. Raises UsageError if there is nothing to verify.
    """
    root = published_directory(settings)
    if not has_manifest(root):
        raise UsageError(Fault("FLAGJOB_DEST", str(root), "was never filled by flagjob: there is nothing to verify"))

    def log_finding(finding: Finding, file: str) -> None:
        log.log_file(file, finding, is_failure=finding in _FAILURES)

    verification = Verification(root, log_finding, delete and not settings.dry_run, cancellation.check)
    try:
        is_intact = _verify_and_forget(verification)
    except StorageError as error:
        log.log_storage_error(str(error))
        return ExitCode.STORAGE
    except Cancelled:
        exit_code = signal_exit_code(cancellation.signal or 0)
    else:
        exit_code = int(ExitCode.OK if is_intact else ExitCode.PERMANENT)
    log.log_verify_finished(exit_code, {finding.value: count for finding, count in verification.counts.items()})
    return exit_code


def roll_back(settings: Settings, log: RunLog) -> int:
    """Show readers the set from which the current one was made, and return the exit code."""
    if settings.dry_run:
        raise UsageError(Fault("--dry-run", None, "is for run and verify only"))
    try:
        generation = Generations(_destination(settings)).roll_back()
    except StorageError as error:
        log.log_storage_error(str(error))
        return ExitCode.STORAGE
    log.info("rolled_back", generation=generation.name)
    return ExitCode.OK


def _destination(settings: Settings) -> Path:
    """Return the destination's directory; raise UsageError for a bucket, and for codes, which are for runs only."""
    refuse_codes(settings)
    if is_bucket(settings.dest):
        raise UsageError(Fault("FLAGJOB_DEST", settings.dest, "must be a directory: a bucket's objects are not read"))
    return Path(settings.dest)


def refuse_codes(settings: Settings) -> None:
    """Raise UsageError if there are codes, which are for runs only."""
    if settings.arguments:
        raise UsageError(Fault("arguments", " ".join(settings.arguments), "are codes, which only run takes"))


def published_directory(settings: Settings) -> Path:
    """Return the directory that readers see: the current set of a destination of sets, else the destination itself."""
    destination = _destination(settings)
    if has_manifest(destination) and settings.publish is not Publish.SET:
        return destination
    return Generations(destination).current or destination


def has_manifest(root: Path) -> bool:
    """Return whether a directory has the manifest of any shard."""
    return any((root / OWN_DIRECTORY).glob(MANIFEST_FILES))


def _verify_and_forget(verification: "Verification") -> bool:
    """Verify every file that a manifest lists, and forget those that were deleted."""
    directory = verification.root / OWN_DIRECTORY
    try:
        return verification.run(manifest.read_entries(directory))
    finally:
        # Also after a signal or a disk error: a file that stays in the manifest although it was deleted would be
        # reported as missing by the next verification. A kill before this line costs just that, and another
        # verification with `delete` mends it.
        if verification.deleted_files:
            manifest.forget(directory, verification.root / CHECKSUMS, verification.deleted_files)


@dataclass(slots=True)
class Verification:
    """One comparison of the files in a directory with the entries of its manifests. Memory: 110 bytes a file."""

    root: Path
    on_finding: Callable[[Finding, str], None]
    """Called with the path below `root` of each file that is not simply whole."""
    delete: bool = False
    """Whether files that the origin has no more are deleted; they are then in `deleted_files`."""
    before_file: Callable[[], None] = lambda: None
    """Called before each entry; an exception that it raises ends the verification."""
    counts: dict[Finding, int] = field(default_factory=lambda: dict.fromkeys(Finding, 0))
    deleted_files: list[str] = field(default_factory=list)
    _listed_paths: set[bytes] = field(default_factory=set)

    def run(self, entries: Iterable[Entry]) -> bool:
        """Read every file and return whether none is changed or missing; raise StorageError if one cannot be read."""
        for entry in entries:
            self.before_file()
            if entry.stored:
                self._listed_paths.add(_path_digest(entry.stored.path))
                self._report(self._inspect(entry, entry.stored), entry.stored.path)
        for file in self._unlisted_files():
            self._report(Finding.UNKNOWN, file)
        return all(self.counts[finding] == 0 for finding in _FAILURES)

    def _report(self, finding: Finding, file: str) -> None:
        self.counts[finding] += 1
        if finding is not Finding.WHOLE:
            self.on_finding(finding, file)

    def _inspect(self, entry: Entry, stored: Stored) -> Finding:
        path = self.root / stored.path
        is_gone = entry.status is Status.NOT_FOUND
        if is_gone and self.delete:
            return self._delete(stored.path, path)
        if not path.is_file() or path.is_symlink():
            return Finding.MISSING
        if not _verify_bytes(path, stored):
            return Finding.CHANGED
        return Finding.GONE if is_gone else Finding.WHOLE

    def _delete(self, file: str, path: Path) -> Finding:
        try:
            with map_os_errors(path):
                path.unlink(missing_ok=True)
        except PathError:  # it is no file, but a directory, for example
            return Finding.MISSING
        self.deleted_files.append(file)
        return Finding.DELETED

    def _unlisted_files(self) -> Iterator[str]:
        """Yield the path below `root` of each file that is in no entry, without those that flagjob itself keeps."""
        for directory, directories, files in os.walk(self.root):
            relative = Path(directory).relative_to(self.root)
            if relative == Path():
                directories[:] = [name for name in directories if name != OWN_DIRECTORY]  # the walk enters only these
            for name in files:
                file = str(relative / name)
                if _path_digest(file) not in self._listed_paths and not file.startswith(CHECKSUMS):
                    yield file


def _verify_bytes(path: Path, stored: Stored) -> bool:
    """Return whether a file has the bytes that were stored; raise StorageError if it cannot be read.

    A file with other bytes but the recorded mtime, as after a flipped bit, gets a new mtime: a run compares size and
    mtime only, and would take the file for unchanged.
    """
    with map_os_errors(path), path.open("rb") as file:
        is_whole = file_digest(file, "sha256").hexdigest() == stored.sha256
        if not is_whole and is_same_time(stored.version, os.fstat(file.fileno()).st_mtime_ns):
            os.utime(path)
    return is_whole


def _path_digest(file: str) -> bytes:
    """Return bytes that stand for a path, so that a long one takes no more memory than a short one.

    Names of items are in NFC; some file systems list them in NFD.
    """
    return blake2b(os.fsencode(normalize("NFC", file)), digest_size=_PATH_DIGEST_BYTES).digest()
