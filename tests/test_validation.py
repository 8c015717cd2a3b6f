"""Validation: which bodies are accepted as the requested file, and why others are not."""

import errno
import tracemalloc
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from bodies import MemoryBody
from hypothesis import given
from hypothesis import strategies as st
from images import GIF, HTML, JPEG, PNG, WEBP

from job.body import Body
from job.errors import ContentError, Reason, StorageError
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
    message = "the body came as gzip, but is something else"
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
        b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + SVG,
        b'<!DOCTYPE svg [<!ENTITY a PUBLIC "-//A//EN" "http://127.0.0.1/a">]>' + SVG,
        b'<!DOCTYPE svg [<!ENTITY % a SYSTEM "http://127.0.0.1/a"> %a;]>' + SVG,
        b'<?xml version="1.0" encoding="klingon"?>' + SVG,
        b"GIF89a" + SVG,
        b"\x1f\x8b\x08",
    ],
)
def test_a_body_that_only_begins_like_svg_is_rejected(data: bytes) -> None:
    """An HTML page, a cut document, one with external entities, or an svg element of another namespace is rejected."""
    with pytest.raises(ContentError) as caught:
        validate(Reply(MemoryBody(data)), (FileType.SVG,))
    assert caught.value.failure.reason == Reason.BAD_CONTENT


def adobe_svg(entities: bytes, text: bytes = b"", namespace: bytes = b"&ns_svg;") -> bytes:
    """Return a document as Illustrator exports it: its namespaces are entities."""
    return (
        b'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" '
        b'"http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" [\n\t<!ENTITY ns_svg "http://www.w3.org/2000/svg">\n'
        b"\t" + entities + b']>\n<svg xmlns="' + namespace + b'"><path d="M0 0"/>' + text + b"</svg>\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        adobe_svg(b'<!ENTITY ns_ai "http://ns.adobe.com/AdobeIllustrator/10.0/">', b"<g>&ns_ai;</g>"),
        adobe_svg(b'<!ENTITY st0 "fill:#FFF">', b'<g style="&st0;"/>' * 50_000),
        adobe_svg(b'<!ENTITY a "&ns_svg; &amp; &#38;#38;">', b"<g>&a;</g>"),
        adobe_svg(b"", b"<g>&amp;</g>" * 100_000),
        adobe_svg(b"").decode().replace("utf-8", "utf-16").encode("utf-16"),
    ],
)
def test_entities_of_its_own_are_expanded(data: bytes) -> None:
    """Namespaces, styles and texts may be entities that the document declares, as Adobe's programs write them."""
    assert validate(Reply(MemoryBody(data)), (FileType.SVG,)) == "image/svg+xml"


@pytest.mark.parametrize(
    "data",
    [
        adobe_svg(b'<!ENTITY a "%s">' % (b"a" * 30_000), b"<g>&a;</g>" * 3000),
        adobe_svg(b'<!ENTITY a "%s">' % (b"a" * 30_000), b'<g style="%s"/>' % (b"&a;" * 3000)),
        adobe_svg(b'<!ENTITY a "%s">' % (b"a" * 300_000), b"&a;" * 30),
        adobe_svg(
            b'<!ENTITY l0 "lol">' + b"".join(b'<!ENTITY l%d "%s">' % (n + 1, b"&l%d;" % n * 10) for n in range(9)),
            b"&l9;",
        ),
        adobe_svg(b'<!ENTITY a "%s"><!ENTITY a ""><!ENTITY b "%s">' % (b"a" * 30_000, b"&a;" * 3000), b"&b;" * 20),
        adobe_svg(b'<!ENTITY a "&b;"><!ENTITY b "b">', b"&a;"),
        adobe_svg(b'<!ENTITY a "&a;">', b"&a;"),
        adobe_svg(b"", namespace=b"http://www.w3.org/1999/xhtml"),
    ],
    ids=["many", "attribute", "chunks", "laughs", "twice", "later", "itself", "namespace"],
)
def test_entities_are_expanded_within_a_bound(data: bytes) -> None:
    """A document whose entities would expand to more than 8 MiB is rejected before they do."""
    tracemalloc.start()
    try:
        assert rejection(Reply(MemoryBody(data)), FileType.SVG)[0] == Reason.BAD_CONTENT
        assert tracemalloc.get_traced_memory()[1] < 24 * 1024**2
    finally:
        tracemalloc.stop()


def test_only_the_suffix_requests_svg() -> None:
    """A URL with the suffix `.svg` must yield SVG; a URL without a suffix must not."""
    assert accepted_types(".SVG") == (FileType.SVG,)
    assert FileType.SVG not in accepted_types("")


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


# Whole by structure

ANIMATED = (
    GIF[:-1]
    + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00!\xf9\x04\x00\x00\x00;\x00\x00"
    + b",\x00\x00\x00\x00\x01\x00\x01\x00\x81;;;;;;;;;;\x00;\x02\x02D\x01\x00;"
)
"""Two frames, the second one with a colour table of its own, with trailers' bytes wherever they can be."""
THUMBNAIL = b"\xff\xe1" + (len(JPEG) + 8).to_bytes(2, "big") + b"Exif\x00\x00" + JPEG
PHOTO = (
    JPEG[:20] + THUMBNAIL + b"\xff\xff\xfe\x00\x04;;" + JPEG[20:-2] + b"\xff\xd0\xff\x00\xff\xda\x00\x02\x00\xff\xd9"
)
"""A progressive JPEG with a thumbnail, a fill byte and a restart marker."""
APNG = PNG[:33] + b"\x00\x00\x00\x08tEXtIEND\xaeB`\x82\x00\x00\x00\x00" + PNG[33:]
"""A PNG with a text that looks like the last chunk."""
LOCAL_TABLE = b"GIF87a\x01\x00\x01\x00\x00\x00\x00" + ANIMATED[ANIMATED.rindex(b",\x00") :]
"""A GIF without a colour table for all frames."""
PICTURES = [
    (LOCAL_TABLE, "gif"),
    (GIF, "gif"),
    (ANIMATED, "gif"),
    (PNG, "png"),
    (APNG, "png"),
    (JPEG, "jpeg"),
    (PHOTO, "jpeg"),
    (WEBP, "webp"),
]
MAGIC_BYTES = 16


