"""Lists of codes in other encodings, compressed, or of another kind: they are read, or refused in words."""

import codecs
import errno
import gzip
import io
import os
import signal
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.cancellation import Cancellation
from job.errors import Reason, UsageError
from job.file_table import FileTable
from job.inputs import open_inputs
from job.lists import as_utf_8, file_chunks
from job.settings import load, parse_arguments

TEXT = "# flags\r\nbr cn\r\nfr\r\n"
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8-sig": lambda text: text.encode("utf-8-sig"),
    "utf-16-le": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32-le": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "utf-32-be": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "two members": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "padded": lambda data: gzip.compress(data[:7]) + bytes(9) + gzip.compress(data[7:]) + bytes(512),
}


def codes_in(path: Path, **variables: str) -> list[str]:
    """Return the codes that a run takes from a file of codes or a named pipe."""
    environ = {"FLAGJOB_CODES_FILE": str(path), "FLAGJOB_SERVER": "remote", **variables}
    with ExitStack() as stack:
        inputs = open_inputs(load(parse_arguments([]), environ), Cancellation(), stack, FileTable())
        return [item.code for item in inputs.items if item]


def problem_of(path: Path) -> str:
    """Return the only fault of a file of codes."""
    with pytest.raises(UsageError) as caught:
        codes_in(path)
    (fault,) = caught.value.faults
    assert (fault.setting, fault.value) == ("codes", None)
    return fault.problem


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_list_is_read_by_its_marks(tmp_path: Path, encoding: str, packing: str) -> None:
    """UTF-8, UTF-16 and UTF-32 are known by the byte order mark, gzip by its own, and each within gzip."""
    (tmp_path / "codes").write_bytes(PACKINGS[packing](ENCODINGS[encoding](TEXT)))
    assert codes_in(tmp_path / "codes") == ["BR", "CN", "FR"]


WORDS = st.lists(st.sampled_from(["br", "cn", "#", "\n", " ", "\ufeff", "\u00a0", "é", "\U0001f1e7"]), max_size=60)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    words=WORDS,
    encoding=st.sampled_from(list(ENCODINGS)),
    packing=st.sampled_from(list(PACKINGS)),
    cuts=st.sets(st.integers(0, 300), max_size=9),
)
def test_encodings_and_chunks_do_not_matter(words: list[str], encoding: str, packing: str, cuts: set[int]) -> None:
    """A text has the same bytes in UTF-8 whatever its encoding, its packing and the parts in which it arrives."""
    text = "br\n" + "".join(words)
    data = PACKINGS[packing](ENCODINGS[encoding](text))
    parts = [data[start:end] for start, end in pairwise([0, *sorted(cuts), max(300, len(data))])]
    found = b"".join(filter(None, as_utf_8(chunk for part in parts if part for chunk in (None, part))))
    assert found.decode("utf-8-sig").removeprefix("\ufeff") == text


