"""Lists of codes: files, pipes and standard input, read as UTF-8 in bounded memory; what is no list is known early."""

import codecs
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from select import select
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from job.cancellation import Cancellation
from job.codes import read_tokens
from job.errors import Fault, UsageError, map_exceptions

STANDARD_INPUT = "-"

_CHUNK_BYTES = 16 * 1024
_WAIT_SECONDS = 0.05
"""How long a reader waits for standard input before it lets others work, and looks for a signal or the deadline."""
_SPOOLED_IN_MEMORY_BYTES = 4 * 1024 * 1024
"""A list that is counted first is a file in TMPDIR from this size on; gzip stays packed there."""
_INFLATED_BYTES = 64 * 1024
_GZIP = b"\x1f\x8b\x08"
_GZIP_WINDOW = 31
"""zlib's number for data with the header and trailer of gzip."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # it begins like that of UTF-16, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\xfd7zXZ\x00": "a file compressed with xz",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"BZh91AY&SY": "a bzip2 file",
    b"%PDF-": "a PDF document",
    b"SQLite format 3\x00": "an SQLite database",
    b"PAR1": "a Parquet file",
}
"""The beginnings of files that are no lists of codes."""
_MARKS = (_GZIP, codecs.BOM_UTF8, *_BYTE_ORDER_MARKS, *_FOREIGN)
_FOREIGN_TEXTS = (
    (re.compile(rb"(?:[\t\n\r -~]\x00){2}|(?:\x00[\t\n\r -~]){2}"), "UTF-16 without a byte order mark"),
    (re.compile(rb"\s*<[!?A-Za-z]"), "a page of HTML or XML"),
)
_JSON = re.compile(rb"\s*[\[{]")
TABLE_NAMES = "the name of a table ends in .csv, .tsv or .jsonl"
_FORM = {
    False: f"it must be plain text, one code or more a line, without a header; {TABLE_NAMES}",
    True: "it must be a table as its name says: CSV, TSV or JSON lines, in UTF-8",
}
"""What a list must be, and a table."""
_HEADER_MAX_BYTES = 64 * 1024
_HEADER = re.compile(rb'(?:\xef\xbb\xbf)?\s*+(?:"?sep=.?"?[\r\n]\s*+)?(\{[^\r\n]*|(?:[^"\r\n]|"[^"]*")++)[\r\n]')
"""The first line of a list that is a table without the name of one: an object of JSON, or one of CSV."""
_DIVIDED_BY_BLANKS = re.compile(rb"\s*[^\s,;|\"{][^,;\t|]* [^,;\t|]*")
"""The beginning of a list with several codes in its first line, and of no header that is usual."""
_TABLE_LINES = 2
"""The header of a table and its first row."""


class GzipError(OSError):
    """A list is gzip that is cut or damaged; an OSError, because a list that cannot be read on ends the run."""


@dataclass(slots=True)
class SourceList:
    """The bytes of a list as they are stored, and whether they ended before the list did."""

    chunks: Iterator[bytes | None]
    is_interrupted: Callable[[], bool] = lambda: False


def is_file(path: str) -> bool:
    """Return whether a list is a file that can be read again, neither standard input nor a pipe."""
    return path != STANDARD_INPUT and Path(path).is_file()


def open_list(path: str, cancellation: Cancellation, stack: ExitStack) -> SourceList:
    """Open a file, standard input or a named pipe."""
    if is_file(path):
        return SourceList(file_chunks(stack.enter_context(Path(path).open("rb"))))
    reader = PipeReader(_open_pipe(path, stack), cancellation)
    return SourceList(reader.chunks(), reader.is_interrupted)


def file_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


class PipeReader:
    """Reads standard input or a named pipe, whose writer may take its time; for one thread.

    A blocking read could not be ended: the signal handler only sets a flag, and Python resumes the read (PEP 475). So
    the reader waits for data, and only for a moment at a time. Reading ends at a signal or at the deadline. Other
    reasons to end a run do not end it: every code of the list still gets its result line.
    """

    def __init__(self, descriptor: int, cancellation: Cancellation) -> None:
        self._descriptor = descriptor
        self._cancellation = cancellation
        self._is_interrupted = False

    def is_interrupted(self) -> bool:
        """Return whether reading ended before the end of the list."""
        return self._is_interrupted

    def chunks(self) -> Iterator[bytes | None]:
        """Yield the bytes as they come, and a None after each wait, whether bytes came or not.

        So whoever takes them can do something else, at the latest after 0.05 seconds, however slowly they come.
        """
        while self._cancellation.grace_began is None:
            must_wait = not self._has_data(0.0)
            if not must_wait or self._has_data(_WAIT_SECONDS):
                chunk = os.read(self._descriptor, _CHUNK_BYTES)
                if not chunk:
                    break
                yield chunk
            if must_wait:
                yield None
        # A signal may end the writer, too, so that the end of the list comes together with it.
        self._is_interrupted = self._cancellation.grace_began is not None

    def _has_data(self, seconds: float) -> bool:
        """Wait for data, for so long at most; the end of the list counts as data."""
        return bool(select([self._descriptor], [], [], seconds)[0])


def unreadable(error: OSError) -> UsageError:
    """Return the usage error of a list that cannot be read to its end."""
    return UsageError(Fault("codes", None, f"the list cannot be read: {error.strerror or error}"))


def copy_list(chunks: Iterable[bytes | None], stack: ExitStack) -> BinaryIO:
    """Return a copy of a list, which stands at its first byte; `stack` removes it.

    Raises UsageError if the list cannot be read to its end, or the copy cannot be written.
    """
    spool = SpooledTemporaryFile(_SPOOLED_IN_MEMORY_BYTES)  # noqa: SIM115  (`stack` closes it)
    copy = cast("BinaryIO", stack.enter_context(spool))
    with map_exceptions({OSError: unreadable}):
        for chunk in filter(None, chunks):
            _write_copy(copy, chunk)
    copy.seek(0)
    return copy


def _write_copy(copy: BinaryIO, chunk: bytes) -> None:
    try:
        copy.write(chunk)
    except OSError as error:
        problem = f"must be a directory that can be written, for a list that is counted first ({error.strerror})"
        raise UsageError(Fault("TMPDIR", None, problem)) from error


def _open_pipe(path: str, stack: ExitStack) -> int:
    """Return the descriptor of standard input or of a named pipe."""
    if path != STANDARD_INPUT:
        # Opening a named pipe blocks until it has a writer, and nothing could interrupt that. So open it without
        # blocking; the reader waits for data in a way that a signal ends.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        os.set_blocking(descriptor, True)
    elif sys.stdin is None:
        raise UsageError(Fault("-", None, "needs an open standard input"))
    else:
        descriptor = sys.stdin.fileno()
    return descriptor


def peek_header(chunks: Iterator[bytes | None]) -> tuple[bytes, Iterator[bytes | None]]:
    """Return the first line of a list, as far as it is no longer than a header may be, and all chunks.

    Quoted cells may hold line ends. A line that only tells Excel the delimiter is passed over. A pipe that has nothing
    at the moment is not waited for once a blank has divided codes: these must not be held back.
    """
    start = b""
    for chunk in chunks:
        if chunk:
            start += chunk
        elif _DIVIDED_BY_BLANKS.fullmatch(start):
            break
        if _HEADER.match(start) or len(start) > _HEADER_MAX_BYTES:
            break
    match = _HEADER.match(start + b"\n")
    return match[1] if match else b"", chain([start], chunks)


def as_utf_8(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the chunks of a list as UTF-8: gzip is decompressed, and UTF-16 is known by its byte order mark.

    Raises OSError if the list is cut or damaged gzip.
    """
    source = _with_whole_mark(_decompressed(_with_whole_mark(chunks)))
    for chunk in source:
        if chunk is None:
            yield None
            continue
        # The source has no other first chunk, so this is the last turn of the loop.
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if chunk.startswith(mark)), None)
        whole = chain([chunk], source)
        yield from _transcoded(whole, encoding) if encoding else whole


