"""Tables as spreadsheets and other programs export them, and what is said about those that cannot be used."""

import gzip
from pathlib import Path

import pytest
from command import flagjob
from images import PNG
from inprocess import files_in, run_here
from scripted import Answer, ScriptedServer

from job.errors import UsageError
from job.file_table import FileTable
from job.model import InvalidItem
from job.tables import Table
from job.template import FileTemplate, UrlTemplate

URL = UrlTemplate.parse("https://h/{id}.png")
PATHS = {f"/{name}.png": Answer(body=PNG) for name in ("0012", "0013")}


def told(data: bytes, template: UrlTemplate = URL, *, is_json: bool = False) -> list[str]:
    """Return the code of each item, or what is wrong with it."""
    table = Table([data], placeholders=template.all_placeholders, is_json=is_json)
    table.check(template)
    items = table.items(template, FileTable(), lambda _: True)
    return [item.problem if isinstance(item, InvalidItem) else item.code for item in items if item]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"),
    [
        (
            "a.csv",
            '\ufeffid;Preis;Größe;note\r\n0012;1,50;3,2;"a\r\nb ""q"""\r\n0013;2,00;;x\r\n;;;\r\n;;;\r\n'.encode(),
        ),
        ("a.csv", 'id,name,note\n0012,"Müller, GmbH","two\nlines"\n0013,x,\n'.encode()),
        ("a.csv", b'id,name,note\r\n0012,"a, b","c ""d"""\r\n0013,,\r\n,,\r\n'),
        ("a.csv", "id;Größe\r\n0012;größer\r\n0013;\r\n".encode("cp1252")),
        ("a.csv", b"sep=;\r\nid;name\r\n0012;a\r\n0013;b\r\n"),
        ("a.csv", b'"sep=\t"\r\nid\tname\r\n0012\ta\r\n0013\tb\r\n'),
        ("a.csv", b",id,,name,,name\n0,0012,,a,,b\n1,0013,,,,\n"),
        ("a.csv", b" ID , Name \n0012,a\n 0013 ,b\n"),
        ("a.csv", b"id,name\r0012,a\r0013,b\r"),
        ("a.csv", b"id,name,,\r\n0012,a,,\r\n0013,b,,,,\r\n"),
        ("a.csv", 'id;Größe, in cm, außen;"a;b,c,d,e"\n0012;1,5;x\n0013;2;y\n'.encode()),
        ("a.tsv", "id\tname\r\n0012\tMüller\r\n0013\t\r\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress(b"id,name\n0012,a\n0013,b\n")),
        ("-", gzip.compress(b"id;name\r\n0012;a\r\n0013;b\r\n;\r\n")),
        ("-", "id\tname\r\n0012\ta\r\n0013\tb\r\n".encode("utf-16")),
        ("-", b"sep=;\r\nid;name\r\n0012;a\r\n0013;b\r\n"),
        ("-", '\ufeffid,"two\nlines, or ""more"""\n0012,a\n0013,b\n'.encode()),
        ("-", b"id,name\r0012,a\r0013,b\r"),
        ("-", b'{"id": "0012", "size in \\"": 1}\n{"id": "0013"}\n'),
    ],
    ids="excel libreoffice google cp1252 sep quoted-sep pandas cased mac empty-columns delimiters-in-names unicode "
    "gzip pipe unicode-pipe sep-pipe quoted-pipe mac-pipe json-pipe".split(),
)
def test_exports_of_spreadsheets_are_read(tmp_path: Path, name: str, data: bytes) -> None:
    """All rows are downloaded, ids keep their zeros, and rows of empty cells are none."""
    if name != "-":
        (tmp_path / name).write_bytes(data)
    with ScriptedServer(PATHS) as server:
        settings = {"FLAGJOB_URL": server.url("/{id}.png"), "FLAGJOB_CODES_FILE": name}
        done = flagjob(cwd=tmp_path, settings=settings, stdin=data if name == "-" else b"")
    assert (done.code, done.statuses) == (0, {"0012": "ok", "0013": "ok"})
    assert files_in(tmp_path / "downloads") == {"0012.png": PNG, "0013.png": PNG}


