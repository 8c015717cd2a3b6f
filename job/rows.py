"""Rows of a table: each becomes an item, or an invalid one with its line."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from job.errors import Reason
from job.file_table import Claim, FileTable
from job.layout import is_id, is_name
from job.model import InvalidItem, Item, WorkItem
from job.redaction import shown
from job.template import CODE_PLACEHOLDERS, UrlTemplate, WholeUrl, has_dot_segment, suffix_of

_CODE_COLUMNS = ("id", "code", "cc")
"""Columns that name an item, the first that there is: `{id}` is its text, `{cc}` and `{CC}` that in one case."""
URL_COLUMN = "url"
MD5_COLUMN = "content-md5"
"""As the header field of RFC 1864, which has a digest in base64."""
KNOWN_COLUMNS = (*_CODE_COLUMNS, "file", "sha256", "size", URL_COLUMN, MD5_COLUMN)
NOT_UTF_8 = re.compile("[\udc80-\udcff]")
"""How Python keeps bytes that are not UTF-8 (PEP 383); they never reach a URL or a name."""
_ORIGINS_MAX = 32
"""Each origin has its own throttle, and connections of its own: a list of more is one for a crawler."""
_MD5_BYTES = 16
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_SIZE = re.compile(r"([0-9]{1,15})(?:\.0+)?")
"""pandas writes whole numbers with `.0` where one of their column is missing."""


class Row(NamedTuple):
    """One row: the line in which it begins, counted from 1, and its cells by column; without cells it has a problem."""

    line: int
    cells: dict[str, str]
    problem: str = ""


class _UnusableError(ValueError):
    """A row that cannot become an item, and why."""


def code_column(columns: Collection[str]) -> str | None:
    """Return the column that names an item, or None."""
    return next((name for name in _CODE_COLUMNS if name in columns), None)


class ItemMaker:
    """Makes the items of rows, each file once; for one thread."""

    def __init__(self, columns: Collection[str], template: UrlTemplate, table: FileTable) -> None:
        """Take the columns of a table, the template of its URLs and names, and the files that there are already."""
        self._template = template
        self._table = table
        self._code_column = code_column(columns)
        self._has_file = "file" in columns
        self._has_urls = URL_COLUMN in columns
        self._origins: set[str] = set()
        self._needed = template.placeholders
        # As in a list: compared without case, shown in upper case, in the file's name in lower case.
        self._is_code = bool(self._needed) and CODE_PLACEHOLDERS.issuperset(self._needed)

    def item(self, row: Row) -> Item | None:
        """Return the item of a row; None if a row before it said the same."""
        code = row.cells.get(self._code_column or "", "")
        try:
            return self._make(row, code)
        except _UnusableError as error:
            problem = str(error)
            if any(map(NOT_UTF_8.search, row.cells.values())):
                problem += "; it is not in UTF-8"
            line = f"line {row.line}"
            if code:
                return InvalidItem(shown(code), f"{line}: {problem}", Reason.INVALID_ROW)
            return InvalidItem(line, problem, Reason.INVALID_ROW)

    def _make(self, row: Row, code: str) -> WorkItem | None:
        if row.problem:
            raise _UnusableError(row.problem)
        cells = self._with_code(row.cells, code) if self._code_column else row.cells
        code = code.upper() if self._is_code else code
        whole = self._whole_url(cells) if self._has_urls else None
        if not whole:
            _check_present(cells, self._needed)
        file = self._file(cells, whole)
        url = whole.text if whole else self._url(cells)
        item = WorkItem(code or file, url, file, size=_size(cells), sha256=_sha256(cells), md5=_md5(cells))
        if whole:
            item.origin = whole.origin
            item.suffix = suffix_of(file) or whole.suffix
        return self._claimed(item)

    def _claimed(self, item: WorkItem) -> WorkItem | None:
        """Return the item, or None if a row before it said the same."""
        # With the URL, so that a row which says something else about a file is not taken for the same row.
        claim = self._table.claim(item.file, f"{item.code}\n{item.url}")
        if claim is Claim.TAKEN:
            raise _UnusableError(f"its file {item.file} is that of another row")
        return item if claim is Claim.FIRST else None

    def _with_code(self, cells: Mapping[str, str], code: str) -> dict[str, str]:
        """Return the cells with those that stand for the row's code."""
        # Only ASCII is put into another case: upper() turns a sharp s into two letters.
        is_valid = is_id(code) and (code.isascii() or not self._is_code)
        if not is_valid:
            raise _UnusableError(f"{self._code_column} is {'not a valid ID' if code else 'missing'}")
        return {"id": code, **cells, "cc": code.lower(), "CC": code.upper()}

    def _whole_url(self, cells: Mapping[str, str]) -> WholeUrl:
        """Return the URL that a row has itself, or else the template's, if there is one."""
        text = cells.get(URL_COLUMN)
        if not text:
            _check_present(cells, self._needed or (URL_COLUMN,))
        try:
            url = WholeUrl.parse(text or self._url(cells))
        except ValueError as error:
            raise error if isinstance(error, _UnusableError) else _UnusableError(f"its URL {error}") from None
        self._check_origin(url.origin)
        return url

    def _check_origin(self, origin: str) -> None:
        if origin in self._origins:
            return
        if len(self._origins) == _ORIGINS_MAX:
            raise _UnusableError(f"its URL leads to more than the {_ORIGINS_MAX} origins that a list may have")
        self._origins.add(origin)

    def _file(self, cells: Mapping[str, str], whole: WholeUrl | None) -> str:
        file = self._file_name(cells, whole)
        if not is_name(file):
            raise _UnusableError(f"its file would be named {shown(file)}, which is not a safe name")
        return file

    def _file_name(self, cells: Mapping[str, str], whole: WholeUrl | None) -> str:
        template = self._template
        if template.naming is not None:
            _check_present(cells, template.naming.placeholders)
            return template.naming.render(cells)
        if self._has_file:
            return cells.get("file", "")
        if self._code_column:
            suffix = whole.suffix if whole else template.suffix
            return cells["cc" if self._is_code else self._code_column] + suffix
        if whole and cells.get(URL_COLUMN):
            return whole.name
        return "/".join(cells.get(name, "") for name in self._needed) + template.suffix

    def _url(self, cells: Mapping[str, str]) -> str:
        try:
            url = self._template.render(cells)
        except UnicodeEncodeError:
            raise _UnusableError("a cell holds a broken character") from None
        if "/." in url and has_dot_segment(url):
            raise _UnusableError("a cell of dots would lead the URL elsewhere")
        return url


def _size(cells: Mapping[str, str]) -> int | None:
    text = cells.get("size")
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if not match:
        raise _UnusableError(f"size is not a number of bytes: {shown(text)}")
    return int(match[1])


def _sha256(cells: Mapping[str, str]) -> str | None:
    text = cells.get("sha256")
    if not text:
        return None
    if not _SHA256.fullmatch(text):
        raise _UnusableError("sha256 is not a digest of 64 hexadecimal digits")
    return text.lower()


def _md5(cells: Mapping[str, str]) -> str | None:
    text = cells.get(MD5_COLUMN)
    if not text:
        return None
    try:
        digest = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        digest = b""
    if len(digest) != _MD5_BYTES:
        raise _UnusableError(f"{MD5_COLUMN} is not an MD5 digest in base64")
    return digest.hex()


def _check_present(cells: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if not cells.get(name):
            raise _UnusableError(f"{name} is missing")
