"""The manifest of a run's shard, all manifests of a directory read as one, and the SHA256SUMS made from them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

from job.atomic_write import map_os_errors, replacing, sweep, sync_directory
from job.errors import Fault, UsageError
from job.file_table import FileTable
from job.layout import ALL_CODES, LOCK, Shard, checksums_name, find_manifests, manifest_name, name_folding
from job.manifest import records
from job.manifest.changes import Change, ChangeLog, change_of, encode_change, is_worth_recording, next_record, timestamp
from job.manifest.journal import Journal, Line, LineFile, newest_lines, read_first_line
from job.manifest.records import Record
from job.model import Entry, Result, Stored
from job.revalidation import unsigned_url

_QUERY_DIGEST_BYTES = 12
_NORMAL_SCHEMES = ("http:", "https:")
DEMO_SERVER = "built-in"
"""The origin's name in a run from the built-in demo server, which has another port each time."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ManifestScope:
    """Whose results a manifest holds: those of one origin, in one shard."""

    origin: str
    """Scheme, host and port, such as `https://example.org:8443`, or DEMO_SERVER."""
    shard: Shard = ALL_CODES
    table: FileTable | None = None
    """The table by which the items of the run are unique; None makes another one."""
    ignored_parameters: Collection[str] = ()
    """Parameters of a query that sign a URL, beside the well-known ones: another signature is no other URL."""


