"""Structure of documents and archives: what is whole, and what an origin served cut."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import pytest
from bodies import MemoryBody
from hypothesis import given
from hypothesis import strategies as st
from images import GIF, HTML, PNG

from job import structure
from job.errors import ContentError, Reason
from job.model import FileType, Reply
from job.validation import accepted_types, detect_type, keeps_gzip, validate

Check = Callable[[BinaryIO], bool]


def archive(comment: bytes = b"", files: int = 2) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as whole:
        for number in range(files):
            whole.writestr(f"{number}.txt", b"some text " * 20)
        whole.comment = comment
    return stream.getvalue()


def box(kind: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(data) if length is None else length) + kind + data


FTYP = box(b"ftyp", b"avif\0\0\0\0mif1miaf")
AVIF = FTYP + box(b"meta", b"\0" * 60) + box(b"mdat", b"pixels" * 20)
LONG_BOX = FTYP + box(b"moov", b"\0" * 9) + box(b"mdat", struct.pack(">Q", 36) + b"pixels" * 3 + b"\0\0", length=1)
ICON = struct.pack("<HHH", 0, 1, 2) + b"".join(
    struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, 40, 38 + 40 * place) for place in range(2)
)
ICON += b"\x01" * 80
PDF = b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\nxref\n0 1\ntrailer\n<<>>\nstartxref\n9\n%%EOF"
GZIP = gzip.compress(b"some text " * 50, mtime=0)
ZIP64 = (
    b"PK\x03\x04"
    + b"\0" * 60
    + b"PK\x06\x07"
    + b"\0" * 16
    + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
)
XML = b'<?xml version="1.0"?>\n<feed xmlns="http://www.w3.org/2005/Atom"><title>A &amp; B</title></feed>'
JSON = b'{"type": "FeatureCollection", "features": [{"a": "]}\\"\\\\"}, [1.5e-3, true, null]]}'
WHOLE: dict[str, tuple[FileType, Check, bytes]] = {
    "avif": (FileType.AVIF, structure.is_whole_avif, AVIF),
    "avif of 64 bits": (FileType.AVIF, structure.is_whole_avif, LONG_BOX),
    "icon": (FileType.ICO, structure.is_whole_icon, ICON),
    "pdf": (FileType.PDF, structure.is_whole_pdf, PDF),
    "zip": (FileType.ZIP, structure.is_whole_zip, archive()),
    "zip with a comment": (FileType.ZIP, structure.is_whole_zip, archive(b"by somebody")),
    "zip without files": (FileType.ZIP, structure.is_whole_zip, archive(files=0)),
    "zip of 64 bits": (FileType.ZIP, structure.is_whole_zip, ZIP64),
    "gzip": (FileType.GZIP, structure.is_whole_gzip, GZIP),
    "xml": (FileType.XML, structure.is_xml, XML),
    "json": (FileType.JSON, structure.is_json, JSON),
    "json array": (FileType.JSON, structure.is_json, b"[[], {}]"),
    "deep json": (FileType.JSON, structure.is_json, b"[" * 500 + b"]" * 500),
    "deep xml": (FileType.XML, structure.is_xml, b"<a>" * 500 + b"</a>" * 500),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_accepted_and_no_part_of_it(name: str) -> None:
    """A file has its media type when it is whole; cut at any byte it is refused."""
    file_type, check, data = WHOLE[name]
    assert validate(Reply(MemoryBody(data)), (file_type,)) is not None
    assert [size for size in range(1, len(data)) if check(io.BytesIO(data[:size]))] == []
    with pytest.raises(ContentError) as caught:
        validate(Reply(MemoryBody(data[:-1])), (file_type,))
    is_text = file_type in {FileType.XML, FileType.JSON}
    assert caught.value.failure.reason == (Reason.BAD_CONTENT if is_text else Reason.TRUNCATED)


@pytest.mark.parametrize("name", ["avif", "icon", "pdf", "zip with a comment", "gzip"])
def test_data_after_the_end_is_allowed(name: str) -> None:
    """What some programs append to a file does not make it another one."""
    _, check, data = WHOLE[name]
    assert check(io.BytesIO(data + b"\0" * 100))


def test_the_last_box_may_reach_to_the_end() -> None:
    """A length of 0 is that of what is left; a length that does not even cover its header is damage."""
    meta = FTYP + box(b"meta")
    assert structure.is_whole_avif(io.BytesIO(meta + box(b"mdat", b"pixels", length=0)))
    assert not structure.is_whole_avif(io.BytesIO(meta + box(b"mdat", b"pixels", length=7)))


def test_gzip_in_members_is_followed_to_its_end() -> None:
    """Each member must be whole; zeros may follow the last one; a wrong checksum is no end."""
    assert structure.is_whole_gzip(io.BytesIO(GZIP + GZIP + b"\0" * 9))
    assert not structure.is_whole_gzip(io.BytesIO(GZIP + GZIP[:-1]))
    assert not structure.is_whole_gzip(io.BytesIO(GZIP[:-8] + b"\0" * 8))


def test_a_gzip_bomb_is_followed_within_a_bound() -> None:
    """One that unpacks to more than 64 MiB is taken as it is, in little memory."""
    bomb = gzip.compress(b"\0" * (65 * 1024**2), 9)
    tracemalloc.start()
    is_whole = structure.is_whole_gzip(io.BytesIO(bomb[:-1]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (is_whole, peak < 1_000_000) == (True, True)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": NaN}',
        b'{"a" 1}',
        b"[1, 2,]",
        b'{"a": <b>}',
        b'"text"',
        b"12",
        b"null",
        b"1 []",
        b"[] 1",
        b"[][]",
        b"[}",
        b"]",
        b'["open',
        b'["\xff"]',
        b"[" * 501 + b"]" * 501,
        '["UTF-16"]'.encode("utf-16"),
        HTML,
    ],
)
def test_what_is_no_json_document_is_refused(data: bytes) -> None:
    """A page, a text alone, Python's own words, wrong brackets, arrays nested too deeply are no JSON document."""
    assert not structure.is_json(io.BytesIO(data))


