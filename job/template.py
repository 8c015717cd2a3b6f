"""URL template: checks a URL with a placeholder, and makes the URL and the file name of each item from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_FIELD = re.compile(r"\{(\w[\w .-]*)(?::\.([1-9][0-9]?))?\}")
"""A placeholder: the text of an item, or of a column of its row, whole or its first characters."""
_LEGAL = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
"""RFC 3986. A lone % is illegal: a code could complete it to an escape, such as %2e."""
_URL = re.compile(f"(?:{_LEGAL})*")
_TEMPLATE = re.compile(f"(?:{_LEGAL}|[{{}}])*")
"""A URL with the braces of a placeholder."""
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PORT_MAX = 65535
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")
CODE_PLACEHOLDERS = frozenset({"cc", "CC"})
_ID_PLACEHOLDERS = frozenset({"id"})
OTHER_PLACEHOLDERS = "other {...} only where the list is a table (.csv, .tsv, .jsonl)"
NO_PLACEHOLDER = (
    f"must hold {{cc}} or {{CC}} (a code in lower or upper case), or {{id}} (verbatim); {OTHER_PLACEHOLDERS}"
)
_SAFE = "@/"
_VERBATIM = re.compile(r"[A-Za-z0-9._~@/-]*")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")
"""What `quote` with these safe characters leaves as it is; a match takes a third of its time."""
_UNREADABLE = "must be a URL with a host, and if it names a port, one from 1 to 65535"
_DOT_SEGMENT = re.compile(r"/\.{1,2}(?:[/?]|\Z)")
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_LEFT_ALONE = "%:/?#[]@!$&'()*+,;=~"
"""What is legal in a whole URL, with the % of escapes; browsers encode the rest, too, before they send it."""


class _Field(NamedTuple):
    """A placeholder, and how many characters of its text are taken; None for all."""

    name: str
    length: int | None


_Parts = tuple[str | _Field, ...]
"""Literal text, and placeholders."""


def _parse_parts(text: str) -> _Parts:
    parts: list[str | _Field] = []
    end = 0
    for match in _FIELD.finditer(text):
        parts += [text[end : match.start()], _Field(match[1], int(match[2]) if match[2] else None)]
        end = match.end()
    return (*parts, text[end:])


def _names(parts: _Parts) -> list[str]:
    """Return the names of the placeholders, each once, in their order."""
    return list(dict.fromkeys(part.name for part in parts if isinstance(part, _Field)))


def _has_braces(parts: _Parts) -> bool:
    return any("{" in part or "}" in part for part in parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class FileTemplate:
    """The name of each item's file, below the destination. Immutable, so threads may share it."""

    text: str
    parts: _Parts

    @classmethod
    def parse(cls, text: str) -> "FileTemplate":
        """Return the template of a text; raise ValueError, which states the requirement that the text does not meet."""
        template = cls(text, _parse_parts(text))
        if not template.placeholders:
            raise ValueError("must hold a placeholder of the URL, or all items would have one file")
        if _has_braces(template.parts):
            raise ValueError("must hold no braces but those of placeholders, as {id}, or {id:.2} for two characters")
        return template

    @property
    def placeholders(self) -> frozenset[str]:
        """Return the names of the placeholders."""
        return frozenset(_names(self.parts))

    @property
    def suffix(self) -> str:
        """Return the end of every name, with its dot, or an empty string."""
        return suffix_of(self.text)

    def render(self, values: Mapping[str, str]) -> str:
        """Return the name with these texts in place of the placeholders; it still has to be checked."""
        return "".join([part if isinstance(part, str) else values[part.name][: part.length] for part in self.parts])


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """An http or https URL with a placeholder in its path or query. Immutable, so threads may share it."""

    text: str
    takes_ids: bool
    """Whether items are opaque IDs (`{id}`) instead of codes, which are compared without case (`{cc}`, `{CC}`)."""
    suffix: str
    """The end of every file name: the suffix of the URL's path with its dot, or an empty string."""
    parts: _Parts
    is_cut: bool = False
    """Whether a placeholder takes some characters only."""
    naming: FileTemplate | None = None
    """How files are named; None is after their codes, with the suffix."""

    @classmethod
    def parse(cls, text: str) -> "UrlTemplate":
        """Return the template of a text; raise ValueError, which states the requirement that the text does not meet."""
        # Without the names of placeholders, which may be any words: they never reach a URL.
        parts = split_url(_FIELD.sub("{}", text), _TEMPLATE)
        _check_address(parts)
        if "#" in text:
            raise ValueError("must have no fragment (#...): it is never sent")
        fields = _parse_parts(text)
        if not _names(fields):
            raise ValueError(NO_PLACEHOLDER)
        if _has_braces(fields):
            raise ValueError("must hold no braces but those of its placeholder")
        is_cut = any(isinstance(field, _Field) and field.length for field in fields)
        takes_ids = set(_names(fields)) <= _ID_PLACEHOLDERS
        return cls(text, takes_ids, suffix_of(parts.path), fields, is_cut)

    @property
    def placeholders(self) -> list[str]:
        """Return the names of the placeholders, each once, in their order."""
        return _names(self.parts)

    @property
    def all_placeholders(self) -> set[str]:
        """Return the names of the placeholders of the URL and of the file name."""
        return {*self.placeholders, *(self.naming.placeholders if self.naming else ())}

    @property
    def known_placeholders(self) -> frozenset[str]:
        """Return the placeholders for which an item of a list has text; those that are not among them need a table."""
        return _ID_PLACEHOLDERS if self.takes_ids else CODE_PLACEHOLDERS

    def with_naming(self, naming: FileTemplate) -> "UrlTemplate":
        """Return a template of the same URLs whose files are named otherwise, and so may have another suffix."""
        return replace(self, naming=naming, suffix=naming.suffix or self.suffix)

    @property
    def origin(self) -> str:
        """Return scheme, host and port, as in `https://example.org:8443`, without the default port of the scheme.

        Nothing is returned where each row has a URL of its own.
        """
        return _origin_of(urlsplit(self.text)) if self.parts else ""

    def url(self, code: str) -> str:
        """Return the URL of a valid code or ID, in which all but letters, digits and `._~@/-` is percent-encoded."""
        if self.is_cut:
            return self.render({"id": code, "cc": code.lower(), "CC": code.upper()})
        if self.takes_ids:
            return self.text.replace("{id}", code if _VERBATIM.fullmatch(code) else quote(code, _SAFE))
        return self.text.replace("{cc}", code.lower()).replace("{CC}", code.upper())

    def render(self, cells: Mapping[str, str]) -> str:
        """Return the URL of a row: whatever a cell holds, it is one part of a segment or of the query's value.

        Only `{id}`, which must be a valid ID, may hold several segments. Raises UnicodeEncodeError for lone surrogates.
        """
        return "".join([part if isinstance(part, str) else _encoded(part, cells) for part in self.parts])

    def file(self, code: str) -> str:
        """Return the path, below the destination, of the file of a code (in lower case) or ID (verbatim)."""
        if self.naming is not None:
            return self.naming.render({"id": code, "cc": code.lower(), "CC": code.upper()})
        stem = code if self.takes_ids else code.lower()
        return stem + self.suffix