class Manifest:
    """The records of a shard's files, in one that survives a crash at any byte, and the changes of this run.

    Any thread may call `find`, one thread at a time everything else; there are no locks (see Journal). Every method may
    raise StorageError.

    A killed process keeps each result whose `record` has returned, because the line is in the kernel then. A power cut
    may take back lines since the last `close`. Damaged lines are skipped.

    Two processes may run one shard at the same time, as when Kubernetes starts a pod twice. They append to one file and
    each indexes the other's lines as it appends its own. If one of them compacts the file, the other goes on appending
    to the old file, which has no name any more; it notices that in its own `close` and merges its lines into the new
    file. Lines are lost if it is killed before, or if its `close` falls into the compaction: their files are requested
    again by the next run, and stay until then.

    Two jobs with other templates, `{cc}.gif` and `{cc}.png`, may have one destination, one after the other: records are
    found by the file, so both have theirs.

    Memory: that of its FileTable.
    """

    def __init__(
        self, directory: Path, checksums: Path, scope: ManifestScope, now: Callable[[], datetime] = _utc_now
    ) -> None:
        """Take where the manifest and the checksums lie, and whose results they hold.

        `directory` is created if it is missing. `checksums` is the path of a run without shards; a shard adds its own
        name.
        """
        self.directory = directory
        self.origin = scope.origin
        self._path = directory / manifest_name(scope.shard)
        self._checksums = checksums.with_name(checksums_name(scope.shard))
        self._shard = scope.shard
        self._ignored_parameters = scope.ignored_parameters
        self._now = now
        self._journal = Journal(self._path, scope.table)
        self._changes = ChangeLog(directory, scope.shard, now)
        self.on_change: Callable[[Change, str, Stored, Stored | None], None] | None = None
        """Called by `record` for each file that is new, changed or gone: with its code, the file, and what it was."""
        self.summary_facts: Mapping[str, object] = {}
        """What the summary of the changes says of the run beside their numbers, as JSON has it; `close` writes it."""

    @property
    def counts(self) -> dict[Change, int]:
        """The number of files that are new, changed, gone and unchanged so far."""
        return self._changes.counts

    def open(self, *, accept_new_origin: bool, table: FileTable | None = None) -> None:
        """Read the records of earlier runs. If this shard has no manifest yet, adopt its codes from other shard counts.

        `table`, if there is one, is used in place of the scope's: it folds names as the destination does.

        Raises UsageError, and changes nothing, if the destination was filled from another origin and that is not
        accepted.
        """
        if table is not None:
            self._journal = Journal(self._path, table)
        with map_os_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            manifests = find_manifests(self.directory)
        if not accept_new_origin:
            self._check_origin(manifests)
        sweep(self.directory / LOCK)
        if self._shard not in manifests:
            self._adopt([path for shard, path in manifests.items() if shard.count != self._shard.count])
        elif self._has_other_header():
            # The header names the origin before, or is damaged. It is the first line and lines never change, so the
            # file is replaced by one with a new header. That file has other offsets, so this journal has its own table.
            with closing(Journal(self._path)) as former:
                former.open(self.origin)
                self._compact([former])
        self._journal.open(self.origin)
        self._changes.open()

    def find(self, file: str) -> Entry | None:
        """Return the entry of a file; None before `open` and after `close`. Any thread may call it."""
        record = self._journal.find(file)
        return record.entry if record else None

    def recorded_url(self, url: str) -> str:
        """Return a URL as it is recorded: a query as its digest, the demo server's without scheme, host and port.

        A query may hold a secret, which must not be on a disk. Its digest is enough to see whether it is the same. A
        signature is left out, as it is another one each time.
        """
        if "?" not in url and self.origin != DEMO_SERVER and url.startswith(_NORMAL_SCHEMES):
            return url  # as it would be put together again, in a tenth of the time
        parts = urlsplit(unsigned_url(url, self._ignored_parameters))
        if parts.query:
            digest = blake2b(parts.query.encode(), digest_size=_QUERY_DIGEST_BYTES).hexdigest()
            parts = parts._replace(query=digest)
        if self.origin == DEMO_SERVER:
            parts = parts._replace(scheme="", netloc="")
        return parts.geturl()

    def record(self, results: Sequence[Result]) -> None:
        """Record how items ended, each of another file, in two writes.

        Invalid items leave no line, nor does an item without an attempt that adds nothing to its prior record, or that
        was cancelled and has none.

        A failure keeps the older file and its validators. If the URL is new, it keeps the file without validators and
        version, which would vouch for something else.
        """
        now = timestamp(self._now())
        changes: list[bytes] = []
        lines: dict[str, bytes] = {}
        for result in results:
            if result.file is None or result.url is None:  # an invalid item
                continue
            prior = self._journal.find(result.file)
            if is_worth_recording(prior, result):
                record = next_record(prior, result, result.file, self.recorded_url(result.url), now)
                lines[result.file] = records.encode(record)
                change = self._count_change(prior, result)
                if change and record.entry.stored:
                    changes.append(self._change_line(change, result, record.entry.stored, prior))
            elif result.data is not None:
                self.counts[Change.UNCHANGED] += 1
        # The lines of the changes first, those of the manifest second. A run that is killed in between leaves changes
        # that are not in the manifest: the next run finds the same differences and reports them once more. The other
        # way round the manifest would be up to date, and the changes would never be reported.
        if changes:
            self._changes.append(changes)
        if lines:
            self._journal.append(lines)

    def close(self) -> None:
        """Compact the manifest if it is worth it, renew SHA256SUMS if it would differ, and write the summary.

        Everything is on the disk when this returns. The files are closed in any case.
        """
        with ExitStack() as stack:
            stack.callback(self._changes.close)
            stack.callback(self._journal.close)
            # Lines of another process first: a compaction keeps only lines that are indexed.
            self._journal.refresh()
            journals = [self._journal]
            is_replaced = self._journal.is_replaced
            if is_replaced:
                # Another process has compacted the file, or an operator has removed it. This run's lines since then are
                # only in the file that is open here, those of other processes only in the one on the path.
                current = Journal(self._path)
                stack.callback(current.close)
                current.open(self.origin)
                journals.append(current)
            if is_replaced or self._journal.is_worth_compacting:
                self._compact(journals)
            else:
                self._journal.sync()
            # The journals still read the files that a compaction has replaced: they are open, and have the same lines.
            if is_replaced or self._may_differ_from_checksums or not self._checksums.exists():
                _write_checksums(self._checksums, self.directory, newest_lines(journals))
            # The summary is last. A run that is killed before leaves none, and the next run therefore writes SHA256SUMS
            # even if it finds nothing new.
            self._changes.finish(self.summary_facts)
            sync_directory(self.directory)

    def copy_changes(self, directory: Path) -> None:
        """Copy the list of changes, after `close`, to a directory that keeps those of as many runs as its own."""
        self._changes.copy_to(directory)

    def amend_copied_changes(self, directory: Path, facts: Mapping[str, object]) -> None:
        """Append to such a copy what came to be known of the run only after its summary was written."""
        self._changes.amend_copy(directory, facts)

    def _change_line(self, change: Change, result: Result, stored: Stored, prior: Record | None) -> bytes:
        """Return the line of a change, and report it."""
        if self.on_change:
            self.on_change(change, result.code, stored, prior.entry.stored if prior else None)
        return encode_change(change, result.code, stored, prior)

    def _count_change(self, prior: Record | None, result: Result) -> Change | None:
        """Count how a result changes its file; return the change if it gets a line."""
        change = change_of(prior, result)
        if change:
            self.counts[change] += 1
        return change if change is not Change.UNCHANGED else None

    @property
    def _may_differ_from_checksums(self) -> bool:
        """Return whether files came in this run, or the run before was killed before it wrote SHA256SUMS."""
        has_new_files = self.counts[Change.NEW] > 0 or self.counts[Change.CHANGED] > 0
        return has_new_files or not self._changes.follows_complete_run

    def _check_origin(self, manifests: dict[Shard, Path]) -> None:
        """Raise UsageError if a manifest of this shard count, or of any if this shard is new, has another origin."""
        for shard, path in manifests.items():
            if self._shard in manifests and shard.count != self._shard.count:
                continue  # an older shard count's: it was checked when this shard adopted from it
            origin = records.decode_origin(read_first_line(path))
            if origin not in {None, self.origin}:
                problem = f"the destination was filled from {origin} ({path.name}); to go on, FLAGJOB_NEW_ORIGIN=accept"
                raise UsageError(Fault("FLAGJOB_URL", self.origin, problem))

    def _has_other_header(self) -> bool:
        """Return whether this shard's manifest has a first line that does not name this run's origin."""
        first_line = read_first_line(self._path)
        return first_line != b"" and records.decode_origin(first_line) != self.origin

    def _adopt(self, others: Iterable[Path]) -> None:
        """Begin this shard's manifest with the files of its own codes from the manifests of other shard counts.

        The file appears complete or not at all, so a run that is killed meanwhile adopts again.
        """
        with ExitStack() as stack:
            journals = [Journal(path, only=self._shard) for path in others]
            for journal in journals:
                stack.callback(journal.close)
                journal.open_read_only()
            if journals:
                self._compact(journals)

    def _compact(self, journals: list[Journal]) -> None:
        """Replace the file, in one step, by one that has a header and the newest line of each file."""
        with replacing(self._path, self.directory / LOCK) as file:
            file.write(records.encode_header(self.origin) + b"\n")
            file.writelines(line + b"\n" for line, _ in newest_lines(journals))


