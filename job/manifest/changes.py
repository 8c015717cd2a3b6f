"""The changes of one run: the record of a file after a result, and changes.jsonl, the list of changed files."""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import orjson

from job.atomic_write import map_os_errors, replacing
from job.layout import ALL_CODES, CLOCK_TOLERANCE, LABEL_PATTERN, LINES_SUFFIX, LOCK, Shard, changes_stem
from job.manifest.journal import LONGEST_LINE_BYTES, LineFile
from job.manifest.records import Record
from job.model import Entry, Result, Status, Stored

T = TypeVar("T")
_ANSWERS = {Status.OK, Status.UNCHANGED, Status.NOT_FOUND}
"""The statuses that are the origin's own answer about the file; after an error or a cancellation its state is open."""
_OLDER_FILES = 10
_SUMMARY = "summary"
_SUMMARY_PREFIX = b'{"change":"summary",'
_TAIL_BYTES = 4096
"""More than the longest summary."""
_FILE = re.compile(
    rf"{changes_stem(ALL_CODES)}(?:-{LABEL_PATTERN})?"
    rf"(?:-(\d{{8}}T\d{{6}})(?:\.\d{{6}})?Z(?:-(\d+))?)?{re.escape(LINES_SUFFIX)}"
)
"""The name of a file of changes: shard, date in a directory or in a bucket, and number, each if it has one."""
KILLED = "killed"
UNFINISHED = "unfinished"
"""The outcome of a run that is under way, or was killed and no later run has begun."""


_DATE_PARTS = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


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
    date = _file_date(_time_of(path.stat().st_mtime))
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


def _time_of(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return _tail_line(file)


def _tail_line(file: BinaryIO) -> bytes:
    """Return the last line of an open file, without its line end; nothing if it is empty."""
    file.seek(max(os.fstat(file.fileno()).st_size - _TAIL_BYTES, 0))
    lines = file.read().splitlines()
    return lines[-1] if lines else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """What a file of changes says of its run; None where it does not, as in a file of an early version."""

    shard: Shard
    ended_at: str
    """When it ended, or last wrote into the file if it has no summary; ISO 8601 in UTC."""
    outcome: str | None
    """As `run_finished` has it, or KILLED or UNFINISHED."""
    new: int | None
    changed: int | None
    gone: int | None
    unchanged: int | None = None
    job: str | None = None
    run_id: str | None = None
    exit_code: int | None = None
    started_at: str | None = None
    reasons: Mapping[str, int] | None = None
    """The most frequent reasons of items without a file, with their numbers."""
    counts: Mapping[str, int] | None = None
    bytes: int | None = None
    duration_s: float | None = None


def read_past_runs(directory: Path, now: datetime) -> list[PastRun]:
    """Return the last runs of all shards, the oldest first: one for each file of changes in a directory.

    Writes nothing, takes no lock, and may be used while runs of any shard are under way. Memory: some kilobytes for
    each run. Raises StorageError; a missing directory has no runs.
    """
    found: dict[tuple[int, int], tuple[tuple[object, ...], PastRun]] = {}
    # What is dated later was written while a clock was ahead, and goes before the others.
    horizon = timestamp(now + CLOCK_TOLERANCE)
    # The newest files before the dated ones: one that a run renames in between is met again by its new name, and known.
    # In the other order it would be missed.
    for is_dated in (False, True):
        for path, match in _change_files(directory, is_dated=is_dated):
            with map_os_errors(path), suppress(FileNotFoundError), path.open("rb") as file:
                status = os.fstat(file.fileno())
                run = _past_run(file, match, status.st_mtime)
                # After the time what tells runs of one second apart; in a bucket the name has the microseconds.
                order = (run.ended_at < horizon, run.ended_at, not is_dated, int(match[4] or 0), path.name)
                found.setdefault((status.st_dev, status.st_ino), (order, run))
    return [run for _, run in sorted(found.values(), key=itemgetter(0))]


def _change_files(directory: Path, *, is_dated: bool) -> list[tuple[Path, re.Match[str]]]:
    """Return the files of changes whose names have a date, or have none."""
    with map_os_errors(directory), suppress(FileNotFoundError, NotADirectoryError):
        matches = [(path, _FILE.fullmatch(path.name)) for path in directory.iterdir()]
        return [(path, match) for path, match in matches if match and bool(match[3]) == is_dated]
    return []


def _past_run(file: BinaryIO, name: re.Match[str], written_at: float) -> PastRun:
    """Return what an open file says of its run; `name` is the match of its name."""
    shard = Shard(int(name[1] or 0), int(name[2] or 1))
    summary = _parse_summary(_tail_line(file))
    if summary is not None:
        return _finished_run(shard, summary)
    counts = _count_lines(file)
    # A dated file was renamed by a later run of the shard, so this one is over.
    date = name[3]
    return PastRun(
        shard=shard,
        ended_at=_DATE_PARTS.sub(r"\1-\2-\3T\4:\5:\6Z", date) if date else timestamp(_time_of(written_at)),
        outcome=KILLED if date else UNFINISHED,
        new=counts[Change.NEW],
        changed=counts[Change.CHANGED],
        gone=counts[Change.GONE],
    )


def _finished_run(shard: Shard, summary: Mapping[str, Any]) -> PastRun:
    """Return a run by its summary, in which early versions had less, and damage may have left anything."""
    return PastRun(
        shard=shard,
        ended_at=summary["finished_at"],
        outcome=_typed(summary, "outcome", str),
        new=_typed(summary, "new", int),
        changed=_typed(summary, "changed", int),
        gone=_typed(summary, "gone", int),
        unchanged=_typed(summary, "unchanged", int),
        job=_typed(summary, "job", str),
        run_id=_typed(summary, "run_id", str),
        exit_code=_typed(summary, "exit_code", int),
        started_at=_typed(summary, "started_at", str),
        reasons=_numbers(summary.get("reasons")),
        counts=_numbers(summary.get("counts")),
        bytes=_typed(summary, "bytes", int),
        duration_s=_typed(summary, "duration_s", float),
    )


def _typed(fields: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = fields.get(name)
    return value if type(value) is kind else None


def _numbers(value: object) -> dict[str, int] | None:
    """Return an object of JSON whose values are numbers, or None if it is something else."""
    if isinstance(value, dict) and all(type(number) is int for number in value.values()):
        return value
    return None


def _parse_summary(line: bytes) -> dict[str, Any] | None:
    """Return a summary with the time of its end, or None if the line is another one, or is damaged."""
    if not line.startswith(_SUMMARY_PREFIX):
        return None
    try:
        summary: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    finished_at = summary.get("finished_at")
    return summary if isinstance(finished_at, str) and _TIMESTAMP.fullmatch(finished_at) else None


def _count_lines(file: BinaryIO) -> dict[Change, int]:
    """Return how many lines of each change a file has; a damaged line has no beginning that is known."""
    file.seek(0)
    counts = dict.fromkeys(Change, 0)
    # In parts of a bounded length, as a file system may leave a hole of gigabytes after a power cut.
    for line in iter(partial(file.readline, LONGEST_LINE_BYTES), b""):
        for change in Change:
            if line.startswith(b'{"change":"%s",' % change.encode()):
                counts[change] += 1
    return counts
