"""Tables: lists with a header, as CSV, TSV or JSON lines, read row by row in bounded memory."""

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import chain
from typing import Literal

from job.errors import Fault, UsageError
from job.file_table import FileTable
from job.model import Item
from job.redaction import visible
from job.rows import KNOWN_COLUMNS, MD5_COLUMN, NOT_UTF_8, URL_COLUMN, ItemMaker, Row, code_column
from job.template import CODE_PLACEHOLDERS, UrlTemplate

_TABLE_NAME = re.compile(r"(?s:.+)\.(?:csv|tsv|(jsonl))(?:\.gz)?", re.IGNORECASE)
_DELIMITERS = ",;\t|"
_LINE_MAX_BYTES = 1024 * 1024
"""A longer line is cut here, which leaves its row unusable and bounds the memory that it takes."""
_CODE_PLACEHOLDERS = frozenset({"id", *CODE_PLACEHOLDERS})
_COLUMNS_SHOWN_MAX = 400
_TRANSFER_HEADER = "TsvHttpData-1.0"
"""First line of a URL list of Google's Storage Transfer Service: its lines are URL, size and MD5, divided by tabs."""
_BEFORE_HEADER = re.compile(r'\s*(?:"?sep=.?"?\s*)?')
"""What may stand before the header: blank lines, and the line that tells Excel the delimiter."""
_CSV_PROBLEMS = {"unexpected end of data": "a cell that begins with a quote has no end"}


def is_table_name(path: str) -> bool:
    """Return whether a list is a table by its name."""
    return _TABLE_NAME.fullmatch(path) is not None


def is_json_name(path: str) -> bool:
    """Return whether a table is one of JSON lines by its name."""
    match = _TABLE_NAME.fullmatch(path)
    return match is not None and match[1] is not None


def is_header(line: bytes, placeholders: Collection[str] | None) -> bool:
    """Return whether the first line of a list names the placeholders of the URL, so that the list is a table.

    A line of one word is a code, as `id` is that of Indonesia, unless the URL has a placeholder of another name. So is
    one that names a column `url`; alone, only where there is no URL for codes (None).
    """
    known = CODE_PLACEHOLDERS if placeholders is None else placeholders
    columns = _columns_of(line, known)
    if URL_COLUMN in columns and (len(columns) > 1 or placeholders is None):
        return True
    placeholders = known
    is_more_than_a_code = len(columns) > 1 or not _CODE_PLACEHOLDERS.issuperset(placeholders)
    return is_more_than_a_code and not _missing(columns, placeholders)


def is_transfer_list(line: bytes) -> bool:
    """Return whether the first line of a list is that of a URL list of the Storage Transfer Service."""
    return line.removeprefix(BOM_UTF8).decode("utf-8", "replace").strip() == _TRANSFER_HEADER


