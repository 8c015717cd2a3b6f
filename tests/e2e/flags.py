"""The flags that the demo server serves, read from the package that contains them."""

import importlib.metadata
from pathlib import Path

POP20 = ["BD", "BR", "CD", "CN", "DE", "EG", "ET", "FR", "ID", "IN"]
POP20 += ["IR", "JP", "MX", "NG", "PH", "PK", "RU", "TR", "US", "VN"]
TRAILER = b";"
"""The last byte of every GIF (GIF89a specification, section 27)."""


def package_flags() -> dict[str, bytes]:
    """Return every country's flag by its code in lower case."""
    files = importlib.metadata.files("django-countries") or []
    flags = [Path(str(file.locate())) for file in files if file.match("static/flags/??.gif")]
    return {flag.stem: flag.read_bytes() for flag in flags if flag.stem.isalpha()}


def distinct_gifs(count: int) -> dict[str, bytes]:
    """Return that many valid GIF files by name, no two alike: flags, then copies with their code in a comment."""
    flags = package_flags()
    events = {**flags, **{f"copy-{number:03}": flags["br"] for number in range(count)}}
    return {f"{code}.gif": with_comment(events[code], code) for code in list(events)[:count]}


def with_comment(gif: bytes, text: str) -> bytes:
    """Return a GIF with a comment (GIF89a, section 24) before its trailer."""
    assert gif.endswith(TRAILER)
    return gif.removesuffix(TRAILER) + bytes([0x21, 0xFE, len(text)]) + text.encode() + b"\0" + TRAILER
