"""One manifest file on disk, append-only, and the index in memory that says where each code's last line begins."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from job.manifest import records
from job.manifest.line_file import LineFile
from job.manifest.records import Record
from job.shard import Shard

_LARGEST_KEY = (1 << 64) - 1
_SMALL_BYTES = 8 * 1024 * 1024
_LINES_PER_SUPERSEDED = 4

_EMPTY = 0
_REMOVED = 1
"""Marks in the index in place of an offset. No indexed line begins at byte 0 or 1: a file begins with its header."""
_FIRST_SLOTS = 1024

_Table = tuple["array[int]", "array[int]"]
"""Keys and offsets by slot; the number of slots is a power of two."""


class Journal:
    """One manifest file and its index. Any thread may call `find`, one thread everything else.

    `find` needs no lock, because a line is in the file before the index has its offset, and neither a line that was
    written nor the key of a slot ever changes. A reader that looks up a code while that code, or any other, is indexed
    gets the older line, the newer line or no line; `find` compares the code of the line that it reads.

    Every method may raise StorageError.
    """

    def __init__(self, path: Path, only: Shard | None = None) -> None:
        """Take the path, and a shard if the codes of other shards are to be passed over."""
        self.origin: str | None = None
        """The origin that the first line names; None if there is no such line, or it is damaged."""
        self._file = LineFile(path)
        self._only = only
        self._index = OffsetIndex()
        self._indexed_bytes = 0
        self._line_count = 0

    def open_read_only(self) -> None:
        """Open the file and index it. Not a byte of it changes."""
        self._file.open(write=False)
        self.refresh()

    def open(self, origin: str) -> None:
        """Open the file to be appended to and index it; an empty or missing one gets a header."""
        self._file.open(write=True)
        # Two processes that begin together may both find the file empty: the second header is a line about no code.
        if self._file.size == 0:
            self._file.append(records.encode_header(origin))
        self.refresh()

    def refresh(self) -> None:
        """Index the lines that this or any other process appended since the last time."""
        for offset, line in self._file.lines(self._indexed_bytes):
            if offset == 0:
                self.origin = records.decode_origin(line)
            self._index_line(offset, line)

    def append(self, line: bytes) -> None:
        """Append a line and index it, together with the lines that other processes appended before it."""
        end = self._file.append(line)
        offset = end - len(line) - 1
        if offset == self._indexed_bytes:
            self._index_line(offset, line)
        else:
            # Lines of another process, or the rest of a failed append, lie between the indexed part and this line. They
            # are indexed in the order of the file, so all processes agree on which line of a code is the last.
            self.refresh()

    def find(self, code: str) -> Record | None:
        """Return the last record of a code, or None, at the cost of one small read. Any thread may call it."""
        offset = self._index.get(_key(code))
        if offset is None:
            return None
        record = records.decode(self._file.line_at(offset))
        # The line may be another code's: the keys of two codes may be equal, another code may have taken the empty slot
        # where this search ended just before its offset was read, and the file may have been damaged.
        if record is None or record.entry.code != code:
            return None
        return record

    def current_lines(self) -> Iterator[bytes]:
        """Yield the last line of each code, in the order of the file, without line ends."""
        for offset, line in self._file.lines(0):
            code = records.decode_code(line)
            if code is not None and self._index.get(_key(code)) == offset:
                yield line

    @property
    def is_replaced(self) -> bool:
        """Return whether the file was compacted or removed by another process, so that no run will read it again."""
        return self._file.is_replaced()

    @property
    def is_worth_compacting(self) -> bool:
        """Return whether the file has superseded lines: any if it is small, else at least a quarter of all lines."""
        header_lines = 1
        superseded = self._line_count - header_lines - len(self._index)
        if superseded <= 0:
            return False
        return self._indexed_bytes <= _SMALL_BYTES or superseded * _LINES_PER_SUPERSEDED >= self._line_count

    def sync(self) -> None:
        """Flush every line to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file and empty the index: a thread that was abandoned may still call `find`, and finds nothing."""
        self._index = OffsetIndex()
        self._file.close()

    def _index_line(self, offset: int, line: bytes) -> None:
        self._indexed_bytes = offset + len(line) + 1
        self._line_count += 1
        code = records.decode_code(line)
        if code is None or (self._only is not None and not self._only.owns(code)):
            return
        if records.is_forgotten(line):
            self._index.remove(_key(code))
        else:
            self._index.put(_key(code), offset)


def newest_lines(journals: Sequence[Journal]) -> Iterator[bytes]:
    """Yield one line for each code in any of the journals: the one checked last, and of equals the first journal's."""
    for position, journal in enumerate(journals):
        earlier = journals[:position]
        later = journals[position + 1 :]
        for line in journal.current_lines():
            if len(journals) == 1 or _is_newest(line, earlier, later):
                yield line


