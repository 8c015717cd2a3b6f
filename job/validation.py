"""Validation of a response body: is it the file that was asked for, by encoding, length, digest and type."""

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
_SAID = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""What a Content-Type may be to be kept: others than short, printable ones no manifest, log or bucket should get."""
_SVG = "http://www.w3.org/2000/svg svg"
_SUFFIXES = {
    ".gif": FileType.GIF,
    ".png": FileType.PNG,
    ".jpg": FileType.JPEG,
    ".jpeg": FileType.JPEG,
    ".webp": FileType.WEBP,
    ".svg": FileType.SVG,
}


def accepted_types(suffix: str) -> tuple[FileType, ...]:
    """Return the types that files of this suffix may have: the one it names, else every one that magic bytes tell.

    SVG is not among those: it is text that browsers run scripts of, so it has to be asked for.
    """
    named = _SUFFIXES.get(suffix.lower())
    return (named,) if named else tuple(kind for kind in _MEDIA_TYPES if kind is not FileType.SVG)


def detect_type(head: bytes) -> FileType | None:
    """Tell the type by its magic bytes: GIF89a section 17, PNG 5.2, JPEG's SOI marker, WebP's RIFF header."""
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
    """Return the media type of an acceptable body; raise ContentError for any other. `digest` is a sha256 in hex.

    Pure: reads the facts that the body gathered while it was written. With `any` the media type is the header's,
    if that is fit to be kept.
    """
    _check_whole(reply)
    if digest is not None and digest != reply.body.sha256:
        raise ContentError(Reason.CHECKSUM, f"the body's sha256 is {reply.body.sha256}, not {digest}")
    if FileType.ANY in accepted:
        return _as_said(reply)
    found = detect_type(reply.body.head)
    if found is None and FileType.SVG in accepted and _is_svg(reply.body):
        found = FileType.SVG
    if found is None or found not in accepted:
        seen = found or "of no known type"
        raise ContentError(Reason.BAD_CONTENT, f"the body is {seen}, not {' or '.join(accepted)}")
    return _MEDIA_TYPES[found]


def _as_said(reply: Reply) -> str | None:
    return reply.content_type if _SAID.fullmatch(reply.content_type or "") else None


def _check_whole(reply: Reply) -> None:
    encoding = (reply.content_encoding or "").strip().lower()
    if encoding not in {"", "identity"}:
        raise ContentError(Reason.UNEXPECTED_ENCODING, f"the body came encoded as {encoding[:40]!r}, unasked")
    if reply.body.size == 0:
        raise ContentError(Reason.EMPTY, "the body is empty")
    if reply.content_length is not None and reply.content_length != reply.body.size:
        raise ContentError(Reason.TRUNCATED, f"{reply.body.size} of {reply.content_length} bytes came")


def _is_svg(body: Body) -> bool:
    """Tell whether a body is a whole XML document whose root is an svg element of SVG's namespace (SVG 2, 5.1.1).

    An HTML page that begins like one is not well-formed, or has another root. Entities are refused: an image needs
    none, and they are how a small document becomes a large one.
    """
    root: list[str] = []

    def begins(name: str, _attributes: object) -> None:
        if not root:
            root.append(name)

    def refuse(*_: object) -> None:
        raise ValueError("an entity")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EntityDeclHandler = begins, refuse
    body.rewind()
    try:
        parser.ParseFile(body)
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an encoding that Python does not know
        return False
    finally:
        body.rewind()
    return root == [_SVG]
