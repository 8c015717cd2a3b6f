"""The commands that look after a destination without downloading: verify and roll back."""

from contextlib import ExitStack
from pathlib import Path

from job import manifest
from job.audit import Audit, Finding
from job.cancellation import Cancellation
from job.errors import Cancelled, Fault, StorageError, UsageError
from job.exit_code import ExitCode
from job.log import RunLog
from job.settings import BUCKETS, Publish, Settings
from job.store import OWN_DIRECTORY, Generations
from job.target import SUMS


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

    def tell(finding: Finding, file: str) -> None:
        log.finding(file, finding, is_failure=finding in _FAILURES)

    audit = Audit(root, tell, delete and not settings.dry_run, cancellation.check)
    try:
        with ExitStack() as ended:
            ended.callback(_forget, audit, own, root)
            code: int = ExitCode.OK if audit.run(manifest.entries(own)) else ExitCode.PERMANENT
    except StorageError as error:
        log.storage_failed(str(error))
        return ExitCode.STORAGE
    except Cancelled:
        code = 128 + (cancellation.signal or 0)
    log.verified(code, {finding.value: count for finding, count in audit.counts.items()})
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


_MANIFESTS = "manifest*.jsonl"
_FAILURES = {Finding.CHANGED, Finding.MISSING}


def _forget(audit: Audit, own: Path, root: Path) -> None:
    if audit.deleted:
        manifest.forget(own, root / SUMS, audit.deleted)


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
    if settings.dest.startswith(BUCKETS):
        raise UsageError(Fault("FLAGJOB_DEST", settings.dest, "must be a directory: a bucket's objects are not read"))
    return Path(settings.dest)
