"""Status of a destination: what the last runs did, by their files of changes, and how old the files are."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from job import manifest
from job.atomic_write import map_os_errors
from job.cancellation import Cancellation
from job.display import Colour, Line, age_text, duration_text, is_terminal, size_text, table
from job.errors import Cancelled, Fault, StorageError, UsageError
from job.exit_code import ExitCode, outcome_name, signal_exit_code
from job.layout import CHANGES_DIRECTORY, OWN_DIRECTORY, is_bucket
from job.log import RunLog
from job.maintenance import has_manifest, published_directory, refuse_codes
from job.manifest import KILLED, UNFINISHED, PastRun
from job.model import Entry, Status
from job.progress import advice_texts
from job.settings import LogFormat, Settings
from job.storage import open_state, scratch_directory

_TAIL_BYTES = 4096
_KILLED_CODE = 137
"""What a shell and Kubernetes report of a process that SIGKILL ended; the runbook has a section about it."""
_UNKNOWN = "-"
_SUCCESS = outcome_name(ExitCode.OK)


@dataclass(slots=True)
class Files:
    """What the manifest says of the files at a destination."""

    files: int = 0
    bytes: int = 0
    gone: int = 0
    """Files that are here, but that the origin did not have when it was last asked."""
    errors: int = 0
    """Codes whose last attempt failed; a file may be here."""
    oldest_checked_at: str | None = None
    """When the origin last confirmed the file for which that is longest ago; ISO 8601 in UTC."""
    newest_checked_at: str | None = None

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        if entry.status is Status.ERROR:
            self.errors += 1
        if entry.stored is None:
            return
        self.files += 1
        self.bytes += entry.stored.bytes
        if entry.status is Status.NOT_FOUND:
            self.gone += 1
        time = entry.checked_at
        if time:
            self.oldest_checked_at = min(self.oldest_checked_at or time, time)
            self.newest_checked_at = max(self.newest_checked_at or time, time)


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """What is known of a destination."""

    runs: list[PastRun]
    """The last runs of all shards, the oldest first."""
    files: Files = field(default_factory=Files)


def status(settings: Settings, log: RunLog, cancellation: Cancellation, show: Callable[[list[Line]], int]) -> int:
    """Log what the last runs did and how old the files are, or `show` it in words, and return the exit code.

    Writes nothing to the destination and takes no lock there. The exit code is 5 if something cannot be read, and 128
    plus the number after a signal. Raises UsageError if there is nothing to show.
    """
    if settings.dry_run:
        raise UsageError(Fault("--dry-run", None, "is for run and verify only"))
    refuse_codes(settings)
    now = datetime.now(UTC)
    try:
        found = (
            _read_bucket(settings, cancellation, now)
            if is_bucket(settings.dest)
            else _read(settings, cancellation, now)
        )
    except StorageError as error:
        log.log_storage_error(str(error))
        return ExitCode.STORAGE
    except Cancelled:
        return signal_exit_code(cancellation.signal or 0)
    if settings.log_format in {LogFormat.JSON, LogFormat.GCP}:
        _log_status(log, settings.dest, found)
        return ExitCode.OK
    columns = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else sys.maxsize
    return show(status_lines(found, now, columns, log.masked))


def _read(settings: Settings, cancellation: Cancellation, now: datetime) -> DestinationStatus:
    """Return the status of a directory; in one of sets that of the set that readers see."""
    root = Path(settings.dest)
    while True:
        published = published_directory(settings)
        try:
            # Lists of changes lie beside the sets, and within each of them; where the former are missing, for example
            # as only the sets were copied, the latter have nearly the same.
            runs = manifest.read_past_runs(root / OWN_DIRECTORY, now)
            runs = runs or manifest.read_past_runs(published / OWN_DIRECTORY, now)
            has_files = has_manifest(published)
            if not runs and not has_files:
                raise _nothing_found(settings)
            return DestinationStatus(runs, _count_files(published, cancellation) if has_files else Files())
        except StorageError:
            # A run may have published another set meanwhile, and removed this one.
            if published_directory(settings) == published:
                raise


def _read_bucket(settings: Settings, cancellation: Cancellation, now: datetime) -> DestinationStatus:
    """Return the status of a bucket by local copies of the manifests, and of the ends of the lists of changes."""
    with ExitStack() as stack:
        scratch = scratch_directory(stack)
        state = open_state(settings.dest, Path(settings.ca_bundle) if settings.ca_bundle else None)
        directory = scratch / OWN_DIRECTORY
        state.download_manifests(directory)
        for name in state.list_names(CHANGES_DIRECTORY):
            cancellation.check()
            path = directory / Path(name).name
            with map_os_errors(path):
                path.write_bytes(_tail(state.read(name)))
        runs = manifest.read_past_runs(directory, now)
        if not runs and not has_manifest(scratch):
            raise _nothing_found(settings)
        return DestinationStatus(runs, _count_files(scratch, cancellation))


def _tail(chunks: Iterable[bytes]) -> bytes:
    """Return the last bytes of an object: a run uploads its list of changes with its summary, which says all."""
    tail = b""
    for chunk in chunks:
        tail = (tail + chunk)[-_TAIL_BYTES:]
    return tail


def _nothing_found(settings: Settings) -> UsageError:
    return UsageError(Fault("FLAGJOB_DEST", settings.dest, "was never filled by flagjob: there is nothing to show"))


def _count_files(root: Path, cancellation: Cancellation) -> Files:
    """Return the numbers of the files below a directory, by its manifests; raise StorageError or Cancelled."""
    files = Files()
    for entry in manifest.read_entries(root / OWN_DIRECTORY):
        cancellation.check()
        files.add(entry)
    return files


def _log_status(log: RunLog, destination: str, found: DestinationStatus) -> None:
    """Write an event for each run and one for the files; nobody who asks for them wants fewer by a level."""
    for run in found.runs:
        fields = asdict(run)
        fields["shard"] = run.shard.index
        log.log_plan("past_run", **fields, shards=run.shard.count)
    log.log_plan("status", dest=destination, runs=len(found.runs), **asdict(found.files))


# In words


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table of runs."""

    title: str
    cell: Callable[[PastRun], str]
    is_right: bool = True
    is_always_shown: bool = True
    """Whether it is there also if no run has anything in it."""


