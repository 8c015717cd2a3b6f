"""Inputs of a run: the URL template, the items to download, and the demo server if the files come from it."""

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
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from job import codes, demo_server
from job.cancellation import Cancellation
from job.errors import Fault, UsageError, map_exceptions
from job.file_table import FileTable
from job.layout import ALL_CODES, Shard
from job.model import Item
from job.settings import Server, Settings
from job.tables import Table, is_header, is_json_name, is_table_name
from job.template import UrlTemplate

_BOOK_URL = "https://www.fluentpython.com/data/flags/{cc}/{cc}.gif"
_DEMO_FAULTS = {
    Server.LOCAL: demo_server.Faults(),
    Server.DELAY: demo_server.Faults(delay_seconds=(0.5, 5)),
    Server.ERROR: demo_server.Faults(error_rate=0.25, truncate_rate=0.1),
}
"""How the demo server plays each local server of *Fluent Python*."""
_STANDARD_INPUT = "-"

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
    b"\xfd7zXZ\x00": "an xz file",
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
    (re.compile(rb"\s*[\[{]"), "JSON"),
)
_HEADER_MAX_BYTES = 64 * 1024
_DIVIDED_BY_BLANKS = re.compile(rb"\s*[^\s,;|\"{][^,;\t|]* [^,;\t|]*")
"""The beginning of a list with several codes in its first line, and of no header that is usual."""
_TABLE_LINES = 2
"""The header of a table and its first row."""


class _GzipError(OSError):
    """A list is gzip that is cut or damaged; an OSError, because a list that cannot be read on ends the run."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The work of one run. `items` can be iterated once."""

    template: UrlTemplate
    items: Iterator[Item | None]
    """The items of the list. A None means that a pipe has nothing at the moment: do what else is due, and ask again."""
    known: int | None
    """The number of items; None for a pipe, and for a file with more items than there are workers."""
    server: Server | None
    """The server label that was requested, or the default if no URL is set; None for a URL."""
    first: str | None = None
    last: str | None = None
    """The first and the last code, where they are known."""

    @property
    def built_in(self) -> bool:
        """Return whether the files come from the demo server."""
        return self.server in _DEMO_FAULTS


def open_inputs(settings: Settings, cancellation: Cancellation, stack: ExitStack, table: FileTable) -> Inputs:
    """Open the inputs that the settings select; `stack` gets what must be closed after the run.

    Each file has one item, by `table`.

    Raises UsageError if the list of codes is empty, because an empty list must not look like a successful run; and if
    it is shorter than the settings demand, or then cannot be read to its end.
    """
    server = None if settings.url else settings.server or Server.LOCAL
    template = settings.url or _server_template(server or Server.LOCAL, stack, is_needed=not settings.dry_run)
    if settings.file:
        template = template.with_naming(settings.file)
    with map_exceptions({_GzipError: _unreadable}):  # in what is read here; later it ends the run
        items = _Selection(settings, template, table, cancellation).items(stack)
        if settings.codes_file and not settings.arguments:
            items, is_whole_list = _look_ahead(items, settings)
            if not is_whole_list:
                return Inputs(template, items, None, server)
        known_items = _read_all(items)
    if not known_items:  # this shard owns none of the codes, or the run was cancelled before the first one
        return Inputs(template, iter(known_items), 0, server)
    return Inputs(
        template, iter(known_items), len(known_items), server, first=known_items[0].code, last=known_items[-1].code
    )


def _unreadable(error: OSError) -> UsageError:
    return UsageError(Fault("codes", None, f"the list cannot be read: {error.strerror or error}"))


