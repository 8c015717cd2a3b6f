"""Validation of a response body: is it the requested file, by encoding, length, digest and type."""

import re
from xml.parsers import expat

from job.body import Body
from job.errors import ContentError, Reason
from job.model import FileType, Reply

_MEDIA_TYPES = {
    FileType.GIF: "image/gif",
    FileType.PNG: "image/png",
    FileType.JPEG: "image/jpeg",
    FileType.WEBP: "image/webp",
    FileType.SVG: "image/svg+xml",
    FileType.GZIP: "application/gzip",
}
_SUFFIXES = {
    ".gif": FileType.GIF,
    ".png": FileType.PNG,
    ".jpg": FileType.JPEG,
    ".jpeg": FileType.JPEG,
    ".webp": FileType.WEBP,
    ".svg": FileType.SVG,
    ".gz": FileType.GZIP,
    ".tgz": FileType.GZIP,
    ".svgz": FileType.GZIP,
}
_PICTURES = (FileType.GIF, FileType.PNG, FileType.JPEG, FileType.WEBP)
_RECORDABLE_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""A Content-Type field that may go into manifest, log and bucket: printable ASCII, at most 255 characters."""
_SVG_ROOT = "http://www.w3.org/2000/svg svg"


def accepted_types(suffix: str) -> tuple[FileType, ...]:
    """Return the types that files with this suffix may have: the type it names, else every picture with magic bytes.

    SVG is accepted only by its suffix or on request: it is text, and browsers run the scripts in it. So is gzip.
    """
    file_type = _SUFFIXES.get(suffix.lower())
    return (file_type,) if file_type else _PICTURES


def keeps_gzip(accepted: tuple[FileType, ...], suffix: str) -> bool:
    """Return whether a body that comes as gzip is the file itself, which is gzip already at the origin."""
    if FileType.ANY in accepted:
        return FileType.GZIP in accepted_types(suffix)
    return FileType.GZIP in accepted


def detect_type(head: bytes) -> FileType | None:
    """Return the type by its magic bytes.

    These are of GIF89a section 17, PNG 5.2, JPEG's SOI marker, WebP's RIFF header, and RFC 1952, 2.3.1.
    """
    if head[:6] in {b"GIF87a", b"GIF89a"}:
        return FileType.GIF
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileType.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return FileType.JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileType.WEBP
    if head.startswith(b"\x1f\x8b\x08"):
        return FileType.GZIP
    return None


def validate(reply: Reply, accepted: tuple[FileType, ...], digest: str | None = None) -> str | None:
    """Return the media type of an acceptable body; raise ContentError for any other. `digest` is a SHA-256 in hex.

    Compares facts that the body gathered while it was written; only an SVG is read again. For `any` the media type is
    the Content-Type field, or None if the field cannot be recorded.
    """
    body = reply.body
    # Length, and encoding: the transport has decoded the body, unless the file itself is in the coding.
    if body.size == 0:
        raise ContentError(Reason.EMPTY, "the body is empty")
    if reply.kept_coding and detect_type(body.head) is not FileType.GZIP:
        raise ContentError(Reason.UNEXPECTED_ENCODING, f"the body came as {reply.kept_coding}, which it is not")
    if reply.content_length not in {None, reply.received_bytes}:
        raise ContentError(Reason.TRUNCATED, f"{reply.received_bytes} of {reply.content_length} bytes came")
    # Digest
    if digest is not None:
        _check_digest(body, digest)
    # Type
    if FileType.ANY in accepted:
        return _recordable(reply.content_type)
    detected = _type_of(body, accepted)
    if detected not in accepted:
        shown = detected or "of no known type"
        raise ContentError(Reason.BAD_CONTENT, f"the body is {shown}, not {' or '.join(accepted)}")
    return _MEDIA_TYPES[detected]


def _check_digest(body: Body, digest: str) -> None:
    if body.sha256 != digest:
        raise ContentError(Reason.CHECKSUM, f"the body's sha256 is {body.sha256}, not {digest}")


def _recordable(content_type: str | None) -> str | None:
    return content_type if _RECORDABLE_CONTENT_TYPE.fullmatch(content_type or "") else None


def _type_of(body: Body, accepted: tuple[FileType, ...]) -> FileType | None:
    """Return the type of a body; it is parsed as SVG only where SVG is accepted."""
    detected = detect_type(body.head)
    if detected is None and FileType.SVG in accepted and _is_svg(body):
        return FileType.SVG
    return detected


def _is_svg(body: Body) -> bool:
    """Return whether a body is a complete XML document with an svg root element in SVG's namespace (SVG 2, 5.1.1).

    An HTML page that begins like SVG is not well-formed, or has another root. Entities are not allowed: images do not
    need them, and with them a small document can expand to a large one.
    """
    elements: list[str] = []

    def record_root(name: str, _attributes: object) -> None:
        if not elements:
            elements.append(name)

    def reject_entity(*_: object) -> None:
        raise ValueError("an entity")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = record_root
    parser.EntityDeclHandler = reject_entity
    body.rewind()
    try:
        parser.ParseFile(body)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an encoding that Python does not know
        return False
    finally:
        body.rewind()
    return elements == [_SVG_ROOT]
