"""Tables: what their rows become, in every form, and that no cell leads anywhere else."""

import csv
import json
import tracemalloc
from collections.abc import Iterable, Iterator
from io import StringIO
from os.path import normpath
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job.errors import Reason, UsageError
from job.file_table import FileTable
from job.layout import is_name
from job.model import InvalidItem, Item, WorkItem
from job.tables import Table, is_header, is_json_name, is_table_name
from job.template import FileTemplate, UrlTemplate

TILES = UrlTemplate.parse("https://h/{z}/{x}/{y}.png")
IDS = UrlTemplate.parse("https://h/{id}.png")
CODES = UrlTemplate.parse("https://h/{CC}/{cc}.gif")
DIGEST = "1F" * 32


def items_of(
    data: bytes | Iterable[bytes | None], template: UrlTemplate, *, is_json: bool = False
) -> list[Item | None]:
    """Return what the rows of a table become."""
    table = Table([data] if isinstance(data, bytes) else data, is_json=is_json)
    table.check(template)
    return list(table.items(template, FileTable(), lambda _: True))


def told(data: bytes, template: UrlTemplate = IDS, *, is_json: bool = False) -> list[str]:
    """Return the code of each item, with what is wrong with it."""
    items = items_of(data, template, is_json=is_json)
    return [f"{item.code}: {item.problem}" if isinstance(item, InvalidItem) else item.code for item in items if item]


@pytest.mark.parametrize(
    ("name", "is_table", "is_json"),
    [
        ("a.csv", True, False),
        ("dir/A.TSV.gz", True, False),
        ("a.jsonl", True, True),
        ("a.jsonl.gz", True, True),
        ("a.json", False, False),
        ("a.csv.txt", False, False),
        (".csv", False, False),
        ("-", False, False),
    ],
)
def test_a_name_tells_a_table(name: str, is_table: bool, is_json: bool) -> None:  # noqa: FBT001  (of a table)
    """Names that end in .csv, .tsv or .jsonl, also with .gz, are those of tables."""
    assert (is_table_name(name), is_json_name(name)) == (is_table, is_json)


@pytest.mark.parametrize(
    ("line", "url", "is_table"),
    [
        (b"z,x,y", "https://h/{z}/{x}/{y}", True),
        (b"\xef\xbb\xbfy;x;z;note", "https://h/{z}/{x}/{y}", True),
        (b"z\tx", "https://h/{z}/{x}/{y}", False),
        (b'{"z": 1, "x": 2, "y": 3}', "https://h/{z}/{x}/{y}", True),
        (b"name", "https://h/{name}", True),
        (b"id", "https://h/{id}", False),
        (b"cc", "https://h/{cc}", False),
        (b"code,sha256", "https://h/{cc}", True),
        (b"id\tsize", "https://h/{id}", True),
        (b"cn us br", "https://h/{cc}", False),
        (b'{"id": ', "https://h/{id}", False),
        (b'"a', "https://h/{id}", False),
        (b"", "https://h/{id}", False),
        (b"\xff", "https://h/{id}", False),
    ],
)
def test_a_first_line_tells_a_table(line: bytes, url: str, is_table: bool) -> None:  # noqa: FBT001  (of a table)
    """A first line that names all placeholders is a header; a single word that may be a code is none."""
    assert is_header(line, UrlTemplate.parse(url).placeholders) == is_table


@pytest.mark.parametrize(
    "data",
    [
        b"z,x,y\n7,66,42\n8,1,2\n",
        b"\xef\xbb\xbfz,x,y\r\n7,66,42\r\n\r\n8,1,2",
        b"y;x;z;note\n42;66;7;a,b\n2;1;8;\n",
        b'\n z\tx\ty\t"two\nlines"\n7\t66\t42\t"a\n""b"""\n 8 \t1\t2\n',
        b'"z"|"x"|"y"\n"7"|"66"|"42"\n8|1|2|\n',
        b'{"z": 7, "x": "66", "y": 42}\n\n{"y": 2, "x": 1, "z": 8, "more": [1]}\n',
    ],
)
def test_every_form_of_a_table_has_the_same_rows(data: bytes) -> None:
    """Commas, semicolons, tabs and bars, quotes, line ends within cells and JSON lines: the header tells the form."""
    expected = [
        WorkItem("7/66/42.png", "https://h/7/66/42.png", "7/66/42.png"),
        WorkItem("8/1/2.png", "https://h/8/1/2.png", "8/1/2.png"),
    ]
    assert [item for item in items_of(data, TILES) if item] == expected
    for size in (1, 2, 7):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        with_waits = [piece for chunk in pieces for piece in (chunk, None)]
        assert [item for item in items_of(with_waits, TILES) if item] == expected