def _is_newest(line: bytes, earlier: Sequence[Journal], later: Sequence[Journal]) -> bool:
    record = records.decode(line)
    if record is None:
        return False
    checked_at = record.entry.checked_at  # ISO 8601 in UTC, so that texts compare as times do
    return all(time < checked_at for time in _check_times(record.entry.code, earlier)) and all(
        time <= checked_at for time in _check_times(record.entry.code, later)
    )


def _check_times(code: str, journals: Sequence[Journal]) -> Iterator[str]:
    """Yield the time of the last check of a code from each journal that has the code."""
    for journal in journals:
        record = journal.find(code)
        if record:
            yield record.entry.checked_at


def _key(code: str) -> int:
    """Return 64 bits that stand for a code in the index of this process.

    Python's `hash` of text is SipHash with a random key of the process, so no list of codes can be made to collide. By
    accident two of a million codes collide once in 30 million manifests; one of the two is then requested anew.
    """
    return hash(code) & _LARGEST_KEY


class OffsetIndex:
    """A hash table from keys, which are hashes of 64 bits, to file offsets. Memory: 24 to 48 bytes an entry.

    Two arrays of machine integers instead of a dict, which takes six times the memory: it holds each key and each
    offset as an object of its own. A colliding key goes into the next free slot (linear probing).

    One thread writes, any thread may call `get`. A slot's key never changes once its offset is set, and the table is
    replaced as a whole: a reader sees the table before or after a change. One race is left to the caller: between the
    end of a search at an empty slot and the read of its offset another key may take that slot, so that `get` may return
    another key's offset for a key that is not in the index.
    """

    def __init__(self) -> None:
        self._table = _empty_table(_FIRST_SLOTS)
        self._used_slots = 0  # including those of removed entries, which a search must pass
        self._entries = 0

    def __len__(self) -> int:
        return self._entries

    def get(self, key: int) -> int | None:
        """Return the offset of a key, or None if the key is not in the index. Any thread may call it."""
        table = self._table  # read once: the writer may replace it at any moment
        slot = _find_slot(table, key)
        offset = table[1][slot]
        return offset if offset > _REMOVED else None

    def put(self, key: int, offset: int) -> None:
        """Set the offset of a key; it must be greater than 1."""
        if 3 * (self._used_slots + 1) > 2 * len(self._table[0]):  # at most two thirds, or searches become long
            self._rebuild()
        keys, offsets = self._table
        slot = _find_slot(self._table, key)
        if offsets[slot] == _EMPTY:
            self._used_slots += 1
        if offsets[slot] <= _REMOVED:
            self._entries += 1
        # The key first: to readers a slot is empty until it has an offset.
        keys[slot] = key
        offsets[slot] = offset

    def remove(self, key: int) -> None:
        """Remove a key, if it is in the index. The slot keeps its key, so that no search ends too early."""
        _, offsets = self._table
        slot = _find_slot(self._table, key)
        if offsets[slot] > _REMOVED:
            offsets[slot] = _REMOVED
            self._entries -= 1

    def _rebuild(self) -> None:
        """Copy all entries to a new table, twice as large if the old one is more than a third full of entries."""
        keys, offsets = self._table
        is_crowded = 3 * self._entries > len(keys)
        new_table = _empty_table(len(keys) * 2 if is_crowded else len(keys))
        new_keys, new_offsets = new_table
        for key, offset in zip(keys, offsets, strict=True):
            if offset > _REMOVED:
                slot = _find_slot(new_table, key)
                new_keys[slot] = key
                new_offsets[slot] = offset
        # Last, and in one step: readers use the old table, which stays as it is, until the new one is complete.
        self._table = new_table
        self._used_slots = self._entries


def _empty_table(slots: int) -> _Table:
    keys = array("Q", [0]) * slots
    offsets = array("Q", [_EMPTY]) * slots
    return keys, offsets


def _find_slot(table: _Table, key: int) -> int:
    """Return the slot that holds a key, or else the empty slot where the key belongs."""
    keys, offsets = table
    last_slot = len(keys) - 1  # all bits set, so that `&` is the remainder
    slot = key & last_slot
    while offsets[slot] != _EMPTY and keys[slot] != key:
        slot = (slot + 1) & last_slot
    return slot
