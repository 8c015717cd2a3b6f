"""The changes of one run: the record of a file after a result, and changes.jsonl, the list of changed files."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import orjson

from job.atomic_write import map_os_errors, replacing
from job.layout import CLOCK_TOLERANCE, LINES_SUFFIX, LOCK, Shard, changes_stem
from job.manifest.journal import LineFile
from job.manifest.records import Record
from job.model import Entry, Result, Status, Stored

_ANSWERS = {Status.OK, Status.UNCHANGED, Status.NOT_FOUND}
"""The statuses that are the origin's own answer about the file; after an error or a cancellation its state is open."""
_OLDER_FILES = 10
_SUMMARY = "summary"
_SUMMARY_PREFIX = b'{"change":"summary",'
_TAIL_BYTES = 4096
"""More than the longest summary."""


class Change(StrEnum):
    """How a run changed a file."""

    NEW = "new"
    """The file is here for the first time, or again after it was gone."""
    CHANGED = "changed"
    GONE = "gone"
    """The origin has the file no more. It is reported once, and the file stays."""
    UNCHANGED = "unchanged"


def is_worth_recording(prior: Record | None, result: Result) -> bool:
    """Return whether a result belongs in the manifest.

    It does if the origin was asked. Without an attempt it does only if it adds something to the prior record: a line
    has the time of a check, and must not claim one that did not happen. Without a prior record every status but
    `cancelled` adds something.
    """
    if result.attempts:
        return True
    if prior is None:
        return result.status is not Status.CANCELLED
    return result.data is not None and result.data != prior.entry.stored


def change_of(prior: Record | None, result: Result) -> Change | None:
    """Return how a result changes its file; None if that is unknown, or if there is no file.

    =============  =============  =============================
    prior file        result         change
    =============  =============  =============================
    here              not found      gone
    none, or gone     not found      none
    any               no file        none (an error, a cancellation)
    none, or gone     a file         new
    here              same bytes     unchanged
    here              other bytes    changed
    =============  =============  =============================
    """
    file_here = None if prior is None or prior.gone else prior.entry.stored
    if result.status is Status.NOT_FOUND:
        return Change.GONE if file_here else None
    if result.data is None:
        return None
    if file_here is None:
        return Change.NEW
    return Change.UNCHANGED if file_here.sha256 == result.data.sha256 else Change.CHANGED


def next_record(prior: Record | None, result: Result, file: str, url: str, now: str) -> Record:
    """Return the record of a file after a result.

    `url` is the item's URL as it is recorded, `now` the time as `timestamp` returns it. A result without data keeps the
    older data. Without an attempt the time of the last check stays, too: nothing was confirmed.
    """
    if prior:
        before = prior.entry
    else:
        before = Entry(result.code, url, file, result.status, None, "", None, attempts=0, reason=None)
    stored = result.data or _older_file(before, url)
    has_new_bytes = result.data is not None and (before.stored is None or before.stored.sha256 != result.data.sha256)
    entry = Entry(
        code=result.code,
        url=url,
        file=file,
        status=result.status,
        stored=stored,
        checked_at=now if result.attempts and result.status in _ANSWERS else before.checked_at,
        changed_at=now if has_new_bytes else before.changed_at,
        attempts=result.attempts,
        reason=result.reason,
    )
    return Record(entry, gone=stored is not None and _is_gone(prior, result.status))


def _older_file(before: Entry, url: str) -> Stored | None:
    """Return the file that stays, without validators and version if they were recorded for another URL."""
    if before.stored is None or before.url == url:
        return before.stored
    return replace(before.stored, etag=None, last_modified=None, version=None)


def _is_gone(prior: Record | None, status: Status) -> bool:
    """Return whether the origin has the file no more; an error leaves that as it was."""
    if status in _ANSWERS:
        return status is Status.NOT_FOUND
    return prior is not None and prior.gone


def encode_change(change: Change, code: str, stored: Stored, prior: Record | None) -> bytes:
    """Return the line of a change; `stored` is at the destination now, `prior` is the record before."""
    line = {"change": change, "code": code, "file": stored.path}
    if change is Change.CHANGED and prior and prior.entry.stored:
        line["old_sha256"] = prior.entry.stored.sha256
    line["sha256"] = stored.sha256
    return orjson.dumps(line)


