"""Validation of a response body: is it the requested file, whole, by encoding, length, digest, type and structure."""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import BinaryIO

from job import structure
from job.body import Body
from job.errors import ContentError, PlaceholderError, Reason
from job.model import FileType, Reply, Result, Status

_MEDIA_TYPES = {
    FileType.GIF: "image/gif",
    FileType.PNG: "image/png",
    FileType.JPEG: "image/jpeg",
    FileType.WEBP: "image/webp",
    FileType.SVG: "image/svg+xml",
    FileType.AVIF: "image/avif",
    FileType.ICO: "image/vnd.microsoft.icon",
    FileType.PDF: "application/pdf",
    FileType.ZIP: "application/zip",
    FileType.GZIP: "application/gzip",
    FileType.JSON: "application/json",
    FileType.XML: "application/xml",
}
_SUFFIXES = {
    ".gif": FileType.GIF,
    ".png": FileType.PNG,
    ".jpg": FileType.JPEG,
    ".jpeg": FileType.JPEG,
    ".webp": FileType.WEBP,
    ".svg": FileType.SVG,
    ".avif": FileType.AVIF,
    ".ico": FileType.ICO,
    ".pdf": FileType.PDF,
    ".zip": FileType.ZIP,
    ".json": FileType.JSON,
    ".xml": FileType.XML,
    ".gz": FileType.GZIP,
    ".tgz": FileType.GZIP,
    ".svgz": FileType.GZIP,
}
_PICTURES = (FileType.GIF, FileType.PNG, FileType.JPEG, FileType.WEBP)
_MAGIC = (
    ((b"GIF87a", b"GIF89a"), FileType.GIF),
    ((b"\x89PNG\r\n\x1a\n",), FileType.PNG),
    ((b"\xff\xd8\xff",), FileType.JPEG),
    ((b"\x1f\x8b\x08",), FileType.GZIP),
    ((b"%PDF-",), FileType.PDF),
    ((b"PK\x03\x04", b"PK\x05\x06"), FileType.ZIP),
)
"""The first bytes of the types that have some of their own; the sources are at `detect_type`."""
_RECORDABLE_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""A Content-Type field that may go into manifest, log and bucket: printable ASCII, at most 255 characters."""
_CHUNK_BYTES = 64 * 1024

_IEND = b"\x00\x00\x00\x00IEND"
_CHUNK_HEADER_BYTES = 8
_CRC_BYTES = 4
_IEND_CRC = b"\xaeB`\x82"
_EOI = b"\xff\xd9"
_MARKER = 0xFF
_SOS = 0xDA
_SEGMENT_HEADER_BYTES = 4
_RIFF_HEADER_BYTES = 8
_WEBP_MIN = 12
"""A RIFF length covers at least `WEBP` and the header of a chunk."""

_SAME_BYTES_CODES = 20
_SAME_BYTES_SHARE = 0.01
_COUNTED_DIGESTS = 1000


def accepted_types(suffix: str) -> tuple[FileType, ...]:
    """Return the types that files with this suffix may have: the type it names, else every picture with magic bytes.

    SVG is accepted only by its suffix or on request: it is text, and browsers run the scripts in it. So is gzip.
    """
    file_type = _SUFFIXES.get(suffix.lower())
    return (file_type,) if file_type else _PICTURES


def keeps_gzip(accepted: tuple[FileType, ...], suffix: str) -> bool:
    """Return whether a body that comes as gzip is the file itself, which is gzip already at the origin."""
    is_named = FileType.GZIP in accepted_types(suffix)
    if FileType.ANY in accepted:
        return is_named
    if FileType.GZIP in accepted:
        return True
    return is_named and FileType.BINARY in accepted


def detect_type(head: bytes) -> FileType | None:
    """Return the type by its magic bytes.

    These are of GIF89a section 17, PNG 5.2, JPEG's SOI marker, WebP's RIFF header, and RFC 1952, 2.3.1; of the brands
    of AVIF 1.1, 6.1 and 6.2, ISO 32000-1, 7.5.2, ZIP's APPNOTE 4.3.7 and, for an archive without files, 4.3.16, and of
    Microsoft's ICONDIR: reserved, type 1, a number that is not 0, and the first entry's reserved byte.
    """
    for magic, file_type in _MAGIC:
        if head.startswith(magic):
            return file_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileType.WEBP
    if head.startswith(b"\x00\x00\x01\x00") and head[4:6] != b"\x00\x00" and head[9:10] == b"\x00":
        return FileType.ICO
    return FileType.AVIF if _is_avif(head) else None


def _is_avif(head: bytes) -> bool:
    """Return whether a file type box, which is the first, has a brand of AVIF (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return False
    brands = head[8:12] + head[16 : int.from_bytes(head[:4])]
    return any(brands[start : start + 4] in {b"avif", b"avis"} for start in range(0, len(brands), 4))


def validate(
    reply: Reply, accepted: tuple[FileType, ...], digest: str | None = None, placeholders: Collection[str] = ()
) -> str | None:
    """Return the media type of an acceptable body; raise ContentError, or PlaceholderError, for any other.

    `digest` and `placeholders` are SHA-256 in hex.

    Compares facts that the body gathered while it was written; only what must be parsed is read again. For `any` and
    `binary` the media type is the Content-Type field, or None if the field cannot be recorded.
    """
    body = reply.body
    # Length, and encoding: the transport has decoded the body, unless the file itself is in the coding.
    if body.size == 0:
        raise ContentError(Reason.EMPTY, "the body is empty")
    if reply.kept_coding and detect_type(body.head) is not FileType.GZIP:
        raise ContentError(Reason.UNEXPECTED_ENCODING, f"the body came as {reply.kept_coding}, but is something else")
    if reply.content_length not in {None, reply.received_bytes}:
        raise ContentError(Reason.TRUNCATED, f"{reply.received_bytes} of {reply.content_length} bytes came")
    # Placeholder: before all that may be wrong with it, because it is no file.
    _check_placeholder(body, placeholders)
    # Digest
    if digest is not None:
        _check_digest(body, digest)
    # Type
    if FileType.ANY in accepted:
        return _recordable(reply.content_type)
    detected = _type_of(body, accepted)
    if detected not in accepted:
        _check_binary(body, detected, accepted)
        return _recordable(reply.content_type)
    # Structure: a digest has proved more.
    if digest is None:
        _check_end(body, detected)
    return _MEDIA_TYPES[detected]


def _check_placeholder(body: Body, placeholders: Collection[str]) -> None:
    if placeholders and body.sha256 in placeholders:
        raise PlaceholderError


def _check_digest(body: Body, digest: str) -> None:
    if body.sha256 != digest:
        raise ContentError(Reason.CHECKSUM, f"the body's sha256 is {body.sha256}, not {digest}")


def _check_binary(body: Body, detected: FileType | None, accepted: tuple[FileType, ...]) -> None:
    """Raise ContentError for a body of none of the named types, unless it may be anything, and is no HTML page."""
    if FileType.BINARY not in accepted or structure.is_html(body.head):
        shown = detected or "of no known type"
        raise ContentError(Reason.BAD_CONTENT, f"the body is {shown}, not {' or '.join(accepted)}")


def _check_end(body: Body, file_type: FileType) -> None:
    """Raise ContentError for a cut file: an origin may serve one with the length of what is left."""
    if not _is_whole(body, file_type):
        raise ContentError(Reason.TRUNCATED, f"the body is a {file_type} without its end, although all of it came")


def _recordable(content_type: str | None) -> str | None:
    return content_type if _RECORDABLE_CONTENT_TYPE.fullmatch(content_type or "") else None


def _type_of(body: Body, accepted: tuple[FileType, ...]) -> FileType | None:
    """Return the type of a body; it is parsed only as a type of text that is accepted."""
    detected = detect_type(body.head)
    if detected is not None:
        return detected
    return next((text for text, check in _TEXTS.items() if text in accepted and body.examine(check)), None)


def _is_whole(body: Body, file_type: FileType) -> bool:
    """Return whether a body has the end of its type. Data after the end is allowed.

    A body in memory is followed through its structure. One on disk is not read again if its last bytes are those of the
    type; only if they are not, because of a cut or of data after the end, it is followed, too.
    """
    if file_type is FileType.WEBP:
        return _has_riff_length(body)
    known = _ENDS.get(file_type)
    if known is None:
        check = _STRUCTURES.get(file_type)
        return check is None or body.examine(check)  # a text was parsed to its end already
    ending, is_whole = known
    return body.tail.endswith(ending) or body.examine(is_whole)


def _has_riff_length(body: Body) -> bool:
    """Return whether a RIFF file is as long as its header says: the length counts what follows it."""
    length = int.from_bytes(body.head[4:_RIFF_HEADER_BYTES], "little")
    return _WEBP_MIN <= length <= body.size - _RIFF_HEADER_BYTES


def _is_whole_gif(stream: BinaryIO) -> bool:
    """Return whether a GIF has a trailer after its blocks (GIF89a, 27).

    Each read of something that was cut returns less, in the end nothing, so the loops end without other checks. Bytes
    that begin no block are skipped, as decoders do: encoders are known to write a second block terminator.
    """
    read = stream.read
    screen = read(13)
    if screen[10:11] >= b"\x80":
        read(_color_table_bytes(screen[10]))
    while introducer := read(1):
        if introducer == b";":
            return True
        if introducer == b",":
            descriptor = read(9)
            if descriptor[8:] >= b"\x80":
                read(_color_table_bytes(descriptor[8]))
        elif introducer != b"!":
            continue
        # The label of an extension or the code size of an image, and the size of the first sub-block.
        size = read(2)[1:]
        while size and size != b"\x00":
            # One read for a sub-block and the size of the next one, 0 after the last.
            size = read(size[0] + 1)[-1:]
    return False


def _color_table_bytes(flags: int) -> int:
    """Return the size of a colour table by the lowest three bits of the flags before it (GIF89a, 18 and 20)."""
    return 3 << (1 + (flags & 7))


def _is_whole_png(stream: BinaryIO) -> bool:
    """Return whether a PNG has the chunk IEND (PNG, 11.2.5), found by the lengths of the chunks before it."""
    stream.seek(_CHUNK_HEADER_BYTES)
    header = stream.read(_CHUNK_HEADER_BYTES)
    while len(header) == _CHUNK_HEADER_BYTES and header != _IEND:
        stream.seek(int.from_bytes(header[:4], "big") + _CRC_BYTES, os.SEEK_CUR)
        header = stream.read(_CHUNK_HEADER_BYTES)
    return stream.read(_CRC_BYTES) == _IEND_CRC


def _is_whole_jpeg(stream: BinaryIO) -> bool:
    """Return whether a JPEG has the marker EOI after its first scan (ITU T.81, B.1.1).

    The segments before the scan are skipped by their lengths, because a thumbnail in one of them has an EOI of its own.
    In a scan 0xFF is followed by 0, so that its first EOI is the picture's.
    """
    stream.seek(2)
    head = stream.read(_SEGMENT_HEADER_BYTES)
    while len(head) == _SEGMENT_HEADER_BYTES and head[0] == _MARKER and head[1] not in {_SOS, _EOI[1]}:
        if head[1] == _MARKER:  # a fill byte
            stream.seek(1 - _SEGMENT_HEADER_BYTES, os.SEEK_CUR)
        else:
            stream.seek(int.from_bytes(head[2:], "big") - 2, os.SEEK_CUR)
        head = stream.read(_SEGMENT_HEADER_BYTES)
    stream.seek(-len(head), os.SEEK_CUR)
    last = b""
    while chunk := stream.read(_CHUNK_BYTES):
        if _EOI in last + chunk:
            return True
        last = chunk[-1:]
    return False


_ENDS: Mapping[FileType, tuple[bytes, Callable[[BinaryIO], bool]]] = {
    FileType.GIF: (b"\x00;", _is_whole_gif),
    FileType.PNG: (_IEND + _IEND_CRC, _is_whole_png),
    FileType.JPEG: (_EOI, _is_whole_jpeg),
}
"""The last bytes of a type, and what follows its structure."""
_STRUCTURES: Mapping[FileType, Callable[[BinaryIO], bool]] = {
    FileType.AVIF: structure.is_whole_avif,
    FileType.ICO: structure.is_whole_icon,
    FileType.PDF: structure.is_whole_pdf,
    FileType.ZIP: structure.is_whole_zip,
    FileType.GZIP: structure.is_whole_gzip,
}
"""What looks for the end of a type whose last bytes say nothing."""
_TEXTS: Mapping[FileType, Callable[[BinaryIO], bool]] = {
    FileType.SVG: structure.is_svg,
    FileType.XML: structure.is_xml,
    FileType.JSON: structure.is_json,
}
"""What parses a type that has no magic bytes; the first that succeeds counts."""


class SameBytes:
    """Finds the bytes that many codes got; for the main thread only. Memory does not grow with the number of codes.

    This is the algorithm of Misra and Gries: 1000 digests are counted, and where another one comes, each of them loses
    one. A count is therefore too small by one in 1000 codes at most.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lost = 0

    def add(self, results: Sequence[Result]) -> None:
        """Count the digests of new files."""
        counts = self._counts
        for result in results:
            if result.status is not Status.OK or result.data is None:
                continue
            digest = result.data.sha256
            if digest in counts or len(counts) < _COUNTED_DIGESTS:
                counts[digest] = counts.get(digest, 0) + 1
            else:
                self._lost += 1
                counts = {digest: count - 1 for digest, count in counts.items() if count > 1}
                self._counts = counts

    def most_frequent(self, items: int) -> tuple[str, int] | None:
        """Return the digest that most codes got, and of how many it was counted; None if they are few of all items."""
        digest, count = max(self._counts.items(), key=lambda counted: counted[1], default=("", 0))
        is_frequent = count + self._lost >= max(_SAME_BYTES_CODES, _SAME_BYTES_SHARE * items)
        return (digest, count) if count and is_frequent else None
