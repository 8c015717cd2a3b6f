"""Whether bytes are the file that was asked for, told from facts alone."""

from dataclasses import replace

import pytest
from bodies import MemoryBody
from images import GIF, HTML, JPEG, PNG, WEBP

from job.errors import ContentError, Reason
from job.model import FileType, Reply
from job.validation import accepted_types, detect_type, validate

IMAGES = (FileType.GIF, FileType.PNG, FileType.JPEG, FileType.WEBP)


def refusal(reply: Reply, *accepted: FileType) -> tuple[str, str]:
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
        ("", IMAGES),
    ],
)
def test_the_suffix_names_the_type(suffix: str, types: tuple[FileType, ...]) -> None:
    """A URL that ends with a type's suffix promises that type; any other promises some image."""
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
        (b"", None),
    ],
)
def test_a_file_is_told_by_its_magic_bytes(head: bytes, found: FileType | None) -> None:
    """The first bytes decide, in full and at their place."""
    assert detect_type(head) == found


@pytest.mark.parametrize(
    ("data", "media_type"), [(GIF, "image/gif"), (PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")]
)
def test_an_acceptable_body_has_the_media_type_that_it_is(data: bytes, media_type: str) -> None:
    """What the bytes are is recorded, not what the header calls them."""
    assert validate(Reply(MemoryBody(data), content_type="text/html"), IMAGES) == media_type


@pytest.mark.parametrize("content_type", [None, "image/svg+xml"])
def test_any_takes_what_comes(content_type: str | None) -> None:
    """With `any`, alone or among others, nobody looks at the bytes, and the header's word is all there is."""
    reply = Reply(MemoryBody(HTML), content_type=content_type)
    assert validate(reply, (FileType.ANY,)) == content_type
    assert validate(reply, (FileType.GIF, FileType.ANY)) == content_type


@pytest.mark.parametrize("accepted", [IMAGES, (FileType.ANY,)])
def test_an_empty_body_is_no_file(accepted: tuple[FileType, ...]) -> None:
    """A connection that ends after the headers looks like a 200 with nothing in it."""
    assert refusal(Reply(MemoryBody()), *accepted) == (Reason.EMPTY, "the body is empty")
    assert refusal(Reply(MemoryBody(), content_length=0), *accepted) == (Reason.EMPTY, "the body is empty")


@pytest.mark.parametrize("length", [0, len(GIF) - 1, len(GIF) + 1, 5_000_000])
def test_a_body_is_as_long_as_announced(length: int) -> None:
    """Neither a part of a file is accepted nor more than a file, not even with `any`."""
    reply = Reply(MemoryBody(GIF), content_length=length)
    assert refusal(reply) == (Reason.TRUNCATED, f"{len(GIF)} of {length} bytes came")
    assert refusal(reply, FileType.ANY) == (Reason.TRUNCATED, f"{len(GIF)} of {length} bytes came")
    assert validate(replace(reply, content_length=len(GIF)), IMAGES) == "image/gif"


@pytest.mark.parametrize("encoding", [None, "", " ", "identity", " Identity "])
def test_a_plain_body_is_accepted(encoding: str | None) -> None:
    """No encoding, or the one that is none."""
    assert validate(Reply(MemoryBody(GIF), content_encoding=encoding), IMAGES) == "image/gif"


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-unheard-of", "identity, gzip"])
def test_an_encoding_that_nobody_asked_for_is_refused(encoding: str) -> None:
    """A cut gzip stream cannot be told from a whole one, so that none is taken."""
    message = f"the body came encoded as {encoding!r}, unasked"
    assert refusal(Reply(MemoryBody(GIF), content_encoding=encoding)) == (Reason.UNEXPECTED_ENCODING, message)
    assert refusal(Reply(MemoryBody(), content_encoding=encoding), FileType.ANY)[0] == Reason.UNEXPECTED_ENCODING


def test_a_hostile_header_does_not_fill_the_log() -> None:
    """What a server sends as its encoding is shown, but not at any length."""
    assert len(refusal(Reply(MemoryBody(GIF), content_encoding="x" * 100_000))[1]) < 100


@pytest.mark.parametrize(
    ("data", "accepted", "message"),
    [
        (HTML, (FileType.GIF,), "the body is of no known type, not gif"),
        (PNG, (FileType.GIF,), "the body is png, not gif"),
        (GIF, (FileType.PNG, FileType.WEBP), "the body is gif, not png or webp"),
    ],
)
def test_a_body_of_another_type_is_refused(data: bytes, accepted: tuple[FileType, ...], message: str) -> None:
    """A page that asks for a log-in is no flag, though its status is 200."""
    assert refusal(Reply(MemoryBody(data), content_type="image/gif"), *accepted) == (Reason.BAD_CONTENT, message)


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
def test_an_svg_document_is_accepted_where_it_is_asked_for(data: bytes) -> None:
    """A whole document whose root is SVG's; without asking for svg it is of no known type."""
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
def test_what_only_begins_like_an_svg_is_refused(data: bytes) -> None:
    """An HTML page, a cut document, one with entities, another namespace's svg."""
    with pytest.raises(ContentError) as caught:
        validate(Reply(MemoryBody(data)), (FileType.SVG,))
    assert caught.value.failure.reason == Reason.BAD_CONTENT


def test_a_suffix_asks_for_svg() -> None:
    """`.svg` names it; a URL without a suffix does not."""
    assert accepted_types(".SVG") == (FileType.SVG,)
    assert FileType.SVG not in accepted_types("")


class ReadInParts(MemoryBody):
    """Notes how much is asked for at a time."""

    most = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read on."""
        self.most = max(self.most, self.size if size < 0 else size)
        return super().read(size)


def test_a_large_svg_is_not_held_in_memory() -> None:
    """A document is read part by part, however long it is."""
    body = ReadInParts(SVG.replace(b"<path", b" " * 1_000_000 + b"<path"))
    assert validate(Reply(body), (FileType.SVG,)) == "image/svg+xml"
    assert 0 < body.most <= 65_536


@pytest.mark.parametrize(
    ("said", "kept"),
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
def test_with_any_the_origin_says_what_it_is(said: str | None, kept: str | None) -> None:
    """Unless it says what manifest, log and bucket had better not be told: that costs nothing but the type."""
    assert validate(Reply(MemoryBody(b"anything"), content_type=said), (FileType.ANY,)) == kept


def test_a_digest_that_was_given_must_be_met() -> None:
    """Whatever the type: other bytes than were promised are refused."""
    reply = Reply(MemoryBody(b"anything"))
    assert validate(reply, (FileType.ANY,), reply.body.sha256) is None
    with pytest.raises(ContentError) as caught:
        validate(reply, (FileType.ANY,), "0" * 64)
    assert caught.value.failure.reason == Reason.CHECKSUM