def _with_whole_mark(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the chunks; the first one is long enough to tell how the list begins.

    A pipe may deliver a mark byte by byte. It is not waited for longer than what came may become a mark.
    """
    source = iter(chunks)
    start = b""
    for chunk in source:
        if chunk is None:
            yield None
            continue
        start += chunk
        if start and not any(mark.startswith(start) and mark != start for mark in _MARKS):
            break
    if start:
        yield start
    yield from source


def _decompressed(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the chunks, decompressed if the first one begins like gzip."""
    source = iter(chunks)
    for chunk in source:
        if chunk is not None and chunk.startswith(_GZIP):
            yield from _inflated(chain([chunk], source))
        else:
            yield chunk
            if chunk is not None:
                yield from source


def _inflated(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the bytes of gzip in parts of 64 KiB at most; it may have several members (RFC 1952, 2.2)."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    is_between = False
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        data = chunk
        # Between members, and after the last one, zeros may fill a block.
        while data := data.lstrip(b"\x00") if is_between else data:
            yield _inflate(member, data)
            data = member.unconsumed_tail
            is_between = member.eof
            if is_between:
                data = member.unused_data
                member = zlib.decompressobj(_GZIP_WINDOW)
    if not is_between:
        raise GzipError("it is gzip without its end")


def _inflate(member: "zlib._Decompress", data: bytes) -> bytes:
    try:
        return member.decompress(data, _INFLATED_BYTES)
    except zlib.error as error:
        raise GzipError(f"it is damaged gzip: {error}") from error


def _transcoded(chunks: Iterable[bytes | None], encoding: str) -> Iterator[bytes | None]:
    """Yield chunks of an encoding as UTF-8; bytes that are not of the encoding become backslash escapes."""
    decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
    for chunk in chunks:
        yield None if chunk is None else decoder.decode(chunk).encode("utf-8", "backslashreplace")
    yield decoder.decode(b"", final=True).encode("utf-8", "backslashreplace")


def checked(chunks: Iterable[bytes | None], *, is_table: bool = False) -> Iterator[bytes | None]:
    """Yield the chunks; raise UsageError if the first one is not that of a list, or of a table."""
    source = iter(chunks)
    for chunk in source:
        if chunk:
            _check_is_list(chunk, is_table=is_table)
        yield chunk
        if chunk:
            yield from source


def _check_is_list(start: bytes, *, is_table: bool) -> None:
    """Raise UsageError if a list begins like something else, which would be a line of garbage for each code."""
    text = start.removeprefix(codecs.BOM_UTF8)
    marked = next((name for mark, name in _FOREIGN.items() if text.startswith(mark)), None)
    seeming = marked or next((name for pattern, name in _FOREIGN_TEXTS if pattern.match(text)), None)
    if not is_table:
        seeming = seeming or _table_like(text)
    if seeming:
        raise UsageError(Fault("codes", None, f"the list seems to be {seeming}: {_FORM[is_table]}"))


def _table_like(text: bytes) -> str | None:
    """Return what kind of table the first lines seem to be of; None for a list: no code has a quote or a semicolon."""
    if _JSON.match(text):
        return "JSON"
    lines = ([token.text for token in read_tokens([line]) if token] for line in re.split(rb"[\r\n]+", text))
    words = list(chain.from_iterable(islice(filter(None, lines), _TABLE_LINES)))
    if any(word.startswith(('"', "'")) for word in words):
        return "a CSV file with quotes"
    if any(";" in word for word in words):
        return "a table with semicolons"
    return None