def _columns_of(line: bytes, placeholders: Collection[str]) -> list[str]:
    text = line.removeprefix(BOM_UTF8).decode("utf-8", "replace")
    if _is_object(text):
        return list(_json_cells(text) or ())
    return _split_header(text, placeholders)[0]


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{")


def _missing(columns: Collection[str], needed: Iterable[str]) -> list[str]:
    """Return which of the needed columns a table has not."""
    known = {*columns, *(_CODE_PLACEHOLDERS if code_column(columns) else ())}
    return [name for name in needed if name not in known]


def _split_header(text: str, placeholders: Collection[str]) -> tuple[list[str], str]:
    """Return the columns that a header names, and its delimiter.

    It is the delimiter by which most of the placeholders are columns, and then the one by which there are most columns:
    the name of a column may hold another one, as in `id;Height, in cm, of the logo`.
    """
    best: tuple[list[str], str] = ([], _DELIMITERS[0])
    best_rank = (-len(placeholders), 0)
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([text], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        columns = [name.strip() for name in cells]
        known = {*columns, *map(str.lower, columns)}
        rank = (0 if URL_COLUMN in known else -len(_missing(known, placeholders)), len(columns))
        if rank > best_rank:
            best = (columns, delimiter)
            best_rank = rank
    return best


def _json_cells(line: str) -> dict[str, str] | None:
    """Return the texts and numbers of a JSON object as they are written; None if the line is no object."""
    try:
        value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {name: cell if isinstance(cell, str) else "" for name, cell in value.items()}


class Table:
    """The rows of a table, for one thread. Memory is that of its FileTable, and of the longest row.

    `placeholders` are those of the URL and of the file's name, by which the delimiter is found. `is_interrupted` is
    called at the end: the last row of a list that was interrupted may be incomplete.
    """

    def __init__(
        self,
        chunks: Iterable[bytes | None],
        is_interrupted: Callable[[], bool] = lambda: False,
        *,
        placeholders: Collection[str] = (),
        is_json: bool = False,
    ) -> None:
        self._waits = 0
        self._header_lines = 0
        self._is_interrupted = is_interrupted
        self._lines = self._read_lines(chunks)
        self.columns: Sequence[str] = ()
        """The columns: those of the header, or of the first object."""
        self._other_names: Mapping[str, str] = {}
        header = self._read_header()
        self._is_empty = not header
        self._is_json = is_json or _is_object(header)
        if self._is_json:
            self.columns = list(_json_cells(header) or ())
            self._rows = self._read_objects(chain([header], self._lines), self._header_lines - 1)
        elif header.strip() == _TRANSFER_HEADER:
            self.columns = [URL_COLUMN, "size", MD5_COLUMN]
            self._rows = self._read_rows("\t", csv.QUOTE_NONE)
        else:
            self.columns, delimiter = _split_header(header, placeholders)
            self._rows = self._read_rows(delimiter)
        self._first_rows: list[Row] = []

    @property
    def has_urls(self) -> bool:
        """Return whether there is a column of whole URLs."""
        return URL_COLUMN in map(str.lower, self.columns)

    def check(self, template: UrlTemplate) -> bool:
        """Return whether there is a row; raise UsageError if a column is missing that they need, or is repeated.

        Where rows have URLs of their own, those of the template are none of them.
        """
        if self._is_empty:
            return False
        named = template.naming.placeholders if template.naming else frozenset[str]()
        needed = named if self.has_urls else template.all_placeholders
        self._name_columns(needed)
        problem = self._problem(needed)
        if problem:
            raise UsageError(Fault("codes", None, problem))
        self._first_rows = [row for row in [next(filter(None, self._rows), None)] if row]
        return bool(self._first_rows)

    def _name_columns(self, needed: Collection[str]) -> None:
        """Name the known columns as they are known, in whatever case they are written, as `SHA256`."""
        self._other_names = {
            name: name.lower()
            for name in self.columns
            if name.lower() in KNOWN_COLUMNS and name not in needed and name.lower() not in self.columns
        }
        self.columns = [self._other_names.get(name, name) for name in self.columns]

    def _problem(self, needed: Collection[str]) -> str:
        """Return what is wrong with the columns, or an empty text."""
        columns = visible(", ".join(filter(None, self.columns))[:_COLUMNS_SHOWN_MAX]) or "none"
        missing = _missing(self.columns, sorted(needed))
        if missing:
            if self._is_json and not self.columns:
                return "the first line is not a JSON object, as each line of a .jsonl must be"
            names = ", ".join(f"{{{name}}}" for name in missing)
            encoding = "; it is not in UTF-8" if any(map(NOT_UTF_8.search, self.columns)) else ""
            what = f"the table has no column for {names}, which the URL or the file name holds"
            return f"{what}: it has {columns}{encoding}"
        repeated = [name for name in (*needed, *KNOWN_COLUMNS) if self.columns.count(name) > 1]
        return f"the table has more than one column {repeated[0]}: it has {columns}" if repeated else ""

    def count(self) -> int:
        """Return how many rows there are; none of them is left to read then."""
        return sum(1 for row in self._rows if row)

    def items(self, template: UrlTemplate, table: FileTable, is_owned: Callable[[str], bool]) -> Iterator[Item | None]:
        """Yield the item of each row whose code `is_owned`: a WorkItem, or an InvalidItem for one that cannot be used.

        A row that says the same as one before it is passed over. A None means that the pipe has nothing at the moment.
        """
        maker = ItemMaker(self.columns, template, table)
        for row in chain(self._first_rows, self._rows):
            item = maker.item(row) if row else None
            if item is None:
                if row is None:
                    yield None
            elif is_owned(item.code):
                yield item

    def _read_header(self) -> str:
        """Return the first line that is not blank or Excel's, with those of CSV that belong to its quoted cells."""
        parts: list[str] = []
        quotes = 0
        length = 0
        for line in self._lines:
            if line:
                self._header_lines += 1
            part = line if parts else line.removeprefix("\ufeff")
            if not parts and _BEFORE_HEADER.fullmatch(part):
                continue
            parts.append(part)
            # Counted as they come: a quotation mark that is never closed may take as many lines as fit into a megabyte.
            quotes += part.count('"')
            length += len(part)
            if quotes % 2 == 0 or _is_object(parts[0]) or length > _LINE_MAX_BYTES:
                break
        return "".join(parts)

    def _read_lines(self, chunks: Iterable[bytes | None]) -> Iterator[str]:
        """Yield the lines with their ends; an empty text means that the pipe has nothing at the moment."""
        rest = b""
        for chunk in chunks:
            if chunk is None:
                self._waits += 1
                yield ""
                continue
            block = rest + chunk
            end = block.rfind(b"\n") + 1
            if not end and len(block) > _LINE_MAX_BYTES:
                end = len(block)
            rest = block[end:]
            # `newline=""` divides where the csv module does, and leaves the ends as they are.
            yield from StringIO(block[:end].decode("utf-8", "surrogateescape"), newline="")
        if rest and not self._is_interrupted():
            yield from StringIO(rest.decode("utf-8", "surrogateescape"), newline="")

    def _read_rows(self, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> Iterator[Row | None]:
        """Yield the rows of CSV (RFC 4180): cells may be quoted, and quoted ones may hold line ends."""
        # The csv module takes the empty text of a pipe that has nothing for an empty row where one could begin, and
        # for nothing within a quoted cell; so a row that is half there waits, and nothing else does.
        line_before = self._header_lines + self._waits + 1
        reader = csv.reader(self._lines, delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            line = reader.line_num - self._waits + line_before
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not self._is_interrupted():
                    yield Row(line, {}, f"it is not a row of CSV: {_CSV_PROBLEMS.get(str(error), error)}")
                continue
            # Spreadsheets leave rows of empty cells where others were.
            yield self._row(line, cells) if any(cells) else None

    def _row(self, line: int, cells: list[str]) -> Row:
        columns = self.columns
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            return Row(line, {}, f"it has {len(cells)} cells, and the header {len(columns)}")
        return Row(line, {name: cell.strip() for name, cell in zip(columns, cells, strict=False)})

    def _read_objects(self, lines: Iterable[str], number: int) -> Iterator[Row | None]:
        """Yield the rows of JSON lines, an object a line, after so many other lines."""
        for line in lines:
            if not line:
                yield None
                continue
            number += 1
            if line.strip():
                yield self._object(number, _json_cells(line))

    def _object(self, line: int, cells: dict[str, str] | None) -> Row:
        if cells is None:
            return Row(line, {}, "it is not a JSON object")
        if self._other_names:
            cells = {self._other_names.get(name, name): cell for name, cell in cells.items()}
        return Row(line, cells)
