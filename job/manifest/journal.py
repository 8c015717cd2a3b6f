"""One manifest on disk: lines that only grow, and an index in memory of where each code's last one begins."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from job.manifest import lines
from job.manifest.index import Index
from job.manifest.line_file import LineFile
from job.manifest.lines import Row

_KEY_MASK = (1 << 64) - 1
"""Two codes of a million collide once in thirty million manifests: the later is known, the other one asked for anew."""
_SMALL_BYTES = 8 * 1024 * 1024
_SUPERSEDED_SHARE = 4


def _every(_code: str) -> bool:
    return True


class Journal:
    """A manifest. `row` may be called by any thread, all else by one; everything may raise StorageError."""

    def __init__(self, path: Path, mine: Callable[[str], bool] = _every) -> None:
        self.origin: str | None = None
        """What the first line says, if it says anything."""
        self._file = LineFile(path)
        self._mine = mine
        self._index = Index()
        self._end = 0
        self._lines = 0

    def read(self) -> None:
        """Open it, only to be read: not a byte of it changes."""
        self._file.open(write=False)
        self.learn()

    def open(self, origin: str) -> None:
        """Open it to be written, too; an empty one begins with a header."""
        self._file.open(write=True)
        if self._file.size == 0:
            self._file.append(lines.header(origin))
        self.learn()

    def learn(self) -> None:
        """Take in the lines that were appended since, by whomever."""
        for offset, line in self._file.lines(self._end):
            if offset == 0:
                self.origin = lines.origin_of(line)
            self._take(offset, line)
            self._end = offset + len(line) + 1
            self._lines += 1

    def append(self, line: bytes) -> None:
        """Add a line, and learn it together with what other processes added."""
        end = self._file.append(line)
        offset = end - len(line) - 1
        if offset == self._end:  # nobody else has added anything: what is there is known
            self._take(offset, line)
            self._end, self._lines = end, self._lines + 1
        else:
            self.learn()

    def row(self, code: str) -> Row | None:
        """Return what is known of a code, at the cost of one small read."""
        offset = self._index.get(_key(code))
        row = None if offset is None else lines.load(self._file.line_at(offset))
        return row if row and row.entry.code == code else None

    def live(self) -> Iterator[bytes]:
        """Yield the last line of each code, in the order of the file."""
        for offset, line in self._file.lines(0):
            code = lines.code_of(line)
            if code is not None and self._index.get(_key(code)) == offset:
                yield line

    @property
    def is_replaced(self) -> bool:
        """Another process has compacted it, or somebody has removed it: what is appended now, nobody will read."""
        return self._file.is_replaced()

    @property
    def is_worth_compacting(self) -> bool:
        """It has lines that count no more: any, while it is small; a quarter of them, when it is large."""
        superseded = self._lines - 1 - len(self._index)
        return superseded > 0 and (self._end <= _SMALL_BYTES or superseded * _SUPERSEDED_SHARE >= self._lines)

    def sync(self) -> None:
        """Put every line on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Let go of the file, and know nothing any more."""
        self._index = Index()
        self._file.close()

    def _take(self, offset: int, line: bytes) -> None:
        code = lines.code_of(line)
        if code is None or not self._mine(code):
            return
        if lines.is_forgotten(line):
            self._index.remove(_key(code))
        else:
            self._index.put(_key(code), offset)


def newest(journals: Sequence[Journal]) -> Iterator[bytes]:
    """Yield one line a code of all the journals: that of the latest check, and of equals the first journal's."""
    for place, journal in enumerate(journals):
        earlier, later = journals[:place], journals[place + 1 :]
        for line in journal.live():
            if not (earlier or later) or _is_newest(line, earlier, later):
                yield line


def _is_newest(line: bytes, earlier: Sequence[Journal], later: Sequence[Journal]) -> bool:
    row = lines.load(line)
    return row is not None and (
        all(at < row.entry.checked_at for at in _checks(row, earlier))
        and all(at <= row.entry.checked_at for at in _checks(row, later))
    )


def _checks(row: Row, journals: Sequence[Journal]) -> Iterator[str]:
    """Yield when each of the journals that know this row's code saw it checked."""
    for journal in journals:
        if rival := journal.row(row.entry.code):
            yield rival.entry.checked_at


def _key(code: str) -> int:
    return hash(code) & _KEY_MASK  # siphash with a key of this process: nobody can choose codes that collide