class ChangeLog:
    """The file that lists the changes of one run as they happen. For one thread; every method may raise StorageError.

    The summary is the last line that a run writes, after everything else is on the disk. A file without a summary
    therefore belongs to a run that was killed, and the next run writes SHA256SUMS even if it finds no change.
    """

    def __init__(self, directory: Path, shard: Shard, now: Callable[[], datetime]) -> None:
        self.counts = dict.fromkeys(Change, 0)
        """How many files so far; the unchanged ones are counted only and have no line."""
        self.follows_complete_run = False
        """Whether the run before ended with its summary; False also if there is no file of a run before."""
        self._shard = shard
        self._file = LineFile(directory / _file_name(shard))
        self._now = now
        self._started_at = ""

    def open(self) -> None:
        """Rename the file of the run before by the time of its last line, delete the oldest files, begin a new one."""
        now = self._now()
        self._started_at = timestamp(now)
        self.follows_complete_run = _rotate(self._file.path.parent, self._shard, now)
        self._file.open(write=True)

    def append(self, lines: Iterable[bytes]) -> None:
        """Append the lines of changes, in one write."""
        self._file.append(lines)

    def finish(self, facts: Mapping[str, object]) -> None:
        """Append the summary, with what else is known of the run, and flush every line to the disk."""
        counts = {change.value: count for change, count in self.counts.items()}
        times = {"started_at": self._started_at, "finished_at": timestamp(self._now())}
        self._file.append([orjson.dumps({"change": _SUMMARY, **counts, **times, **facts})])
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def copy_to(self, directory: Path) -> None:
        """Copy the file, whole or not at all, to a directory where it is the newest of those of earlier runs."""
        _rotate(directory, self._shard, self._now())
        path = self._file.path
        with replacing(directory / path.name, directory / LOCK) as copy, path.open("rb") as original:
            shutil.copyfileobj(original, copy)

    def amend_copy(self, directory: Path, facts: Mapping[str, object]) -> None:
        """Append the summary to a copy once more, with facts that were not known before: the last line counts."""
        path = directory / self._file.path.name
        copy = LineFile(path)
        with map_os_errors(path), closing(copy):
            former = orjson.loads(_last_line(path))
            copy.open(write=True)
            copy.append([orjson.dumps({**former, **facts})])


def _rotate(directory: Path, shard: Shard, now: datetime) -> bool:
    """Rename a shard's newest file by the time of its last line, and delete the oldest of its other ones.

    Returns whether the newest one ended with its summary; False also if there was none. Raises StorageError.
    """
    path = directory / _file_name(shard)
    is_complete = False
    with map_os_errors(path):
        # There is no such file in a first run, or if another process of this shard has just renamed it. Two processes
        # that begin together may append to one file; each line names its code, so nothing is lost.
        with suppress(FileNotFoundError):
            is_complete = _last_line(path).startswith(_SUMMARY_PREFIX)
            path.replace(_dated_path(path, shard, now))
        for _, older in _older_files(directory, shard, now)[:-_OLDER_FILES]:
            older.unlink(missing_ok=True)
    return is_complete


def _dated_path(path: Path, shard: Shard, now: datetime) -> Path:
    """Return an unused path with the time of the last write; runs of one second get numbers: none, 1, 2."""
    date = _file_date(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    older_files = _older_files(path.parent, shard, now)
    used_numbers = [number for (other_date, number), _ in older_files if other_date == date]
    suffix = f"-{max(used_numbers) + 1}" if used_numbers else ""
    return path.with_name(f"{changes_stem(shard)}-{date}{suffix}{LINES_SUFFIX}")


def _older_files(directory: Path, shard: Shard, now: datetime) -> list[tuple[tuple[str, int], Path]]:
    """Return the dates, numbers and paths of the older runs' files, the oldest first.

    Dates to come are those of a clock that was ahead. They go before the others, or they would keep them out.
    """
    pattern = re.compile(rf"{changes_stem(shard)}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?{re.escape(LINES_SUFFIX)}")
    horizon = _file_date(now + CLOCK_TOLERANCE)
    older = []
    for path in directory.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            older.append(((match[1], int(match[2] or 0)), path))
    return sorted(older, key=lambda found: (found[0][0] < horizon, found))


def _file_name(shard: Shard) -> str:
    """Return the name of the file of a shard's last run."""
    return f"{changes_stem(shard)}{LINES_SUFFIX}"


def timestamp(time: datetime) -> str:
    """Return a time as it is recorded: ISO 8601 in UTC, to the second, so that texts compare as times do."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _file_date(time: datetime) -> str:
    """Return a time as the names of older files have it, to the second in UTC."""
    return f"{time.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        lines = file.read().splitlines()
    return lines[-1] if lines else b""
