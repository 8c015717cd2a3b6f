"""The commands that look after a destination without downloading: verify and roll back."""

from pathlib import Path

from job import manifest
from job.audit import Audit, Finding
from job.errors import Fault, StorageError, UsageError
from job.log import RunLog
from job.settings import BUCKETS, Settings
from job.store import OWN_DIRECTORY, Generations
from job.target import SUMS
from job.verdict import Exit


def verify(settings: Settings, log: RunLog, *, delete: bool) -> int:
    """Hash every file of the destination, of a set those that readers see, and say which are not what they were.

    Returns the exit code: 4 where a file is changed or missing, which the next run repairs.
    Raises UsageError where there is nothing to verify.
    """
    destination = _directory(settings)
    root = Generations(destination).current or destination
    own = root / OWN_DIRECTORY
    if not any(own.glob("manifest*.jsonl")):
        raise UsageError(Fault("FLAGJOB_DEST", str(root), "holds nothing of flagjob's: there is nothing to verify"))
    audit = Audit(root, lambda finding, file: log.finding(file, finding, is_failure=finding in _FAILURES), delete)
    try:
        well = audit.run(manifest.entries(own))
        if audit.deleted:
            manifest.forget(own, root / SUMS, audit.deleted)
    except StorageError as error:
        log.storage_failed(str(error))
        return Exit.STORAGE
    code = Exit.OK if well else Exit.PERMANENT
    log.verified(code, {finding.value: count for finding, count in audit.counts.items()})
    return code


def roll_back(settings: Settings, log: RunLog) -> int:
    """Show readers the set before the current one, and return the exit code."""
    try:
        shown = Generations(_directory(settings)).roll_back()
    except StorageError as error:
        log.storage_failed(str(error))
        return Exit.STORAGE
    log.info("rolled_back", generation=shown.name)
    return Exit.OK


_FAILURES = {Finding.CHANGED, Finding.MISSING}


def _directory(settings: Settings) -> Path:
    if settings.dest.startswith(BUCKETS):
        raise UsageError(Fault("FLAGJOB_DEST", settings.dest, "must be a directory: a bucket's objects are not read"))
    return Path(settings.dest)
