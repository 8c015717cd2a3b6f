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
}
_SUFFIXES = {
    ".gif": FileType.GIF,
    ".png": FileType.PNG,
    ".jpg": FileType.JPEG,
    ".jpeg": FileType.JPEG,
    ".webp": FileType.WEBP,
    ".svg": FileType.SVG,
}
_RECORDABLE_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""A Content-Type field that may go into manifest, log and bucket: printable ASCII, at most 255 characters."""
_SVG_ROOT = "http://www.w3.org/2000/svg svg"
_SHOWN_MAX = 40


def accepted_types(suffix: str) -> tuple[FileType, ...]:
    """Return the types that files with this suffix may have: the type it names, else every type with magic bytes.

    SVG is accepted only by its suffix or on request: it is text, and browsers run the scripts in it.
    """
    file_type = _SUFFIXES.get(suffix.lower())
    if file_type:
        return (file_type,)
    return tuple(kind for kind in _MEDIA_TYPES if kind is not FileType.SVG)


def detect_type(head: bytes) -> FileType | None:
    """Return the type by its magic bytes: GIF89a section 17, PNG 5.2, JPEG's SOI marker, WebP's RIFF header."""
    if head[:6] in {b"GIF87a", b"GIF89a"}:
        return FileType.GIF
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return FileType.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return FileType.JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return FileType.WEBP
    return None


def validate(reply: Reply, accepted: tuple[FileType, ...], digest: str | None = None) -> str | None:
    """Return the media type of an acceptable body; raise ContentError for any other. `digest` is a SHA-256 in hex.

    Compares facts that the body gathered while it was written; only an SVG is read again. For `any` the media type is
    the Content-Type field, or None if the field cannot be recorded.
    """
    body = reply.body
    # Encoding: first, because length and type of an encoded body are not those of the file.
    encoding = (reply.content_encoding or "").strip().lower()
    if encoding not in {"", "identity"}:
        raise ContentError(Reason.UNEXPECTED_ENCODING, f"the body came encoded as {encoding[:_SHOWN_MAX]!r}, unasked")
    # Length
    if body.size == 0:
        raise ContentError(Reason.EMPTY, "the body is empty")
    if reply.content_length not in {None, body.size}:
        raise ContentError(Reason.TRUNCATED, f"{body.size} of {reply.content_length} bytes came")
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