class InParts(io.BytesIO):
    """A stream whose reads with a size end at given places."""

    def __init__(self, data: bytes, edges: list[int]) -> None:
        super().__init__(data)
        self._edges = edges

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to the next of these places, or all that is left."""
        place = self.tell()
        end = next((edge for edge in self._edges if edge > place), None)
        return super().read(size if size == -1 or end is None else end - place)


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(NESTED) | st.dictionaries(st.text(), NESTED), st.booleans(), st.lists(st.integers(0, 200), max_size=5))
def test_every_json_document_is_whole_in_any_chunks(value: object, ascii_only: bool, cuts: list[int]) -> None:  # noqa: FBT001  (hypothesis passes it)
    """A document is parsed if it is small; if it is large, no place at which chunks meet matters."""
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    assert structure.is_json(InParts(data, edges))
    assert not structure.is_json(InParts(data[:-1], edges))


def test_a_large_json_document_is_followed_in_little_memory() -> None:
    """Beyond 256 KiB brackets and strings are matched, and the document is not held; a cut is seen all the same."""
    data = b"[" + b",".join(b'{"name": "\\"[%d"}' % number for number in range(100_000)) + b"]"
    stream = io.BytesIO(data)
    cut = io.BytesIO(data[:-1])
    tracemalloc.start()
    found = (structure.is_json(stream), structure.is_json(cut))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found, peak < 2_000_000) == ((True, False), True)


@pytest.mark.parametrize(
    "data",
    [
        b'<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
        b"<HTML></HTML>",
        b"<a>" * 501 + b"</a>" * 501,
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b'<!DOCTYPE a [<!ENTITY b "%s">]><a>%s</a>' % (b"b" * 9000, b"&b;" * 1000),
        b"<a/><b/>",
        b"text",
        HTML,
    ],
)
def test_what_is_no_xml_document_is_refused(data: bytes) -> None:
    """A page of XHTML, elements nested too deeply, external or large entities and fragments are no XML."""
    assert not structure.is_xml(io.BytesIO(data))


class MeasuredStream(io.BytesIO):
    """A stream that records the largest number of bytes that were asked for at once."""

    largest_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the base class does."""
        asked = len(self.getvalue()) if size is None or size < 0 else size
        self.largest_read = max(self.largest_read, asked)
        return super().read(size)


