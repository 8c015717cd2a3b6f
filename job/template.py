"""A URL template: where an item's URL and its file name come from."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, urlsplit

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_LEGAL = r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
"""RFC 3986; a lone % would let a code finish an escape, such as %2e."""
_URL = re.compile(f"(?:{_LEGAL})*")
_TEMPLATE = re.compile(f"(?:{_LEGAL}|[{{}}])*")
"""A URL with the braces of a placeholder."""
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PORT_MAX = 65535
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,16}")
_CODES = frozenset({"{cc}", "{CC}"})
_IDS = frozenset({"{id}"})
_UNREADABLE = "must be a URL with a host, and if it names a port, one from 1 to 65535"
_USUAL_PORT = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """An http or https URL with a placeholder in its path or query. Immutable, so any thread may use it."""

    text: str
    takes_ids: bool
    """Items are opaque ids (`{id}`); else they are codes, compared without case (`{cc}`, `{CC}`)."""
    suffix: str
    """What a file's name ends with: the suffix of the URL's path, with its dot, or nothing."""

    @classmethod
    def parse(cls, text: str) -> "UrlTemplate":
        """Check a template's text; ValueError says what would be right."""
        parts = split_url(text, _TEMPLATE)
        _check_address(parts)
        if "#" in text:
            raise ValueError("must have no fragment (#...): it is never sent")
        found = _placeholders(parts.path + "?" + parts.query)
        return cls(text, takes_ids=found <= _IDS, suffix=_suffix_of(parts.path))

    @property
    def origin(self) -> str:
        """Scheme, host and port, as `https://example.org:8443`; the port that a scheme has anyhow is left out."""
        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(_USUAL_PORT[parts.scheme])

    def url(self, code: str) -> str:
        """Put a valid code or id into the URL."""
        if self.takes_ids:
            return self.text.replace("{id}", code)
        return self.text.replace("{cc}", code.lower()).replace("{CC}", code.upper())

    def file(self, code: str) -> str:
        """Name the file of a valid code (lower case) or id (verbatim), below the destination."""
        return (code if self.takes_ids else code.lower()) + self.suffix


def split_url(text: str, legal: re.Pattern[str] = _URL) -> SplitResult:
    """Take a URL apart; ValueError says what would be right, and shows nothing of what the text may hold in secret."""
    if not legal.fullmatch(text):
        raise ValueError("must be a URL in ASCII, with other characters percent-encoded")
    try:
        return urlsplit(text)
    except ValueError:
        raise ValueError(_UNREADABLE) from None


def check_authority(authority: str) -> None:
    """Raise ValueError, which says what would be right, unless this is a host, and a port if it names one."""
    found = _AUTHORITY.fullmatch(authority)
    if not found or not 0 < int(found[1] or 80) <= _PORT_MAX:
        raise ValueError(_UNREADABLE)


def _check_address(parts: SplitResult) -> None:
    if _PLACEHOLDER.search(parts.netloc):
        raise ValueError("must have its placeholder in the path or the query, never in the host")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("must hold no user and password: put an Authorization line into FLAGJOB_HEADERS_FILE")
    check_authority(parts.netloc)


def _placeholders(path_and_query: str) -> frozenset[str]:
    found = frozenset(_PLACEHOLDER.findall(path_and_query))
    if not found or not (found <= _CODES or found <= _IDS):
        raise ValueError(
            "must hold {cc} or {CC} (a code in lower or upper case), or {id} (verbatim), and no other {...}"
        )
    if re.search(r"[{}]", _PLACEHOLDER.sub("", path_and_query)):
        raise ValueError("must hold no braces but those of its placeholder")
    return found


def _suffix_of(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return suffix if _SUFFIX.fullmatch(suffix) else ""