def status_lines(found: DestinationStatus, now: datetime, columns: int, mask: Callable[[str], str]) -> list[Line]:
    """Return the table of the runs, the state of the files, and what to do about the last run, in so many columns.

    `mask` masks secrets in a text, before anything is cut.
    """
    lines = [*_run_lines(found.runs, columns, mask), Line("")] if found.runs else []
    lines += map(Line, _file_texts(found.files, now))
    if found.runs:
        lines += _last_run_lines(_run_to_explain(found.runs), now, columns, mask)
    return lines


def _run_lines(runs: Sequence[PastRun], columns: int, mask: Callable[[str], str]) -> Iterator[Line]:
    """Yield the head of the table and a line for each run."""
    shown = [column for column in _columns_of(runs) if column.is_always_shown or _is_filled(column, runs)]
    rows = [tuple(column.title for column in shown)]
    rows += [tuple(mask(column.cell(run)) for column in shown) for run in runs]
    right = frozenset(number for number, column in enumerate(shown) if column.is_right)
    head, *texts = table(rows, columns, right)
    yield Line(head, Colour.BOLD)
    for run, text in zip(runs, texts, strict=True):
        yield Line(text, _colour_of(run))


def _columns_of(runs: Sequence[PastRun]) -> list[_Column]:
    has_shards = any(run.shard.count > 1 for run in runs)
    has_names = len({run.job for run in runs}) > 1
    return [
        _Column("ended (UTC)", lambda run: run.ended_at[:16].replace("T", " "), is_right=False),
        *([_Column("shard", lambda run: run.shard.label, is_right=False)] if has_shards else []),
        *([_Column("name", lambda run: run.job or _UNKNOWN, is_right=False)] if has_names else []),
        _Column("outcome", lambda run: run.outcome or _UNKNOWN, is_right=False),
        _Column("exit", lambda run: _number_cell(run.exit_code)),
        _Column("new", lambda run: _number_cell(run.new)),
        _Column("changed", lambda run: _number_cell(run.changed)),
        _Column("gone", lambda run: _number_cell(run.gone)),
        _Column("unchanged", lambda run: _number_cell(run.unchanged), is_always_shown=False),
        _Column("not found", _count_cell(Status.NOT_FOUND), is_always_shown=False),
        _Column("errors", _count_cell(Status.ERROR), is_always_shown=False),
        _Column("cancelled", _count_cell(Status.CANCELLED), is_always_shown=False),
        _Column("received", lambda run: _UNKNOWN if run.bytes is None else size_text(run.bytes)),
        _Column("took", lambda run: _UNKNOWN if run.duration_s is None else duration_text(run.duration_s)),
    ]


