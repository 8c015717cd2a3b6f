"""Pictures of a page: files that are small pictures of a known type, as data that can do nothing but be shown."""

from base64 import b64encode
from pathlib import Path

from job.model import FileType
from job.validation import detect_type

MAX_PICTURE_BYTES = 64 * 1024
MAX_PICTURES_BYTES = 700 * 1024
"""A file above the first is not embedded; nor is any file that would bring all of them above the second."""
_MEDIA_TYPES = {
    FileType.GIF: "image/gif",
    FileType.PNG: "image/png",
    FileType.JPEG: "image/jpeg",
    FileType.WEBP: "image/webp",
    FileType.AVIF: "image/avif",
}
_SUFFIXES = (".gif", ".png", ".jpg", ".jpeg", ".webp", ".avif", ".svg")


def may_be_picture(path: str, content_type: str | None) -> bool:
    """Return whether a file is worth reading to see whether it is a picture."""
    return (content_type or "").startswith("image/") or path.lower().endswith(_SUFFIXES)


def media_type(data: bytes) -> str | None:
    """Return the media type of a picture by its bytes, from a fixed list; None for anything else."""
    detected = detect_type(data)
    if detected in _MEDIA_TYPES:
        return _MEDIA_TYPES[detected]
    if detected is None and b"<svg" in data and data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "image/svg+xml"
    return None


def read_picture(path: Path, most_bytes: int) -> bytes | None:
    """Return the bytes of a file, or None if it is no picture, has more bytes, or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError:
        return None
    return data if len(data) <= most_bytes and media_type(data) else None


def data_url(data: bytes) -> str:
    """Return a picture as a URL for an `<img>`, in which a browser runs no script, neither of an SVG.

    The media type is one of ours, whatever the origin has said.
    """
    return f"data:{media_type(data)};base64,{b64encode(data).decode()}"
