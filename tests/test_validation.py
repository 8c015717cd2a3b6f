"""Validation: which bodies are accepted as the requested file, and why others are not."""

from dataclasses import replace

import pytest
from bodies import MemoryBody
from images import GIF, HTML, JPEG, PNG, WEBP

from job.errors import ContentError, Reason
from job.model import FileType, Reply
from job.validation import accepted_types, detect_type, keeps_gzip, validate

IMAGES = (FileType.GIF, FileType.PNG, FileType.JPEG, FileType.WEBP)


def rejection(reply: Reply, *accepted: FileType) -> tuple[str, str]:
    with pytest.raises(ContentError) as caught:
        validate(reply, accepted or IMAGES)
    return caught.value.failure.reason, str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "types"),
    [
        (".gif", (FileType.GIF,)),
        (".GIF", (FileType.GIF,)),
        (".png", (FileType.PNG,)),
        (".jpg", (FileType.JPEG,)),
        (".JPeg", (FileType.JPEG,)),
        (".webp", (FileType.WEBP,)),
        (".php", IMAGES),
        (".svg", (FileType.SVG,)),
        (".gz", (FileType.GZIP,)),
        (".svgz", (FileType.GZIP,)),
        ("", IMAGES),
    ],
)
def test_the_suffix_names_the_type(suffix: str, types: tuple[FileType, ...]) -> None:
    """A URL with the suffix of a type must yield that type; any other URL, some image."""
    assert accepted_types(suffix) == types


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (GIF, FileType.GIF),
        (b"GIF87a", FileType.GIF),
        (b"GIF89a", FileType.GIF),
        (b"GIF88a", None),
        (b"GIF89", None),
        (PNG, FileType.PNG),
        (b"\x89PNG\r\n\x1a\n", FileType.PNG),
        (b"\x89PNG\n\x1a\n", None),
        (JPEG, FileType.JPEG),
        (b"\xff\xd8\xff", FileType.JPEG),
        (b"\xff\xd8", None),
        (WEBP, FileType.WEBP),
        (b"RIFF\0\0\0\0WEBP", FileType.WEBP),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"XXXX\0\0\0\0WEBP", None),
        (b" GIF89a", None),
        (HTML, None),
        (b"<svg/>", None),
        (b"\x1f\x8b\x08", FileType.GZIP),
        (b"\x1f\x8b", None),
        (b"", None),
    ],
)
def test_the_magic_bytes_decide_the_type(head: bytes, found: FileType | None) -> None:
    """Every magic byte must be present, at its position."""
    assert detect_type(head) == found