def _is_filled(column: _Column, runs: Iterable[PastRun]) -> bool:
    return any(column.cell(run) not in {"0", _UNKNOWN} for run in runs)


def _number_cell(number: int | None) -> str:
    return _UNKNOWN if number is None else str(number)


def _count_cell(status: Status) -> Callable[[PastRun], str]:
    """Return a function that shows how many items of a run had a status."""
    return lambda run: _number_cell((run.counts or {}).get(status))


def _colour_of(run: PastRun) -> Colour | None:
    if run.outcome in {None, _SUCCESS}:
        return None
    return Colour.YELLOW if run.outcome == UNFINISHED else Colour.RED


def _file_texts(files: Files, now: datetime) -> Iterator[str]:
    """Yield how many files there are, and how old they are by the answers of the origin."""
    if not files.files:
        yield "No files."
    else:
        noun = "file" if files.files == 1 else "files"
        yield f"{files.files} {noun}, {size_text(files.bytes)}{_confirmed_text(files, now)}."
    if files.gone:
        yield f"{files.gone} gone: the origin has no such file any more, and it is still here."
    if files.errors:
        yield f"{files.errors} in error: the last attempt failed."


def _confirmed_text(files: Files, now: datetime) -> str:
    if files.newest_checked_at is None or files.oldest_checked_at is None:
        return ""
    newest = _age(files.newest_checked_at, now)
    oldest = _age(files.oldest_checked_at, now)
    return f", confirmed by the origin {newest}" + ("" if oldest == newest else f", the oldest {oldest}")


def _age(time: str, now: datetime) -> str:
    """Return how long ago a recorded time was; a text that is no time, in a damaged file, as it is."""
    try:
        return age_text((now - datetime.fromisoformat(time)).total_seconds())
    except (ValueError, TypeError):
        return time


def _run_to_explain(runs: Sequence[PastRun]) -> PastRun:
    """Return the last run, or, of the last runs of as many shards, the last one that did not succeed."""
    count = runs[-1].shard.count
    last_runs = {run.shard: run for run in runs if run.shard.count == count}
    failed = [run for run in runs if run is last_runs.get(run.shard) and _colour_of(run)]
    return failed[-1] if failed else runs[-1]


def _last_run_lines(run: PastRun, now: datetime, columns: int, mask: Callable[[str], str]) -> Iterator[Line]:
    """Yield how the last run ended, and what to do unless it succeeded."""
    of_shard = f" of shard {run.shard.label}" if run.shard.count > 1 else ""
    age = _age(run.ended_at, now)
    if run.outcome is None:
        yield Line(f"The last run{of_shard} ended {age}.")
        return
    is_killed = run.outcome in {KILLED, UNFINISHED}
    exit_code = _KILLED_CODE if is_killed else run.exit_code
    if run.outcome == UNFINISHED:
        text = f"The last run{of_shard} is not over, or was killed; it last found a change {age}."
        next_step = "If it was killed:"
    else:
        text = mask(f"The last run{of_shard} ended {age}: {run.outcome}.")
        next_step = "What to do:"
    yield Line(text, _colour_of(run))
    if exit_code:
        yield Line(next_step, Colour.BOLD)
        outcome = KILLED if is_killed else run.outcome
        for advice in advice_texts(run.reasons or {}, outcome, exit_code, columns):
            yield Line(mask(advice))