@pytest.mark.parametrize(
    ("data", "seeming"),
    [
        (b"PK\x03\x04\x14\x00", "a zip archive or an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel workbook"),
        (b"\xfd7zXZ\x00\x00", "a file compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x04", "a zstd file"),
        (b"BZh91AY&SY\x00", "a bzip2 file"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"SQLite format 3\x00\x10", "an SQLite database"),
        (b"PAR1\x15\x04", "a Parquet file"),
        ("br\ncn\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("br\ncn\n".encode("utf-16-be"), "UTF-16 without a byte order mark"),
        (b"<!DOCTYPE html>\n<html>", "a page of HTML or XML"),
        (b"\xef\xbb\xbf\r\n<?xml version='1.0'?>", "a page of HTML or XML"),
        (b'["br", "cn"]', "JSON"),
        (b'\n{"codes": []}', "JSON"),
        (b'"code","name"\r\n"BR","Brazil"\r\n', "a CSV file with quotes"),
        (b'code,name\n# all of them\n\nKR,"Korea, South"\n', "a CSV file with quotes"),
        (b"'BR'\n'CN'\n", "a CSV file with quotes"),
        (b"code;name\nBR;Brazil\n", "a table with semicolons"),
        (b"\xef\xbb\xbfcode\nBR;\n", "a table with semicolons"),
    ],
)
@pytest.mark.parametrize("packing", ["plain", "gzip"])
@pytest.mark.parametrize("text_encoding", ["utf-8", "utf-16"])
def test_what_is_no_list_is_named(tmp_path: Path, data: bytes, seeming: str, packing: str, text_encoding: str) -> None:
    """A file of another kind is one usage error that says what it seems to be, not an error for each of its lines."""
    if text_encoding == "utf-16" and data.isascii() and b"\x00" not in data:
        data = data.decode().encode("utf-16")
    (tmp_path / "codes").write_bytes(PACKINGS[packing](data))
    problem = problem_of(tmp_path / "codes")
    assert problem.startswith(f"the list seems to be {seeming}: it must be plain text")
    assert problem.endswith("; the name of a table ends in .csv, .tsv or .jsonl")


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (b"BZ\nBR", ["BZ", "BR"]),
        (b"PK", ["PK"]),
        (b"PAR\nPAR1", ["PAR", "PAR1"]),
        (b"br # so; to \"say\"\ncn # 'ok'\n", ["BR", "CN"]),
        (b'br\ncn\n"fr"\nd;e', ["BR", "CN", '"FR"', "D;E"]),
        (b"\xff\xfe", None),
        (b"", None),
        (b"\xef\xbb\xbf", None),
    ],
)
def test_a_list_that_begins_like_something_else_is_read(tmp_path: Path, data: bytes, codes: list[str] | None) -> None:
    """Codes may begin like a mark, comments may hold anything, and single lines of garbage stay errors of their own."""
    (tmp_path / "codes").write_bytes(data)
    if codes is None:
        assert problem_of(tmp_path / "codes").startswith("there are none")
    else:
        assert [code.upper() for code in codes_in(tmp_path / "codes")] == codes


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_a_pipe_may_deliver_a_list_byte_by_byte(tmp_path: Path, packing: str) -> None:
    """A mark that arrives byte by byte is recognised, from a named pipe, too."""
    os.mkfifo(tmp_path / "codes")
    with ThreadPoolExecutor(1) as executor:
        reading = executor.submit(codes_in, tmp_path / "codes")
        with (tmp_path / "codes").open("wb", buffering=0) as writer:
            for byte in PACKINGS[packing](ENCODINGS["utf-16-le"](TEXT)):
                writer.write(bytes([byte]))
        assert reading.result(20) == ["BR", "CN", "FR"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (gzip.compress(b"br\ncn\n", mtime=0)[:-1], "it is gzip without its end"),
        (gzip.compress(b"", mtime=0)[:10], "it is gzip without its end"),
        (b"\x1f\x8b\x08 and text", "it is damaged gzip: "),
    ],
)
def test_gzip_that_is_cut_or_damaged(tmp_path: Path, data: bytes, problem: str) -> None:
    """A list that cannot be read before the run begins is a usage error."""
    (tmp_path / "codes").write_bytes(data)
    assert problem_of(tmp_path / "codes").startswith(f"the list cannot be read: {problem}")


def test_a_large_compressed_list_takes_no_memory() -> None:
    """A list is decompressed as it is read: 50 MB of it take less than a megabyte."""
    data = gzip.compress(b"br cn fr\n" * 6_000_000, 1)
    tracemalloc.start()
    size = sum(len(chunk or b"") for chunk in as_utf_8(file_chunks(io.BytesIO(data))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (size, peak < 1_000_000) == (54_000_000, True)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_list_is_counted_before_anything_else(tmp_path: Path, packing: str) -> None:
    """Repeated codes count, comments do not; a list that is long enough is read as it would be otherwise."""
    (tmp_path / "codes").write_bytes(PACKINGS[packing](b"# a list\nbr br,cn\n"))
    assert codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="3") == ["BR", "CN"]
    with pytest.raises(UsageError, match=r"must be 4 at least \(FLAGJOB_MIN_CODES\), but the list has 3"):
        codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "codes.csv",
            'cc,name\nbr,"Brazil,\nFederative Republic of"\n\ncn,China\nbr,"Brazil,\nFederative Republic of"\n',
        ),
        ("codes.tsv.gz", "cc\tname\nbr\tBrazil\ncn\tChina\nbr\tBrazil\n"),
        ("codes.jsonl", '{"cc":"br"}\n{"cc":"cn"}\n\n{"cc":"br"}\n'),
    ],
)
def test_the_rows_of_a_table_are_counted(tmp_path: Path, name: str, text: str) -> None:
    """A row counts however many lines it has; the header and blank lines do not."""
    (tmp_path / name).write_bytes(PACKINGS["gzip" if name.endswith(".gz") else "plain"](text.encode()))
    assert codes_in(tmp_path / name, FLAGJOB_MIN_CODES="3") == ["BR", "CN"]
    with pytest.raises(UsageError, match="the list has 3; nothing was requested"):
        codes_in(tmp_path / name, FLAGJOB_MIN_CODES="4")