NO_TEMPLATE = UrlTemplate("{url}", takes_ids=True, suffix="", parts=())
"""What stands for the template of a list whose rows have URLs of their own, where no other is given."""


def _encoded(field: _Field, cells: Mapping[str, str]) -> str:
    text = cells[field.name][: field.length]
    if _UNRESERVED.fullmatch(text):
        return text
    return quote(text, _SAFE if field.name == "id" else "")


class WholeUrl(NamedTuple):
    """A URL as a row of a list has it, in ASCII, with what is made of it."""

    text: str
    origin: str
    """Scheme, host and port, as in `https://example.org:8443`, without the default port of the scheme."""
    name: str
    """Host and path without escapes, by which a file may be named. It may hold anything, so it has to be checked."""
    suffix: str
    """The suffix of the path with its dot, or an empty string."""

    @classmethod
    def parse(cls, text: str) -> "WholeUrl":
        """Return the URL of a text; raise ValueError, which states the requirement that the text does not meet.

        Letters beyond ASCII, blanks and the like are percent-encoded in path and query; what cannot be seen is refused.
        """
        if not text.isprintable():
            raise ValueError("must hold no control characters")
        encoded = text if _URL.fullmatch(text) else quote(text, _LEFT_ALONE)
        parts = split_url(encoded)
        _check_address(parts)
        if "#" in encoded:
            raise ValueError("must have no fragment (#...): it is never sent")
        if "/." in encoded and has_dot_segment(encoded):
            raise ValueError("must have no segment of dots, which would lead elsewhere")
        address = f"{parts.scheme}://{parts.netloc}".lower()
        origin = _origin_of(parts)
        name = origin.partition("//")[2] + unquote(parts.path)
        return cls(address + encoded[len(address) :], origin, name, suffix_of(parts.path))


def has_dot_segment(url: str) -> bool:
    """Return whether a segment of a URL's path is one or two dots, which clients and servers take out."""
    return _DOT_SEGMENT.search(url) is not None


def _origin_of(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(_DEFAULT_PORT[parts.scheme])


def split_url(text: str, legal: re.Pattern[str] = _URL) -> SplitResult:
    """Return the parts of a URL; raise ValueError, which states the requirement and never repeats text of the URL."""
    if not legal.fullmatch(text):
        raise ValueError("must be a URL in ASCII, with other characters percent-encoded")
    try:
        return urlsplit(text)
    except ValueError:
        raise ValueError(_UNREADABLE) from None  # the cause repeats the host, which may be a mistyped password


def check_authority(authority: str) -> None:
    """Raise ValueError unless the text is a host, optionally with a port from 1 to 65535."""
    match = _AUTHORITY.fullmatch(authority)
    if not match:
        raise ValueError(_UNREADABLE)
    port = match[1]
    if port and not 0 < int(port) <= _PORT_MAX:
        raise ValueError(_UNREADABLE)


def _check_address(parts: SplitResult) -> None:
    if _PLACEHOLDER.search(parts.netloc):
        raise ValueError("must have its placeholder in the path or the query, never in the host")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("must hold no user and password: put an Authorization line into FLAGJOB_HEADERS_FILE")
    check_authority(parts.netloc)


def suffix_of(path: str) -> str:
    """Return the suffix of a path with its dot, or an empty string if it has none that is short and plain."""
    suffix = PurePosixPath(path).suffix
    return suffix if _SUFFIX.fullmatch(suffix) else ""