def read_entries(directory: Path) -> Iterator[Entry]:
    """Yield the entry of each file in any manifest of a directory; of several entries the one checked last.

    Writes nothing, so it may be used while a run is under way. Memory: a FileTable for each manifest. Raises
    StorageError.
    """
    with _all_journals(directory) as journals:
        yield from _entries(newest_lines(list(journals.values())))


def forget(directory: Path, checksums: Path, files: Collection[str]) -> None:
    """Remove files from every manifest that has them, and from SHA256SUMS; the files themselves stay.

    `checksums` is the path of a run without shards. Raises StorageError.
    """
    with _all_journals(directory) as journals:
        for shard, journal in journals.items():
            known_records = list(filter(None, map(journal.find, files)))
            if known_records:
                _append_forgotten(directory / manifest_name(shard), known_records)
                journal.refresh()
                shard_checksums = checksums.with_name(checksums_name(shard))
                _write_checksums(shard_checksums, directory, journal.current_lines())


@contextmanager
def _all_journals(directory: Path) -> Iterator[dict[Shard, Journal]]:
    """Yield every manifest of a directory, open to be read."""
    fold = name_folding(directory.parent)
    with map_os_errors(directory):
        journals = {shard: Journal(path, FileTable(fold)) for shard, path in find_manifests(directory).items()}
    with ExitStack() as stack:
        for journal in journals.values():
            stack.callback(journal.close)
            journal.open_read_only()
        yield journals


def _append_forgotten(path: Path, forgotten: Iterable[Record]) -> None:
    """Append to a manifest that records are forgotten. Its file only grows, so a run may append at the same time."""
    file = LineFile(path)
    with closing(file):
        file.open(write=True)
        for record in forgotten:
            file.append([records.encode_forgotten(record.entry.code, record.entry.file)])
        file.sync()


def _write_checksums(path: Path, directory: Path, lines: Iterable[Line]) -> None:
    """Replace a SHA256SUMS file by the files of these lines of a manifest; raise StorageError if that fails.

    File names are relative to the directory of `path`. They hold no character that the format would need escaped.
    """
    with replacing(path, directory / LOCK) as file:
        stored_files = (entry.stored for entry in _entries(lines) if entry.stored)
        file.writelines(f"{stored.sha256}  {stored.path}\n".encode() for stored in stored_files)


def _entries(lines: Iterable[Line]) -> Iterator[Entry]:
    """Yield the entry of each line that is a record."""
    for _, fields in lines:
        record = records.record_of(fields)
        if record:
            yield record.entry