@pytest.mark.parametrize(
    ("data", "media_type"), [(GIF, "image/gif"), (PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")]
)
def test_an_accepted_body_has_the_media_type_of_its_bytes(data: bytes, media_type: str) -> None:
    """The media type is that of the bytes, not that of the Content-Type field."""
    assert validate(Reply(MemoryBody(data), content_type="text/html"), IMAGES) == media_type


@pytest.mark.parametrize("content_type", [None, "image/svg+xml"])
def test_any_accepts_every_type(content_type: str | None) -> None:
    """With `any`, alone or among others, the bytes are not examined, and the media type is the Content-Type field."""
    reply = Reply(MemoryBody(HTML), content_type=content_type)
    assert validate(reply, (FileType.ANY,)) == content_type
    assert validate(reply, (FileType.GIF, FileType.ANY)) == content_type


@pytest.mark.parametrize("accepted", [IMAGES, (FileType.ANY,)])
def test_an_empty_body_is_rejected(accepted: tuple[FileType, ...]) -> None:
    """A connection that ends after the header looks like a 200 with an empty body."""
    assert rejection(Reply(MemoryBody()), *accepted) == (Reason.EMPTY, "the body is empty")
    assert rejection(Reply(MemoryBody(), content_length=0), *accepted) == (Reason.EMPTY, "the body is empty")


@pytest.mark.parametrize("length", [0, len(GIF) - 1, len(GIF) + 1, 5_000_000])
def test_a_body_has_its_announced_length(length: int) -> None:
    """A body that is shorter or longer than Content-Length is rejected, even with `any`."""
    reply = Reply(MemoryBody(GIF), content_length=length)
    assert rejection(reply) == (Reason.TRUNCATED, f"{len(GIF)} of {length} bytes came")
    assert rejection(reply, FileType.ANY) == (Reason.TRUNCATED, f"{len(GIF)} of {length} bytes came")
    assert validate(replace(reply, content_length=len(GIF)), IMAGES) == "image/gif"


@pytest.mark.parametrize("accepted", [IMAGES, (FileType.GIF, FileType.GZIP), (FileType.ANY,)])
def test_a_coding_that_was_kept_must_be_the_files(accepted: tuple[FileType, ...]) -> None:
    """A body whose gzip was kept must be gzip."""
    message = "the body came as gzip, which it is not"
    assert rejection(Reply(MemoryBody(GIF), kept_coding="gzip"), *accepted) == (Reason.UNEXPECTED_ENCODING, message)
    assert rejection(Reply(MemoryBody(), kept_coding="gzip"), *accepted)[0] == Reason.EMPTY


def test_a_length_is_that_of_the_bytes_that_came() -> None:
    """The announced length of a decoded body is that of its encoded bytes."""
    assert validate(Reply(MemoryBody(GIF), content_length=50, encoded_bytes=50), IMAGES) == "image/gif"
    reply = Reply(MemoryBody(GIF), content_length=len(GIF), encoded_bytes=50)
    assert rejection(reply) == (Reason.TRUNCATED, f"50 of {len(GIF)} bytes came")


def test_gzip_is_kept_where_it_is_the_file() -> None:
    """Gzip is kept where it is an accepted type; with `any`, where the suffix names it."""
    assert keeps_gzip((FileType.GIF, FileType.GZIP), ".bin")
    assert keeps_gzip((FileType.ANY,), ".TGZ")
    assert not keeps_gzip((FileType.ANY,), ".json")
    assert not keeps_gzip((FileType.GIF,), ".gz")


@pytest.mark.parametrize(
    ("data", "accepted", "message"),
    [
        (HTML, (FileType.GIF,), "the body is of no known type, not gif"),
        (PNG, (FileType.GIF,), "the body is png, not gif"),
        (GIF, (FileType.PNG, FileType.WEBP), "the body is gif, not png or webp"),
    ],
)
def test_a_body_of_another_type_is_rejected(data: bytes, accepted: tuple[FileType, ...], message: str) -> None:
    """A login page with status 200, for example, is not accepted as a flag."""
    assert rejection(Reply(MemoryBody(data), content_type="image/gif"), *accepted) == (Reason.BAD_CONTENT, message)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"><path d="M0 0"/></svg>'


@pytest.mark.parametrize(
    "data",
    [
        SVG,
        b'<?xml version="1.0" encoding="UTF-8"?>\n<!-- a flag -->\n' + SVG + b"\n",
        b'\xef\xbb\xbf<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">' + SVG,
        b'<s:svg xmlns:s="http://www.w3.org/2000/svg"/>',
    ],
)
def test_an_svg_document_is_accepted_on_request(data: bytes) -> None:
    """A complete SVG document is accepted if svg is requested; otherwise it is of no known type."""
    reply = Reply(MemoryBody(data))
    assert validate(reply, (FileType.SVG,)) == "image/svg+xml"
    assert reply.body.read() == data
    with pytest.raises(ContentError, match="of no known type"):
        validate(reply, (FileType.PNG,))


@pytest.mark.parametrize(
    "data",
    [
        b"<svg></svg>",
        SVG[:-6],
        SVG + b"<html><body>Please log in.</body></html>",
        b"<!DOCTYPE html><html><body>" + SVG + b"</body></html>",
        b'<html xmlns="http://www.w3.org/1999/xhtml">' + SVG + b"</html>",
        b"<!-- <svg --><html></html>",
        b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">]>' + SVG,
        b'<?xml version="1.0" encoding="klingon"?>' + SVG,
        b"GIF89a" + SVG,
        b"\x1f\x8b\x08",
    ],
)
def test_a_body_that_only_begins_like_svg_is_rejected(data: bytes) -> None:
    """An HTML page, a truncated document, one with entities, or an svg element of another namespace is rejected."""
    with pytest.raises(ContentError) as caught:
        validate(Reply(MemoryBody(data)), (FileType.SVG,))
    assert caught.value.failure.reason == Reason.BAD_CONTENT


def test_only_the_suffix_requests_svg() -> None:
    """A URL with the suffix `.svg` must yield SVG; a URL without a suffix must not."""
    assert accepted_types(".SVG") == (FileType.SVG,)
    assert FileType.SVG not in accepted_types("")


class MeasuredBody(MemoryBody):
    """A body that records the largest number of bytes read at once."""

    largest_read = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read as the base class does."""
        self.largest_read = max(self.largest_read, self.size if size < 0 else size)
        return super().read(size)


def test_a_large_svg_is_not_held_in_memory() -> None:
    """A document of any length is read in parts of at most 64 KiB."""
    body = MeasuredBody(SVG.replace(b"<path", b" " * 1_000_000 + b"<path"))
    assert validate(Reply(body), (FileType.SVG,)) == "image/svg+xml"
    assert 0 < body.largest_read <= 65_536


@pytest.mark.parametrize(
    ("content_type", "media_type"),
    [
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("x" * 255, "x" * 255),
        ("x" * 256, None),
        ("image/\x01gif", None),
        ("image/gif\xe9", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_short_printable_content_type_is_recorded(content_type: str | None, media_type: str | None) -> None:
    """Any other Content-Type is dropped, and the body is accepted without a media type."""
    assert validate(Reply(MemoryBody(b"anything"), content_type=content_type), (FileType.ANY,)) == media_type


def test_a_digest_must_match() -> None:
    """A body with another SHA-256 than the given one is rejected, whatever its type."""
    reply = Reply(MemoryBody(b"anything"))
    assert validate(reply, (FileType.ANY,), reply.body.sha256) is None
    with pytest.raises(ContentError) as caught:
        validate(reply, (FileType.ANY,), "0" * 64)
    assert caught.value.failure.reason == Reason.CHECKSUM