def test_known_columns_are_known_in_any_case(tmp_path: Path) -> None:
    """A digest or a size is enforced also where its column is called `SHA256` or `Size`; numbers may end with `.0`."""
    table = tmp_path / "a.csv"
    table.write_text(f"ID,SHA256,Size\n0012,{'0' * 64},\n0013,,{len(PNG)}.0\n", "utf-8")
    lines = tmp_path / "a.jsonl"
    lines.write_text(f'{{"Id": "0012", "Sha256": "{"0" * 64}"}}\n{{"Id": "0013", "Size": {len(PNG)}}}\n', "utf-8")
    for path in (table, lines):
        with ScriptedServer(PATHS) as server:
            dest = tmp_path / f"{path.name}.d"
            done = run_here(dest=dest, url=server.url("/{id}.png"), codes_file=str(path), max_attempts="1")
        results = {line["code"]: [line["status"], line["reason"]] for line in done.events_named("result")}
        assert results == {"0012": ["error", "checksum"], "0013": ["ok", None]}
    both = UrlTemplate.parse("https://h/{id}/{Size}.png").with_naming(FileTemplate.parse("{id}-{Size}"))
    assert told(b"id,Size,size\na,large,7\nb,small,x\n", both) == ["a", "line 3: size is not a number of bytes: x"]
    assert told(b"id,Size\na,large\n", both) == ["a"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"id,name,id\n1,a,2\n", "the table has more than one column id: it has id, name, id"),
        (b"id,SHA256,sha256,sha256\n", "the table has more than one column sha256: it has id, SHA256, sha256, sha256"),
        (
            b"My report,,\n,,\nid,name,x\n",
            "the table has no column for {id}, which the URL or the file name holds: it has My report",
        ),
        (
            b"key," + b"long,," * 200 + b"\n",
            "the table has no column for {id}, which the URL or the file name holds: it has key, "
            + "long, " * 65
            + "long,",
        ),
        (
            "Straße;nr\n1;a\n".encode("cp1252"),
            (
                "the table has no column for {id}, which the URL or the file name holds: "
                "it has Stra\\xdfe, nr; it is not in UTF-8"
            ),
        ),
    ],
    ids=["twice", "known twice", "title", "wide", "encoding"],
)
def test_columns_that_cannot_be_used_are_one_usage_error(data: bytes, problem: str) -> None:
    """The error names the columns that there are, without those that have no name."""
    with pytest.raises(UsageError) as caught:
        told(data)
    assert [fault.problem for fault in caught.value.faults] == [problem]


@pytest.mark.parametrize("data", [b'[{"id": 1}, {"id": 2}]\n', b'"id"\n1\n'])
def test_json_lines_that_are_none_are_one_usage_error(data: bytes) -> None:
    """An array of objects, as many programs write JSON, is told from a table without a column."""
    with pytest.raises(UsageError, match=r"the first line is not a JSON object, as each line of a \.jsonl must be"):
        told(data, is_json=True)


def test_cells_in_another_encoding_never_reach_a_url() -> None:
    """Bytes that are not UTF-8 make a row invalid where they are needed, and nowhere else."""
    data = "id,name,note\n1,größer,a\n2,b,größer\ngröß,c,\n".encode("cp1252")
    assert told(data, UrlTemplate.parse("https://h/{id}/{name}.png")) == [
        "line 2: a cell holds a broken character; it is not in UTF-8",
        "2",
        "line 4: id is not a valid ID; it is not in UTF-8",
    ]
    assert told(b"n,file\n1,\xfc\n", UrlTemplate.parse("https://h/{n}")) == [
        r"its file would be named \xfc, which is not a safe name; it is not in UTF-8"
    ]


def test_a_cell_that_is_missing_is_named() -> None:
    """It is no matter of the file's name, which would lack it, too."""
    tiles = UrlTemplate.parse("https://h/{z}/{x}/{y}.png")
    assert told(b"z,x,y\n1,,2\n1, ,2\n1\n", tiles) == ["x is missing"] * 3


def test_a_quote_that_is_never_closed_is_said() -> None:
    """The rows after it are within its cell, so that the message must lead to the line of the quote."""
    assert told(b'id,note\n1,"open\n2,b\n3,c\n') == [
        "it is not a row of CSV: a cell that begins with a quote has no end"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00", "the list seems to be a zip archive or an Excel workbook: it must be a table"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>\n", "the list seems to be a page of HTML or XML: it must be a table"),
        ("a.tsv", "id\tname\n".encode("utf-16-le"), "the list seems to be UTF-16 without a byte order mark"),
        ("a.csv", b"", "there are none: give codes as arguments"),
        ("a.csv", b"\n\n", "there are none: give codes as arguments"),
        ("a.csv", b"id,name\n,\n", "there are none: give codes as arguments"),
        ("a.json", b'[{"id": 1}]', "the name of a table ends in .csv, .tsv or .jsonl"),
        (
            "a.txt",
            "id\tname\r\n0012\ta\r\n".encode("utf-16"),
            "the list seems to be a table with tabs: the name of a table ends in .csv, .tsv or .jsonl",
        ),
        ("a.txt", b'"id","name"\n', "the name of a table ends in .csv, .tsv or .jsonl"),
    ],
)
def test_what_is_no_table_is_one_usage_error(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    """A workbook, a page or an empty file is said to be one, and a table without a table's name, too."""
    (tmp_path / name).write_bytes(data)
    done = flagjob("--url", "http://localhost:1/{id}.png", "--codes-file", name, cwd=tmp_path)
    (error,) = done.events_named("usage_error")
    assert (done.code, error["setting"]) == (2, "codes")
    assert problem in error["problem"]
