"""One manifest file on disk, to which whole lines are appended, and the index of where each code's last line begins."""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from job.atomic_write import map_os_errors, storage_error
from job.layout import Shard
from job.manifest import records
from job.manifest.records import Record

_BLOCK_BYTES = 64 * 1024
_USUAL_LINE_BYTES = 2048
"""The size of the first read of `line_at`. Few lines are longer; a longer one costs a second read."""
_LONGEST_LINE_BYTES = 1024 * 1024
"""No line of ours is longer (libcurl accepts 300 kB of headers): more without a line end is damage, and is skipped."""

_LARGEST_KEY = (1 << 64) - 1
_SMALL_BYTES = 8 * 1024 * 1024
_LINES_PER_SUPERSEDED = 4

_EMPTY = 0
_REMOVED = 1
"""Marks in the index in place of an offset. No indexed line begins at byte 0 or 1: a file begins with its header."""
_FIRST_SLOTS = 1024

_Table = tuple["array[int]", "array[int]"]
"""Keys and offsets by slot; the number of slots is a power of two."""


def read_first_line(path: Path) -> bytes:
    """Return the first line of a file, with its line end if it has one; raise StorageError if it cannot be read."""
    with map_os_errors(path), path.open("rb") as file:
        return file.readline(_LONGEST_LINE_BYTES)


class LineFile:
    """A file that only grows, by whole lines. Any thread may call `line_at`, one thread everything else.

    Several processes may append at the same time. The file is opened with O_APPEND, so the kernel finds the end of the
    file and writes there in one step (POSIX, write), and each line is one write: on a local file system the lines of
    two processes never mix. NFS does not guarantee that (Linux, open(2)), and a full disk writes part of a line; both
    leave a damaged line, which readers skip. No byte that was written is ever changed, so a reader needs no lock.

    Every method may raise StorageError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._is_torn = False  # the last append failed, perhaps after a part of its line was written

    def open(self, *, write: bool) -> None:
        """Open the file; to write, create it if it is missing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY
        with map_os_errors(self.path):
            self._descriptor = os.open(self.path, flags, 0o666)
            size = self.size
            if write and size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                # A crash tore the last line. End it, or the next line would join it and both would be lost. The writer
                # may as well be alive and in the middle of a write: then this costs an empty line, which readers skip.
                self.append(b"")

    @property
    def size(self) -> int:
        """The size of the file in bytes, including lines of other processes."""
        with map_os_errors(self.path):
            return os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> int:
        """Append a line, given without its line end, and return the offset where it ends in the file.

        The bytes are in the kernel when this returns: they survive the end of this process, but not yet a power cut.
        """
        # After a failed append the file may end in a part of a line: a line end first keeps this line apart from it.
        data = (b"\n" if self._is_torn else b"") + line + b"\n"
        self._is_torn = True
        with map_os_errors(self.path):
            while data:
                written = os.write(self._descriptor, data)  # a full disk takes a part, and then refuses the rest
                data = data[written:]
            self._is_torn = False
            # O_APPEND has moved this descriptor's position to the end of its own line, which may not be the end of the
            # file any more: another process may have appended since.
            return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the offset and the bytes of each whole line from an offset on, without line ends.

        A last line without an end is not yielded: another process may be writing it. Memory: bounded, also where a
        file system left a hole of gigabytes after a power cut.
        """
        rest = b""
        while block := self._read(_BLOCK_BYTES, start + len(rest)):
            *whole_lines, rest = (rest + block).split(b"\n")
            for line in whole_lines:
                yield start, line
                start += len(line) + 1
            if len(rest) > _LONGEST_LINE_BYTES:
                start += len(rest)
                rest = b""

    def line_at(self, offset: int) -> bytes:
        """Return the bytes from an offset up to the end of that line.

        Any thread may call it: `pread` moves no position, and bytes that were written never change.
        """
        line, line_end, _ = self._read(_USUAL_LINE_BYTES, offset).partition(b"\n")
        if line_end:
            return line
        return self._read(_LONGEST_LINE_BYTES, offset).partition(b"\n")[0]

    def is_replaced(self) -> bool:
        """Return whether the path now leads to another file than the one that is open here, or to none."""
        with map_os_errors(self.path):
            try:
                current = self.path.stat()
            except FileNotFoundError:
                return True
            return not os.path.samestat(current, os.fstat(self._descriptor))

    def sync(self) -> None:
        """Flush every byte to the disk."""
        with map_os_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; does nothing if it is not open."""
        descriptor = self._descriptor
        # First, so that a thread which still reads gets an error, not the bytes of a file that reuses this number.
        self._descriptor = -1
        if descriptor >= 0:
            with map_os_errors(self.path):
                os.close(descriptor)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, offset)
        except OSError as error:  # `map_os_errors` would take longer than the read
            raise storage_error(self.path, error) from error


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
        if code is None:
            return
        if self._only is not None and not self._only.owns(code):
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
    """A hash table from keys, which are hashes of 64 bits, to file offsets.

    Memory: 24 to 48 bytes an entry, up to 72 for a moment while it grows.

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