def on_disk(tmp_path: Path, data: bytes) -> Body:
    """Return a body that is written in two parts, of which the second is small, as a slow origin may send it."""
    body = Body(str(tmp_path / "temporary"))
    body.write(data[:-3])
    body.write(data[-3:])
    body.rewind()
    return body


@pytest.mark.parametrize(("data", "name"), PICTURES)
def test_a_picture_ends_as_its_type_does(data: bytes, name: str) -> None:
    """A picture cut anywhere is rejected, whatever length was announced; one with data after its end is accepted."""
    kind = FileType(name)
    message = f"the body is a {name} without its end, although all of it came"
    for length in range(MAGIC_BYTES, len(data)):
        assert rejection(Reply(MemoryBody(data[:length]), content_length=length), kind) == (Reason.TRUNCATED, message)
        zeros = data[:length] + bytes(len(data) - length)
        assert name == "webp" or rejection(Reply(MemoryBody(zeros)), kind)[0] == Reason.TRUNCATED
    for rest in (b"", b"\x00", b"\r\n", HTML, data):
        assert validate(Reply(MemoryBody(data + rest)), (kind,)) == f"image/{name}"


@given(picture=st.sampled_from(PICTURES), cut=st.floats(0, 1, exclude_max=True), rest=st.binary(max_size=40))
def test_structure_decides_and_not_the_last_byte(picture: tuple[bytes, str], cut: float, rest: bytes) -> None:
    """Whatever follows a whole picture, it is accepted; a prefix of one is rejected."""
    data, name = picture
    kind = FileType(name)
    assert validate(Reply(MemoryBody(data + rest)), (kind,)) == f"image/{name}"
    prefix = data[: max(MAGIC_BYTES, int(cut * len(data)))]
    assert rejection(Reply(MemoryBody(prefix)), kind)[0] == Reason.TRUNCATED


@given(st.binary(max_size=200), st.sampled_from(PICTURES), st.integers(MAGIC_BYTES, 40))
def test_garbage_ends_the_examination(garbage: bytes, picture: tuple[bytes, str], kept: int) -> None:
    """Whatever follows the first bytes of a picture, it is whole or not, and no read goes on for ever."""
    data, name = picture
    with suppress(ContentError):
        assert validate(Reply(MemoryBody(data[:kept] + garbage)), (FileType(name),)) == f"image/{name}"


@pytest.mark.parametrize("size", [b"\x00\x00\x00\x00", b"\x0b\x00\x00\x00", b"\x1b\x00\x00\x00", b"\xff\xff\xff\xff"])
def test_a_riff_length_must_be_possible(size: bytes) -> None:
    """A length that leaves no room for a chunk, or is larger than the body, is rejected."""
    assert rejection(Reply(MemoryBody(WEBP[:4] + size + WEBP[8:])), FileType.WEBP)[0] == Reason.TRUNCATED


def test_a_digest_proves_that_a_body_is_whole() -> None:
    """A file whose digest was given is taken as it is: somebody knows it."""
    body = MemoryBody(GIF[:-1])
    assert validate(Reply(body), IMAGES, body.sha256) == "image/gif"


GIF_OF_100_KB = GIF[:-1] + (b"!\xfe\xff" + b";" * 255 + b"\x00") * 400 + b";"
PNG_OF_100_KB = PNG[:33] + b"\x00\x01\x86\xa0tEXt" + bytes(100_000) + b"\x00\x00\x00\x00" + PNG[33:]
JPEG_OF_100_KB = JPEG[:-2] + b"\x55" * 100_000 + JPEG[-2:]


@pytest.mark.parametrize("data", [GIF_OF_100_KB, PNG_OF_100_KB, JPEG_OF_100_KB])
def test_a_large_picture_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """The last bytes of a body on disk say that it is whole."""
    with closing(on_disk(tmp_path, data)) as body:
        with monkeypatch.context() as patch:
            patch.setattr(body, "examine", None)
            assert validate(Reply(body), IMAGES)
        assert body.read(9) == data[:9]


@pytest.mark.parametrize("data", [GIF_OF_100_KB, PNG_OF_100_KB, JPEG_OF_100_KB])
def test_a_large_picture_is_followed_where_its_last_bytes_are_others(tmp_path: Path, data: bytes) -> None:
    """On disk, too, data after the end is allowed, and a cut picture is rejected."""
    with closing(on_disk(tmp_path, data + HTML)) as body:
        assert validate(Reply(body), IMAGES)
        assert body.read(9) == data[:9]
    with closing(on_disk(tmp_path, data[:-1])) as body:
        assert rejection(Reply(body), *IMAGES)[0] == Reason.TRUNCATED


def fail(_stream: BinaryIO) -> bool:
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_fails_while_a_picture_is_followed(tmp_path: Path) -> None:
    """A body that cannot be read is a fault of the storage, not of the origin."""
    with closing(on_disk(tmp_path, GIF_OF_100_KB)) as body, pytest.raises(StorageError, match="Input/output error"):
        body.examine(fail)