@dataclass(slots=True)
class _List:
    """The bytes of a list as they are stored, and whether they ended before the list did."""

    chunks: Iterator[bytes | None]
    is_interrupted: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class _Selection:
    """Makes the items of the first source that is set: arguments, FLAGJOB_CODES, FLAGJOB_CODES_FILE, else POP20."""

    settings: Settings
    template: UrlTemplate
    table: FileTable
    cancellation: Cancellation

    def items(self, stack: ExitStack) -> Iterator[Item | None]:
        """Return the items; raise UsageError if there are none, unless the run was cancelled in the meantime."""
        settings = self.settings
        letters = not self.template.takes_ids
        if settings.arguments:
            return self._unique(codes.expand_sets(settings.arguments, letters=letters))
        if settings.codes_file and settings.codes is None:
            return self._listed(settings.codes_file, stack)
        words = ["POP20"] if settings.codes is None else settings.codes.replace(",", " ").split()
        tokens = list(codes.expand_sets(words, letters=False))
        self._check_number(len(tokens))
        return self._unique(iter(tokens))

    def _listed(self, path: str, stack: ExitStack) -> Iterator[Item | None]:
        """Return the items of a list; where it must have a number of codes, they are counted before."""
        opened = _open_list(path, self.cancellation, stack)
        if self.settings.min_codes:
            opened = self._counted(opened, path, stack)
        source = self._reader(opened, path)
        return self._rows(source) if isinstance(source, Table) else self._unique(source)

    def _counted(self, opened: _List, path: str, stack: ExitStack) -> _List:
        """Return a copy of a list that has as many codes as the settings demand, else raise UsageError.

        The list is copied first: a pipe can be read only once, and a file may be written anew between the two readings,
        so that what was counted would not be what is downloaded.
        """
        copy = _copy_list(opened.chunks, stack)
        # A run that was interrupted meanwhile requests nothing anyway, and ends as interrupted.
        if not opened.is_interrupted():
            source = self._reader(_List(codes.file_chunks(copy)), path)
            self._check_number(source.count() if isinstance(source, Table) else sum(1 for _ in source))
        copy.seek(0)
        return _List(codes.file_chunks(copy), opened.is_interrupted)

    def _reader(self, opened: _List, path: str) -> Table | Iterator[codes.Token | None]:
        """Return the table or the tokens of a list: a table by its name, or by its first line if it is no file."""
        chunks = _as_utf_8(opened.chunks)
        is_table = is_table_name(path)
        if not is_table and not _is_file(path):
            line, chunks = _peek_line(chunks)
            is_table = is_header(line, self.template.placeholders)
        if is_table:
            return Table(chunks, opened.is_interrupted, is_json=is_json_name(path))
        if not self.template.known_placeholders.issuperset(self.template.all_placeholders):
            names = ", ".join(f"{{{name}}}" for name in sorted(self.template.all_placeholders))
            problem = f"the list has no header that names {names}, which the URL or the file name holds"
            raise UsageError(Fault("codes", None, problem))
        return codes.read_tokens(_checked(chunks), opened.is_interrupted)

    def _check_number(self, number: int) -> None:
        minimum = self.settings.min_codes
        if number < minimum:
            problem = f"must be {minimum} at least (FLAGJOB_MIN_CODES), but the list has {number}"
            raise UsageError(Fault("codes", None, f"{problem}; nothing was requested"))

    def _unique(self, tokens: Iterator[codes.Token | None]) -> Iterator[Item | None]:
        first = list(islice((token for token in tokens if token is not None), 1))
        self._check_not_empty(is_empty=not first)
        settings = self.settings
        return codes.unique_items(
            chain(first, tokens), self.template, self.table, settings.limit, _shard_filter(settings)
        )

    def _rows(self, rows: Table) -> Iterator[Item | None]:
        self._check_not_empty(is_empty=not rows.check(self.template))
        settings = self.settings
        return codes.selected_items(
            lambda is_owned: rows.items(self.template, self.table, is_owned), settings.limit, _shard_filter(settings)
        )

    def _check_not_empty(self, *, is_empty: bool) -> None:
        if is_empty and not self.cancellation.reason:
            raise UsageError(Fault("codes", None, "there are none: give codes as arguments, in a variable or a file"))


def _look_ahead(items: Iterator[Item | None], settings: Settings) -> tuple[Iterator[Item | None], bool]:
    """Read at most one item more than there are workers; return all items, and whether those that were read are all.

    A pipe is not read ahead, because its writer may take its time and the first items should start at once.
    """
    if not _is_file(settings.codes_file or _STANDARD_INPUT):
        return items, False
    head = list(islice(items, settings.workers + 1))
    return chain(head, items), len(head) <= settings.workers


def _read_all(items: Iterator[Item | None]) -> list[Item]:
    return [item for item in items if item is not None]


def _shard_filter(settings: Settings) -> Callable[[str], bool] | None:
    shard = Shard(settings.shard_index, settings.shard_count)
    return None if shard == ALL_CODES else shard.owns