@pytest.mark.parametrize("check", [structure.is_svg, structure.is_xml, structure.is_json, structure.is_whole_gzip])
def test_a_large_document_is_not_held_in_memory(check: Check) -> None:
    """A document of any length is read in parts of at most 64 KiB."""
    documents: dict[Check, bytes] = {
        structure.is_svg: b'<svg xmlns="http://www.w3.org/2000/svg">' + b" " * 1_000_000 + b"</svg>",
        structure.is_xml: b"<a>" + b" " * 1_000_000 + b"</a>",
        structure.is_json: b"[" + b" " * 1_000_000 + b"]",
        structure.is_whole_gzip: gzip.compress(b" " * 1_000_000, 0),
    }
    stream = MeasuredStream(documents[check])
    assert check(stream)
    assert 0 < stream.largest_read <= 65_536


def test_an_svg_is_xml_where_only_that_is_asked_for() -> None:
    """Where both are accepted, it is SVG."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    assert validate(Reply(MemoryBody(svg)), (FileType.XML,)) == "application/xml"
    assert validate(Reply(MemoryBody(svg)), (FileType.XML, FileType.SVG)) == "image/svg+xml"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"\0\0\x01\0\xff\xff\xff\xff\xff\xff", None),  # a video
        (b"\0\0\x01\0\0\0\0\0\0\0", None),
        (b"\0\0\x02\0\x01\0\0\0\0\0", None),  # a pointer
        (box(b"ftyp", b"mif1\0\0\0\0heicmif1"), None),
        (box(b"ftyp", b"mif1\0\0\0\0mif1avif"), FileType.AVIF),
        (box(b"ftyp", b"avis\0\0\0\0"), FileType.AVIF),
        (box(b"ftyp", b"isom\0avif\0\0\0"), None),
        (b"%PDF", None),
        (b" %PDF-1.7", None),
        (b"PK\x07\x08", None),
    ],
)
def test_similar_beginnings_are_told_apart(head: bytes, found: FileType | None) -> None:
    """Every magic byte must be present, at its position; a brand is only one at a brand's place."""
    assert detect_type(head) == found


PAGES = [
    HTML,
    b"\xef\xbb\xbf\r\n <!-- a page --> <HTML lang=en>",
    b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
    HTML.decode().encode("utf-16"),
    b"<!-- a comment without end",
    b"<h1>Not found</h1>",
    b"<title>302</title>",
]


@pytest.mark.parametrize("page", PAGES)
def test_binary_is_anything_but_a_page(page: bytes) -> None:
    """An HTML page in place of a file is refused, however it begins."""
    with pytest.raises(ContentError, match="the body is of no known type, not binary") as caught:
        validate(Reply(MemoryBody(page), content_type="application/octet-stream"), (FileType.BINARY,))
    assert caught.value.failure.reason == Reason.BAD_CONTENT
    assert validate(Reply(MemoryBody(page)), (FileType.ANY,)) is None


@pytest.mark.parametrize(
    "data",
    [
        GIF[:20],
        b"\0",
        b"text",
        b"<htmlx>",
        b"<abbr/>",
        XML,
        JSON,
        b"a <html> page",
        b"<!-- a feed --><feed/>",
        b"<?xml?>" * 80,
        b"<!---->" * 80 + b"<feed/>",
    ],
)
def test_binary_takes_what_is_no_page(data: bytes) -> None:
    """Whatever else it is, it has the media type of the Content-Type field."""
    assert validate(Reply(MemoryBody(data), content_type="application/x"), (FileType.BINARY,)) == "application/x"


def test_a_named_type_beside_binary_is_checked() -> None:
    """Of a type that is named, too, a cut file is refused."""
    assert validate(Reply(MemoryBody(PNG), content_type="a/b"), (FileType.PNG, FileType.BINARY)) == "image/png"
    with pytest.raises(ContentError, match="without its end"):
        validate(Reply(MemoryBody(PNG[:-1])), (FileType.PNG, FileType.BINARY))


@pytest.mark.parametrize("name", ["avif", "ico", "pdf", "zip", "json", "xml"])
def test_the_suffix_names_the_type(name: str) -> None:
    """A URL with the suffix of a type must yield that type."""
    assert accepted_types(f".{name}") == (FileType(name),)


def test_binary_keeps_gzip_where_the_suffix_names_it() -> None:
    """As with `any`, a body that comes as gzip is unpacked, unless the URL asks for gzip."""
    assert keeps_gzip((FileType.BINARY,), ".gz")
    assert not keeps_gzip((FileType.BINARY,), ".bin")
    assert keeps_gzip((FileType.BINARY, FileType.GZIP), ".bin")