def test_known_columns() -> None:
    """`id` or `code` names an item, `file` its file; `sha256` and `size` are what it must have."""
    data = f"id,file,sha256,size\na,x/a.png,{DIGEST},7\nb,x y.png,,\n".encode()
    assert items_of(data, IDS) == [
        WorkItem("a", "https://h/a.png", "x/a.png", size=7, sha256=DIGEST.lower()),
        WorkItem("b", "https://h/b.png", "x y.png"),
    ]
    assert items_of(b"code\nCn\ncN\n", CODES) == [WorkItem("CN", "https://h/CN/cn.gif", "cn.gif")]
    assert told(b"code\n\xc3\x9f\n", CODES) == ["\u00df: line 2: code is not a valid ID"]
    assert items_of(b"code,z,x,y\nA,1,2,3\n", TILES) == [WorkItem("A", "https://h/1/2/3.png", "A.png")]
    named = TILES.with_naming(FileTemplate.parse("{z:.1}/{name}.png"))
    assert items_of(b"z,x,y,name,file\n12,2,3,n,f\n", named) == [WorkItem("1/n.png", "https://h/12/2/3.png", "1/n.png")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("", None),
        ("a,1,,", None),
        (",1,,", "line 2: id is missing"),
        ("..,1,,", "..: line 2: id is not a valid ID"),
        ("a,,,", "a: line 2: x is missing"),
        ("a", "a: line 2: x is missing"),
        ("a,..,,", "a: line 2: a cell of dots would lead the URL elsewhere"),
        ("a,1,12,", "a: line 2: sha256 is not a digest of 64 hexadecimal digits"),
        ("a,1,,7 kB", "a: line 2: size is not a number of bytes: 7 kB"),
        ("a,1,,,,b", "line 2: it has 6 cells, and the header 4"),
        ('"a"b,1,,', "line 2: it is not a row of CSV: ',' expected after '\"'"),
        ("a,1,,,,", None),
        ("SHA256SUMS,1,,", "SHA256SUMS: line 2: its file would be named SHA256SUMS, which is not a safe name"),
    ],
)
def test_a_row_that_cannot_be_used_is_an_invalid_item(row: str, problem: str | None) -> None:
    """It has its line and what is wrong with it, and its code if that can be shown; the next row is read."""
    expected = [problem] if problem else ["a"] * row.startswith("a")
    data = f"id,x,sha256,size\n{row}\nnext,1,,\n".encode()
    assert told(data, UrlTemplate.parse("https://h/{x}")) == [*expected, "next"]


def test_rows_are_told_apart_by_file_and_url() -> None:
    """The same row twice is one item; two rows for one file are one item and one invalid row."""
    items = items_of(b"x,file\n1,a\n1,a\n2,a\n2,a\n", UrlTemplate.parse("https://h/{x}"))
    problem = "its file a is that of another row"
    assert items == [
        WorkItem("a", "https://h/1", "a"),
        InvalidItem("line 4", problem, Reason.INVALID_ROW),
        InvalidItem("line 5", problem, Reason.INVALID_ROW),
    ]


def test_rows_of_json_lines() -> None:
    """Numbers are taken as they are written; a line that is no object, or lacks text, is an invalid row."""
    data = (
        b'{"id": 1.50, "n": "a"}\n[1]\n{"id": null}\n{"id": {}}\n' + b"[" * 100_000 + b'\n{"id": "\\ud800"}\n{"id": 2}'
    )
    assert told(data, is_json=True) == [
        "1.50",
        "line 2: it is not a JSON object",
        "line 3: id is missing",
        "line 4: id is missing",
        "line 5: it is not a JSON object",
        "\\x00: line 6: id is not a valid ID",
        "2",
    ]
    assert told(b'\xef\xbb\xbf{"id": 1, "n": "\\""}\n{"id": 2}') == ["1", "2"]
    template = UrlTemplate.parse("https://h/{x}")
    assert told(b'{"x": "\\ud800", "file": "a"}', template, is_json=True) == ["line 1: a cell holds a broken character"]


def test_lines_are_counted_as_an_editor_does() -> None:
    """Blank lines and line ends within cells count, whatever a pipe does meanwhile."""
    data = b'\nid,n\n\na,"1\n2\n3"\n,x\nb,1\n'
    assert told(data) == ["a", "line 7: id is missing", "b"]
    waits = [part for byte in data for part in (bytes([byte]), None)]
    items = [item.code for item in items_of(waits, IDS) if item]
    assert items == ["a", "line 7", "b"]
    assert told(b'\n{"id": 1}\n\n{}\n', is_json=True)[-1].startswith("line 4")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a,b\n1,2\n", "the table has no column for {x}, {y}, {z}, which the URL or the file name holds: it has a, b"),
        (b"z,x\n", "the table has no column for {y}, which the URL or the file name holds: it has z, x"),
        (b"{", "the first line is not a JSON object, as each line of a .jsonl must be"),
        (
            b'"' + b"x" * 2**21 + b"\n",
            "the table has no column for {x}, {y}, {z}, which the URL or the file name holds: it has none",
        ),
        (b'"', "the table has no column for {x}, {y}, {z}, which the URL or the file name holds: it has none"),
    ],
)
def test_a_table_without_a_needed_column_is_a_usage_error(data: bytes, problem: str) -> None:
    """It lists the columns that there are."""
    with pytest.raises(UsageError) as caught:
        items_of(data, TILES)
    assert [fault.problem for fault in caught.value.faults] == [problem]