def _server_template(server: Server, stack: ExitStack, *, is_needed: bool) -> UrlTemplate:
    """Return the template of a server label; start the demo server if it is meant and requests will be sent."""
    if server is Server.REMOTE:
        return UrlTemplate.parse(_BOOK_URL)
    if not is_needed:
        return UrlTemplate.parse(f"http://localhost{demo_server.PATH}")
    running = stack.enter_context(demo_server.DemoServer(faults=_DEMO_FAULTS[server]))
    return UrlTemplate.parse(running.url + demo_server.PATH)


def _is_file(path: str) -> bool:
    return path != _STANDARD_INPUT and Path(path).is_file()


def _open_list(path: str, cancellation: Cancellation, stack: ExitStack) -> _List:
    """Open a file, standard input or a named pipe."""
    if _is_file(path):
        return _List(codes.file_chunks(stack.enter_context(Path(path).open("rb"))))
    reader = codes.PipeReader(_open_pipe(path, stack), cancellation)
    return _List(reader.chunks(), reader.is_interrupted)


def _copy_list(chunks: Iterable[bytes | None], stack: ExitStack) -> BinaryIO:
    """Return a copy of a list, which stands at its first byte; `stack` removes it.

    Raises UsageError if the list cannot be read to its end, or the copy cannot be written.
    """
    spool = SpooledTemporaryFile(_SPOOLED_IN_MEMORY_BYTES)  # noqa: SIM115  (`stack` closes it)
    copy = cast("BinaryIO", stack.enter_context(spool))
    with map_exceptions({OSError: _unreadable}):
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
    if path != _STANDARD_INPUT:
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


def _peek_line(chunks: Iterator[bytes | None]) -> tuple[bytes, Iterator[bytes | None]]:
    """Return the first line of a list, as far as it is no longer than a header may be, and all chunks.

    A pipe that has nothing at the moment is not waited for once a blank has divided codes: these must not be held back.
    """
    start = b""
    for chunk in chunks:
        if chunk:
            start += chunk
        elif _DIVIDED_BY_BLANKS.fullmatch(start):
            break
        if b"\n" in start.lstrip() or len(start) > _HEADER_MAX_BYTES:
            break
    return start.lstrip().partition(b"\n")[0].rstrip(b"\r"), chain([start], chunks)


def _as_utf_8(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
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
        raise _GzipError("it is gzip without its end")


def _inflate(member: "zlib._Decompress", data: bytes) -> bytes:
    try:
        return member.decompress(data, _INFLATED_BYTES)
    except zlib.error as error:
        raise _GzipError(f"it is damaged gzip: {error}") from error


def _transcoded(chunks: Iterable[bytes | None], encoding: str) -> Iterator[bytes | None]:
    """Yield chunks of an encoding as UTF-8; bytes that are not of the encoding become backslash escapes."""
    decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
    for chunk in chunks:
        yield None if chunk is None else decoder.decode(chunk).encode("utf-8", "backslashreplace")
    yield decoder.decode(b"", final=True).encode("utf-8", "backslashreplace")


def _checked(chunks: Iterable[bytes | None]) -> Iterator[bytes | None]:
    """Yield the chunks; raise UsageError if the first one is not that of a list."""
    source = iter(chunks)
    for chunk in source:
        if chunk:
            _check_is_list(chunk)
        yield chunk
        if chunk:
            yield from source


def _check_is_list(start: bytes) -> None:
    """Raise UsageError if a list begins like something else, which would be a line of garbage for each code."""
    text = start.removeprefix(codecs.BOM_UTF8)
    marked = next((name for mark, name in _FOREIGN.items() if text.startswith(mark)), None)
    matched = next((name for pattern, name in _FOREIGN_TEXTS if pattern.match(text)), None)
    seeming = marked or matched or _table(text)
    if seeming:
        problem = f"the list seems to be {seeming}: it must be plain text, one code or more a line, without a header"
        raise UsageError(Fault("codes", None, problem))


def _table(text: bytes) -> str | None:
    """Return what kind of table the first lines seem to be of; None for a list: no code has a quote or a semicolon."""
    lines = ([token.text for token in codes.read_tokens([line]) if token] for line in re.split(rb"[\r\n]+", text))
    words = list(chain.from_iterable(islice(filter(None, lines), _TABLE_LINES)))
    if any(word.startswith(('"', "'")) for word in words):
        return "a CSV file with quotes"
    if any(";" in word for word in words):
        return "a table with semicolons"
    return None