def test_every_source_but_arguments_is_counted() -> None:
    """A variable and POP20 are counted, too; what somebody types is not."""

    def codes_of(*words: str, **variables: str) -> int:
        with ExitStack() as stack:
            environ = {"FLAGJOB_SERVER": "remote", "FLAGJOB_MIN_CODES": "20", **variables}
            inputs = open_inputs(load(parse_arguments(words), environ), Cancellation(), stack, FileTable())
            return inputs.known or 0

    assert (codes_of(), codes_of("BR"), codes_of(FLAGJOB_CODES="ALL")) == (20, 1, 249)
    with pytest.raises(UsageError, match="the list has 2; nothing was requested"):
        codes_of(FLAGJOB_CODES="BR, CN")


@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_a_pipe_is_counted_too(tmp_path: Path, packing: str) -> None:
    """A named pipe is read to its end first, and each of its codes is there afterwards."""
    os.mkfifo(tmp_path / "codes")
    with ThreadPoolExecutor(1) as executor:
        reading = executor.submit(codes_in, tmp_path / "codes", FLAGJOB_MIN_CODES="3")
        with (tmp_path / "codes").open("wb", buffering=0) as writer:
            data = PACKINGS[packing](b"br cn fr")
            writer.write(data[:4])
            with pytest.raises(TimeoutError):
                reading.result(0.2)
            writer.write(data[4:])
        assert reading.result(20) == ["BR", "CN", "FR"]


def test_a_long_list_that_is_counted_and_cut_is_a_usage_error(tmp_path: Path) -> None:
    """Gzip is read to its end before the first request: that it is cut then is known in time."""
    (tmp_path / "codes").write_bytes(gzip.compress("\n".join(f"x{n}" for n in range(200_000)).encode(), 1)[:-9])
    with pytest.raises(UsageError, match="the list cannot be read: it is gzip without its end"):
        codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="1")


def test_a_list_that_cannot_be_read_on_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk or a server that fails in the middle of a list that is counted leaves nothing half done."""

    def chunks(stream: io.BytesIO) -> Iterator[bytes]:
        yield stream.read()
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "codes").write_bytes(b"br cn fr")
    monkeypatch.setattr("job.lists.file_chunks", chunks)
    with pytest.raises(UsageError, match="the list cannot be read: Input/output error"):
        codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="1")


def test_a_list_that_is_interrupted_is_not_counted() -> None:
    """A run that a signal ends while it waits for its list ends as interrupted, not with a usage error."""
    reading, writing = os.pipe()
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL, signal.SIGTERM)
    with ExitStack() as stack:
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        environ = {"FLAGJOB_CODES_FILE": f"/dev/fd/{reading}", "FLAGJOB_SERVER": "remote", "FLAGJOB_MIN_CODES": "1"}
        inputs = open_inputs(load(parse_arguments([]), environ), cancellation, stack, FileTable())
        assert [item for item in inputs.items if item] == []


def test_a_list_of_any_length_is_counted_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 4 MiB on its copy is a file in TMPDIR; where none can be made, one usage error names TMPDIR."""
    (tmp_path / "codes").write_bytes(b"br\n" + (b"# " + b"of all countries " * 400 + b"\n") * 1000)
    tracemalloc.start()
    assert codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="1") == ["BR"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 1024**2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # as TMPDIR is read once in a process
    with pytest.raises(UsageError) as caught:
        codes_in(tmp_path / "codes", FLAGJOB_MIN_CODES="1")
    assert str(caught.value) == (
        "TMPDIR: must be a directory that can be written, for a list that is counted first (No such file or directory)"
    )
