"""One manifest file on disk, to which whole lines are appended, and the table of where each file's last line begins."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from job.atomic_write import map_os_errors, storage_error, sync_file
from job.file_table import FileTable
from job.layout import Shard
from job.manifest import records
from job.manifest.records import Record

_BLOCK_BYTES = 64 * 1024
_USUAL_LINE_BYTES = 2048
"""The size of the first read of `line_at`. Few lines are longer; a longer one costs a second read."""
LONGEST_LINE_BYTES = 1024 * 1024
"""No line of ours is longer (libcurl accepts 300 kB of headers): more without a line end is damage, and is skipped."""

_SMALL_BYTES = 8 * 1024 * 1024
_LINES_PER_SUPERSEDED = 4

Line = tuple[bytes, records.Fields]
"""A line without its line end, and what it says."""


def read_first_line(path: Path) -> bytes:
    """Return the first line of a file, with its line end if it has one; raise StorageError if it cannot be read."""
    with map_os_errors(path), path.open("rb") as file:
        return file.readline(LONGEST_LINE_BYTES)


class LineFile:
    """A file that only grows, by whole lines. Any thread may call `line_at`, one thread everything else.

    Several processes may append at the same time. The file is opened with O_APPEND, so the kernel finds the end of the
    file and writes there in one step (POSIX, write), and lines are whole in each write: on a local file system the
    lines of two processes never mix. NFS does not guarantee that (Linux, open(2)), and a full disk writes part of a
    line; both leave a damaged line, which readers skip. No byte that was written is ever changed, so a reader needs no
    lock.

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
                self.append([b""])

    @property
    def size(self) -> int:
        """The size of the file in bytes, including lines of other processes."""
        with map_os_errors(self.path):
            return os.fstat(self._descriptor).st_size

    def append(self, lines: Iterable[bytes]) -> int:
        """Append lines, given without their line ends, in one write; return the offset where they end in the file.

        The bytes are in the kernel when this returns: they survive the end of this process, but not yet a power cut.
        """
        # After a failed append the file may end in a part of a line: a line end first keeps these lines apart from it.
        data = (b"\n" if self._is_torn else b"") + b"\n".join([*lines, b""])
        self._is_torn = True
        with map_os_errors(self.path):
            while data:
                written = os.write(self._descriptor, data)  # a full disk takes a part, and then refuses the rest
                data = data[written:]
            self._is_torn = False
            # O_APPEND has moved this descriptor's position to the end of its own lines, which may not be the end of the
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
            if len(rest) > LONGEST_LINE_BYTES:
                start += len(rest)
                rest = b""

    def line_at(self, offset: int) -> bytes:
        """Return the bytes from an offset up to the end of that line.

        Any thread may call it: `pread` moves no position, and bytes that were written never change.
        """
        line, line_end, _ = self._read(_USUAL_LINE_BYTES, offset).partition(b"\n")
        if line_end:
            return line
        return self._read(LONGEST_LINE_BYTES, offset).partition(b"\n")[0]

    def is_replaced(self) -> bool:
        """Return whether the path now leads to another file than the one that is open here, or to none."""
        with map_os_errors(self.path):
            try:
                current = self.path.stat()
            except FileNotFoundError:
                return True
            return not os.path.samestat(current, os.fstat(self._descriptor))

    def sync(self) -> None:
        """Flush every byte to the disk, where the file system can do that; the storage says where it cannot."""
        with map_os_errors(self.path):
            sync_file(self._descriptor)

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
    """One manifest file and the table of its lines. Any thread may call `find`, one thread everything else.

    `find` needs no lock, because a line is in the file before the table has its offset, and a line that was written
    never changes. A reader that looks up a file while that file, or any other, gets a line finds the older line, the
    newer line or no line.

    Every method may raise StorageError.
    """

    def __init__(self, path: Path, table: FileTable | None = None, only: Shard | None = None) -> None:
        """Take the path, the table of this run, and a shard if the codes of other shards are to be passed over.

        A journal that is read beside the run's own one has a table of its own.
        """
        self._file = LineFile(path)
        self._only = only
        self._table = table or FileTable()
        self._indexed_bytes = 0
        self._line_count = 0

    def open_read_only(self) -> None:
        """Open the file and index it. Not a byte of it changes."""
        self._file.open(write=False)
        self.refresh()

    def open(self, origin: str) -> None:
        """Open the file to be appended to and index it; an empty or missing one gets a header."""
        self._file.open(write=True)
        # Two processes that begin together may both find the file empty: the second header is a line about no file.
        if self._file.size == 0:
            self._file.append([records.encode_header(origin)])
        self.refresh()

    def refresh(self) -> None:
        """Index the lines that this or any other process appended since the last time."""
        forgotten_codes: dict[str, int] = {}
        for offset, line in self._file.lines(self._indexed_bytes):
            self._indexed_bytes = offset + len(line) + 1
            self._line_count += 1
            fields = records.parse(line)
            if fields is None:
                continue
            if self._only is not None and not self._only.owns(fields["code"]):
                continue
            file = records.file_of(fields)
            if not records.is_forgotten(fields):
                if file is not None:
                    self._table.set_offset(file, offset)
            elif file is not None:
                self._table.remove_offset(file)
            else:
                forgotten_codes[fields["code"]] = offset
        if forgotten_codes:
            self._remove_codes(forgotten_codes)

    def append(self, lines: Mapping[str, bytes]) -> None:
        """Append the lines of some files, and index them with the lines that other processes appended before them.

        If only some of the lines fit on the disk, those are indexed by the next `append` or `refresh`.
        """
        end = self._file.append(lines.values())
        offset = end - sum(map(len, lines.values())) - len(lines)
        if offset != self._indexed_bytes:
            # Lines of another process, or the rest of a failed append, lie between the indexed part and these lines.
            # They are indexed in the order of the file, so all processes agree on which line of a file is the last.
            self.refresh()
            return
        for file, line in lines.items():
            self._table.set_offset(file, offset)
            offset += len(line) + 1
        self._indexed_bytes = end
        self._line_count += len(lines)

    def find(self, file: str) -> Record | None:
        """Return the last record of a file, or None, at the cost of one small read. Any thread may call it."""
        offset = self._table.offset_of(file)
        if offset is None:
            return None
        fields = records.parse(self._file.line_at(offset))
        # The manifest may have been damaged since it was indexed: then another line, or none, begins there.
        if fields is None or records.file_of(fields) != file:
            return None
        return records.record_of(fields)

    def current_lines(self) -> Iterator[Line]:
        """Yield the last line of each file, in the order of the manifest."""
        for offset, line in self._file.lines(0):
            fields = records.parse(line)
            if fields is not None:
                file = records.file_of(fields)
                if file is not None and self._table.offset_of(file) == offset:
                    yield line, fields

    @property
    def is_replaced(self) -> bool:
        """Return whether the file was compacted or removed by another process, so that no run will read it again."""
        return self._file.is_replaced()

    @property
    def is_worth_compacting(self) -> bool:
        """Return whether the file has superseded lines: any if it is small, else at least a quarter of all lines."""
        header_lines = 1
        superseded = self._line_count - header_lines - self._table.lines
        if superseded <= 0:
            return False
        return self._indexed_bytes <= _SMALL_BYTES or superseded * _LINES_PER_SUPERSEDED >= self._line_count

    def sync(self) -> None:
        """Flush every line to the disk."""
        self._file.sync()

    def close(self) -> None:
        """Close the file and let go of the table: a thread that was abandoned may still call `find`, in vain."""
        self._table = FileTable()
        self._file.close()

    def _remove_codes(self, forgotten_codes: dict[str, int]) -> None:
        """Remove the files of forgotten codes whose last lines begin before the offsets at which they were forgotten.

        Early versions of flagjob forgot a code, not a file. Only a second reading finds the code's file.
        """
        for _, fields in self.current_lines():
            file = fields["file"]
            offset = self._table.offset_of(file)
            if offset is not None and offset < forgotten_codes.get(fields["code"], 0):
                self._table.remove_offset(file)


def newest_lines(journals: Sequence[Journal]) -> Iterator[Line]:
    """Yield one line for each file in any of the journals: the one checked last, and of equals the first journal's."""
    for position, journal in enumerate(journals):
        earlier = journals[:position]
        later = journals[position + 1 :]
        for line, fields in journal.current_lines():
            if len(journals) == 1 or _is_newest(fields, earlier, later):
                yield line, fields


def _is_newest(fields: records.Fields, earlier: Sequence[Journal], later: Sequence[Journal]) -> bool:
    record = records.record_of(fields)
    if record is None:
        return False
    checked_at = record.entry.checked_at  # ISO 8601 in UTC, so that texts compare as times do
    return all(time < checked_at for time in _check_times(record.entry.file, earlier)) and all(
        time <= checked_at for time in _check_times(record.entry.file, later)
    )


def _check_times(file: str, journals: Sequence[Journal]) -> Iterator[str]:
    """Yield the time of the last check of a file from each journal that has the file."""
    for journal in journals:
        record = journal.find(file)
        if record:
            yield record.entry.checked_at
