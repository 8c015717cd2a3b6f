"""Where a Pushgateway is, and as whom to push to it."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote

from job.template import check_authority, split_url


@dataclass(frozen=True, slots=True)
class Pushgateway:
    """A Pushgateway's URL, taken apart. Immutable, so any thread may use it."""

    url: str
    """Without user and password, so it may be printed; a path is the gateway's own prefix."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def gateway(text: str) -> Pushgateway:
    """Read a Pushgateway's URL; ValueError says what would be right, and shows nothing of the text."""
    parts = split_url(text)
    credentials, _, host = parts.netloc.rpartition("@")
    _check(parts, host)
    user, _, password = credentials.partition(":")
    return Pushgateway(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", unquote(user), unquote(password))


def _check(parts: SplitResult, host: str) -> None:
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("must begin with http:// or https:// and name a host")
    check_authority(host)
    if "?" in parts.geturl() or "#" in parts.geturl():
        raise ValueError("must have no query and no fragment: ? in a password is %3F, # is %23")
    if "@" in parts.path:
        raise ValueError("must have no @ in its path: / in a password is %2F")
