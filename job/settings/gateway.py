"""Where a Pushgateway is, and as whom to push to it."""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

_LEGAL = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
"""RFC 3986."""
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PORT_MAX = 65535
_UNREADABLE = "must be a URL with a host, and if it names a port, one from 1 to 65535"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A Pushgateway's URL, taken apart. Immutable, so any thread may use it."""

    url: str
    """Without user and password, so it may be printed; a path is the gateway's own prefix."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def gateway(text: str) -> Gateway:
    """Read a Pushgateway's URL; ValueError says what would be right, and shows nothing of the text."""
    if not _LEGAL.fullmatch(text):
        raise ValueError("must be a URL in ASCII, with other characters percent-encoded")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(_UNREADABLE) from None  # its text may show what the URL holds in secret
    credentials, _, host = parts.netloc.rpartition("@")
    _check(parts, host)
    user, _, password = credentials.partition(":")
    return Gateway(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", unquote(user), unquote(password))


def _check(parts: SplitResult, host: str) -> None:
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("must begin with http:// or https:// and name a host")
    found = _HOST.fullmatch(host)
    if not found or not 0 < int(found[1] or 80) <= _PORT_MAX:
        raise ValueError(_UNREADABLE)
    if "?" in parts.geturl() or "#" in parts.geturl():
        raise ValueError("must have no query and no fragment: ? in a password is %3F, # is %23")
    if "@" in parts.path:
        raise ValueError("must have no @ in its path: / in a password is %2F")
