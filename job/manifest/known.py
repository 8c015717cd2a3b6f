"""The manifest of a run: opened before the first item, told every result, closed after the last."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from urllib.parse import urlsplit

from job.atomic_write import map_os_errors, replacing, sweep, sync_directory
from job.errors import Fault, UsageError
from job.layout import LOCK, find_manifests, manifest_name
from job.manifest import history, lines, sums
from job.manifest.changes import Changes, stamp
from job.manifest.history import Change
from job.manifest.journal import Journal, newest
from job.manifest.line_file import first_line
from job.model import Entry, InvalidItem, Item, Result, WorkItem
from job.shard import Shard

_QUERY_BYTES = 12
DEMO_SERVER = "built-in"
"""The name of the built-in origin, which has another port each time."""


def _every(_code: str) -> bool:
    return True


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Manifest:
    """What is known of each code, in a file that survives a crash at any byte, and what this run changes in it.

    `find` may be called by any thread, all else by one at a time; there are no locks. All may raise StorageError.
    A result's line reaches the kernel before `record` returns, so a killed process keeps what it did; a power cut
    may take back what came after the last `close`. Damaged lines are passed over.

    Two pods may run one shard at the same time: each sees the other's lines as it adds its own. If one
    compacts the file while the other goes on, the other merges what it has at its own close; only if it is
    killed before are its lines since then lost, which means that those codes are asked for anew.
    Memory: about 110 bytes a code.
    """

    directory: Path
    """Where it lies: `.flagjob` below the destination; made if it is missing."""
    sums: Path
    """`SHA256SUMS` at the destination; a shard's has the shard in its name, too."""
    _: KW_ONLY
    origin: str
    """Scheme, host and port as `https://example.org:8443`, or BUILT_IN."""
    shard: int = 0
    shards: int = 1
    mine: Callable[[str], bool] = _every
    """Whether a code belongs to this shard."""
    now: Callable[[], datetime] = _now
    _own: Shard = field(init=False, repr=False)
    _journal: Journal = field(init=False, repr=False)
    _changes: Changes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._own = Shard(self.shard, self.shards)
        self._journal = Journal(self._path)
        self._changes = Changes(self.directory, self._own, self.now)

    @property
    def counts(self) -> dict[Change, int]:
        """How many codes are new, changed, gone and unchanged so far."""
        return self._changes.counts

    def open(self, *, accept_new_origin: bool) -> None:
        """Read what is known; of another shard count's manifests what is ours, if this shard has none yet.

        Raises UsageError, with nothing touched, if the destination was filled from another origin and that is not
        accepted. Looked at are the manifests of this shard count, and where this one is new, all.
        """
        with map_os_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            found = find_manifests(self.directory)
        if not accept_new_origin:
            self._refuse_another_origin(found)
        sweep(self.directory / LOCK)
        if self._own not in found:
            self._inherit([path for shard, path in found.items() if shard.count != self.shards])
        self._journal.open(self.origin)
        if self._journal.origin != self.origin:
            self._rewrite(newest([self._journal]))
            self._journal.close()
            self._journal = Journal(self._path)
            self._journal.open(self.origin)
        self._changes.open()

    def find(self, code: str) -> Entry | None:
        """Return what is known of a code; nothing before `open` and after `close`. Any thread may call it."""
        row = self._journal.row(code)
        return row.entry if row else None

    def entries(self) -> Iterator[Entry]:
        """Yield what is known of each code, in the order of the file, in bounded memory."""
        for line in self._journal.live():
            if row := lines.load(line):
                yield row.entry

    def recorded_url(self, url: str) -> str:
        """Return a URL as entries hold it: the built-in origin's without scheme, host and port, and a query as digest.

        A query may hold a signature, which has no business on a disk; that it is the same can be told without it.
        """
        parts = urlsplit(url)
        if parts.query:
            parts = parts._replace(query=blake2b(parts.query.encode(), digest_size=_QUERY_BYTES).hexdigest())
        if self.origin == DEMO_SERVER:
            parts = parts._replace(scheme="", netloc="")
        return parts.geturl()

    def record(self, item: Item, result: Result) -> None:
        """Take in how an item ended. Invalid items, and those that nobody asked the origin about, leave no line.

        A failure keeps the older file and its validators; only where URL or file name are new does it keep
        nothing that could vouch for the file there: no validators, no version.
        """
        if isinstance(item, InvalidItem):
            return
        known = self._journal.row(item.code)
        if not history.is_news(known, result):
            self.counts[Change.UNCHANGED] += result.data is not None
            return
        row = history.learned(known, item, self.recorded_url(item.url), result, stamp(self.now()))
        change = history.change(known, result)
        if change and row.entry.stored:
            # first, so that after a crash in between the next run tells it once more rather than never
            self._changes.add(change, item.code, row.entry.stored, known.entry.stored if known else None)
        self._journal.append(lines.dump(row))
        if change is Change.NEW:
            self._take_over(item)

    def close(self) -> None:
        """Compact what pays, renew SHA256SUMS if it would differ, tell the summary; then all of it is on the disk."""
        with ExitStack() as stack:
            stack.callback(self._changes.close)
            stack.callback(self._journal.close)
            self._journal.learn()
            journals, replaced = [self._journal], self._journal.is_replaced
            if replaced:
                rival = Journal(self._path)
                stack.callback(rival.close)
                rival.open(self.origin)
                journals.append(rival)
            if replaced or self._journal.is_worth_compacting:
                self._rewrite(newest(journals))
            else:
                self._journal.sync()
            listed = sums.checksums_path(self.sums, self._own)
            if replaced or self._has_other_files or not listed.exists():
                sums.write(listed, self.directory, newest(journals))
            self._changes.finish()
            sync_directory(self.directory)

    def _take_over(self, item: WorkItem) -> None:
        """Forget the code that had this file before, under a template that read items in another way."""
        stem = item.file.rpartition(".")[0] or item.file
        for code in {item.file, stem, item.file.upper(), stem.upper()} - {item.code}:
            other = self._journal.row(code)
            if other and other.entry.stored and other.entry.stored.path == item.file:
                self._journal.append(lines.forgotten(code))

    @property
    def _path(self) -> Path:
        return self.directory / manifest_name(self._own)

    @property
    def _has_other_files(self) -> bool:
        """SHA256SUMS may be out of date: files came, or the run before was killed and nobody knows."""
        return not self._changes.follows_a_whole_run or self.counts[Change.NEW] + self.counts[Change.CHANGED] > 0

    def _refuse_another_origin(self, found: dict[Shard, Path]) -> None:
        for shard, path in found.items():
            if self._own in found and shard.count != self.shards:
                continue  # left by an older shard count: it was read, or refused, when this one began
            origin = lines.origin_of(first_line(path))
            if origin not in {None, self.origin}:
                problem = f"the destination was filled from {origin} ({path.name}); to go on, FLAGJOB_NEW_ORIGIN=accept"
                raise UsageError(Fault("FLAGJOB_URL", self.origin, problem))

    def _inherit(self, others: list[Path]) -> None:
        """Begin this shard's manifest with what is its own in those of other shard counts."""
        with ExitStack() as stack:
            journals = [Journal(path, self.mine) for path in others]
            for journal in journals:
                stack.callback(journal.close)
                journal.read()
            if journals:
                self._rewrite(newest(journals))

    def _rewrite(self, kept: Iterable[bytes]) -> None:
        """Replace the file by one of these lines only."""
        with replacing(self._path, self.directory / LOCK) as file:
            file.write(lines.header(self.origin) + b"\n")
            file.writelines(line + b"\n" for line in kept)