def test_the_last_row_of_an_interrupted_table_is_dropped() -> None:
    """It may be incomplete, and then be another row."""
    for rest in (b"abc", b'"abc\n', b'"ab\ncd'):
        table = Table([b"id,n\na,1\n", rest], lambda: True)
        assert table.check(IDS)
        assert [item.code for item in table.items(IDS, FileTable(), lambda _: True) if item] == ["a"]


def test_long_lines_take_bounded_memory() -> None:
    """A line without an end, or a quote that is never closed, is one invalid row or more, and the rest is read."""

    def endless() -> Iterator[bytes]:
        yield b"id,n\na,1\n"
        for _ in range(3 * 64):
            yield b"x" * 16 * 1024
        yield b'\nb,1\nc,"'
        for _ in range(64):
            yield b"y" * 16 * 1024 + b"\n"
        yield b"d,1\n"

    items = [item for item in items_of(endless(), IDS) if item]
    assert [item.code for item in items if isinstance(item, WorkItem)] == ["a", "b", "d"]
    assert {item.reason for item in items if isinstance(item, InvalidItem)} == {Reason.INVALID_ROW}


CELLS = st.text(st.characters(), max_size=8) | st.text("./a%\\?#@:&\u00e4 \n", max_size=8) | st.just("..")


@settings(deadline=None)
@given(cells=st.lists(CELLS, min_size=3, max_size=3), form=st.sampled_from(["csv", "jsonl"]))
@example(["..", "..", ".."], "csv")
@example(["a/../b", "?x=1#y", "@evil"], "jsonl")
def test_no_cell_leads_anywhere_else(cells: list[str], form: str) -> None:
    """Whatever cells hold, host, depth and query of the URL stay, and files lie below the destination."""
    template = UrlTemplate.parse("https://h/{a}/{b}.png?c={c}&d=1").with_naming(FileTemplate.parse("{a:.2}/{b}-{c}"))
    if form == "csv":
        written = StringIO()
        csv.writer(written).writerows([["a", "b", "c"], cells])
        data = written.getvalue().encode("utf-8", "surrogatepass")
    else:
        data = json.dumps(dict(zip("abc", cells, strict=True))).encode()
    for item in items_of(data, template):
        if isinstance(item, WorkItem):
            url = urlsplit(item.url)
            assert item.url.isascii()
            assert (url.scheme, url.netloc, url.fragment) == ("https", "h", "")
            assert (url.path.count("/"), {"", ".", ".."} & set(url.path.split("/")[1:])) == (2, set())
            assert (url.query.count("&"), url.query.count("="), url.query[-4:]) == (1, 2, "&d=1")
            assert is_name(item.file)
            assert normpath(f"/dest/{item.file}") == f"/dest/{item.file}"
            assert unquote(url.query)
        elif item:
            assert item.reason is Reason.INVALID_ROW
            assert f"{item.code}{item.problem}".isprintable()


def test_a_slash_in_a_cell_adds_no_directory_to_the_url() -> None:
    """Only an id may hold segments; the slash of another column is percent-encoded."""
    template = UrlTemplate.parse("https://h/{name}/{id}.png")
    (item,) = items_of(b"id,name\na/b,c/d@e\n", template)
    assert isinstance(item, WorkItem)
    assert (item.url, item.file) == ("https://h/c%2Fd%40e/a/b.png", "a/b.png")


def test_a_header_without_end_takes_bounded_memory() -> None:
    """A quotation mark that is never closed does not make the whole table its header."""
    taken = []

    def chunks() -> Iterator[bytes]:
        yield b'id,"name\n'
        for number in range(100):
            taken.append(number)
            yield b"a,b\n" * 16_384

    Table(chunks())
    assert len(taken) < 20


def test_a_line_without_end_takes_bounded_memory() -> None:
    """A line is cut at a megabyte: a file without line ends is not read as a whole."""
    tracemalloc.start()
    with pytest.raises(UsageError, match="no column"):
        items_of((b"x" * 65_536 for _ in range(600)), IDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 1024**2
