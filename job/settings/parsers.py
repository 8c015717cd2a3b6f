"""Parsers of settings, each from text to value: numbers, times, sizes, budgets, hosts, paths, a Pushgateway's URL.

Each raises ValueError with a description of a valid text, which contains nothing of the text itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar
from urllib.parse import SplitResult, unquote

from job.layout import BucketLocation, is_bucket, is_local_path, is_name, is_url
from job.model import Budget
from job.template import FileTemplate, check_authority, split_url

E = TypeVar("E", bound=StrEnum)

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(rf"({_NUMBER}) *(ms|s|m|h|d|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(rf"({_NUMBER}) *(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)
_SIZE_MAX = 1024**4
_BUDGET = re.compile(rf"({_NUMBER})(%?)")
_HOST = r"(?:(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*|\[[0-9A-Fa-f:.]+\])"
_ADDRESS = re.compile(rf"({_HOST}?):([0-9]{{1,5}})")
_PORT_MAX = 65535
_RATE_MAX = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.html", re.ASCII)
_LABEL = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([!-~]+)", re.ASCII)
_OWN_LABELS = {"job", "shard", "status", "outcome", "reason", "le", "version", "revision", "python"}
"""Labels that flagjob's series have, so that no others may have their names."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on. An empty host stands for every address of the machine, IPv4 and IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the address in the form in which it is written in a setting."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pushgateway:
    """The parts of a Pushgateway's URL. Immutable, so any thread may use it."""

    url: str
    """Without user and password, so it may be printed; the path is the gateway's own prefix."""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def file_template(text: str) -> FileTemplate:
    """Return the template of the names of files, which must be safe ones where the placeholders are."""
    template = FileTemplate.parse(text)
    if not is_name(template.render(dict.fromkeys(template.placeholders, "x"))):
        raise ValueError("must be a path below the destination, of letters, digits and ._@+~'():=,%- between slashes")
    return template


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of durations from `low` to `high` seconds, with or without a unit (100ms, 30s, 5m, 1h, 1d)."""

    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        value = _in_seconds(float(match[1]), match[2]) if match else -1.0
        if not low <= value <= high:
            limits = f"from {low:.15g} to {high:.15g} seconds"  # `:g` alone would make 3.1536e+07 of a year
            raise ValueError(f"must be a time {limits}, such as 30, 1.5, 500ms, 5m or 1h")
        return value

    return parse


def _in_seconds(number: float, unit: str) -> float:
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]


def size(text: str) -> int:
    """Return a number of bytes; units may be decimal (500kB) or binary (5MiB)."""
    match = _SIZE.fullmatch(text)
    value = _in_bytes(float(match[1]), match[2] or "", binary=bool(match[3])) if match else 0
    if not 1 <= value <= _SIZE_MAX:
        raise ValueError("must be a size from 1 byte to 1TiB, such as 5242880, 500kB or 5MiB")
    return value


def _in_bytes(number: float, unit: str, *, binary: bool) -> int:
    return int(number * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))


def budget(text: str) -> Budget:
    """Return a number of items, or a percentage of all items."""
    match = _BUDGET.fullmatch(text)
    if match and match[2] and float(match[1]) <= 100:  # noqa: PLR2004  (per cent)
        return Budget(float(match[1]) / 100, is_share=True)
    if match and not match[2] and match[1].isdigit():
        return Budget(float(match[1]))
    raise ValueError("must be a whole number of items or a percentage of them up to 100%, such as 3 or 5%")


def choice(kind: type[E]) -> Callable[[str], E]:
    """Return a parser of one member of an enum, in upper or lower case."""

    def parse(text: str) -> E:
        try:
            return kind(text.lower())
        except ValueError:
            raise ValueError(f"must be one of {', '.join(kind)}") from None

    return parse


def several(kind: type[E]) -> Callable[[str], tuple[E, ...]]:
    """Return a parser of members of an enum, separated by commas or spaces; duplicates are dropped."""

    def parse(text: str) -> tuple[E, ...]:
        words = text.lower().replace(",", " ").split()
        if not words or not set(words) <= set(kind):
            raise ValueError(f"must be one or more of {', '.join(kind)}")
        return tuple(map(kind, dict.fromkeys(words)))

    return parse


def hosts(text: str) -> tuple[str, ...]:
    """Return host names in lower case; the text separates them by commas or spaces."""
    names = tuple(text.lower().replace(",", " ").split())
    if not names or not all(re.fullmatch(_HOST, host) for host in names):
        raise ValueError("must be host names without scheme or port, such as cdn.example.org")
    return tuple(host.strip("[]") for host in names)


def parameters(text: str) -> tuple[str, ...]:
    """Return names of query parameters, as they are written without escapes; commas or spaces separate them."""
    names = tuple(text.replace(",", " ").split())
    if not names or not all(re.fullmatch(r"[A-Za-z0-9._~:$@\[\]-]+", name) for name in names):
        raise ValueError("must be names of query parameters, such as token or hdnts, separated by commas or blanks")
    return names


def digests(text: str) -> tuple[str, ...]:
    """Return SHA-256 digests in lower-case hex; the text separates them by commas or spaces."""
    found = tuple(text.lower().replace(",", " ").split())
    if not found or not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in found):
        raise ValueError("must be sha256 digests of 64 hexadecimal digits, separated by commas or blanks")
    return found


def name(text: str) -> str:
    """Return the name of a job; `-live` at its end would be taken for the series of a run that goes on."""
    if not _NAME.fullmatch(text) or text.endswith("-live"):
        raise ValueError("must be up to 63 letters, digits, hyphens, dots or underscores, and must not end in -live")
    return text


def labels(text: str) -> tuple[tuple[str, str], ...]:
    """Return the names and values of labels; the text separates them by commas or spaces."""
    matches = [_LABEL.fullmatch(word) for word in text.replace(",", " ").split()]
    found = {match[1]: match[2] for match in matches if match}
    if not found or len(found) < len(matches):
        raise ValueError("must be labels, each once, such as team=maps,env=prod")
    if any(label in _OWN_LABELS or label.startswith("__") for label in found):
        raise ValueError(f"must not begin with __, and be none of {', '.join(sorted(_OWN_LABELS))}")
    return tuple(found.items())


def address(text: str) -> Address:
    """Return the address of HOST:PORT, or of :PORT for every address of the machine, IPv4 and IPv6."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[2]) > _PORT_MAX:
        raise ValueError("must be HOST:PORT or :PORT, such as :9464 or 127.0.0.1:9464")
    return Address(match[1].strip("[]"), int(match[2]))


def line(text: str) -> str:
    """Return a text that is valid in a header: one line of printable ASCII."""
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise ValueError("must be one line of printable ASCII")
    return text.strip()


def words(text: str) -> str:
    """Return a text unchanged that has at least one word, separated by commas or spaces."""
    if not text.replace(",", " ").split():
        raise ValueError("must be codes or names of sets, such as BR CN or ALL")
    return _utf_8(text)


def path(text: str) -> str:
    """Return a path that is valid for the operating system."""
    if "\0" in text or not text.strip():
        raise ValueError("must be a path")
    return _utf_8(text)


def report(text: str) -> str:
    """Return the path of a report, or its name below the destination's own directory, where no other file is .html."""
    if not is_local_path(text) and not _REPORT.fullmatch(text):
        raise ValueError("must be a name such as report.html, which is one below the destination, or a path with a /")
    return path(text)


def page(text: str) -> str:
    """Return the path of a page."""
    if not text.endswith(".html"):
        raise ValueError("must be a path that ends in .html")
    return path(text)


def destination(text: str) -> str:
    """Return a directory's path or a bucket's URL; any other URL would silently become a directory of that name."""
    if text.startswith("~"):
        raise ValueError("must be the full path: flagjob does not expand ~")
    if not is_url(text):
        return path(text)
    if not is_bucket(text):
        raise ValueError("must be a directory of this machine, or a bucket: s3://bucket/prefix, gs://... or az://...")
    BucketLocation.parse(text)
    return text


def _utf_8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8 text") from None
    return text


def rate(text: str) -> float:
    """Return a number of requests a second; 0 is no limit."""
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= _RATE_MAX:
        raise ValueError(f"must be a number of requests a second, up to {_RATE_MAX}, or 0 for no limit")
    return float(text)


def fraction(text: str) -> float:
    """Return a fraction from 0 to 1."""
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= 1:
        raise ValueError("must be a share from 0 to 1, such as 0.25")
    return float(text)


def span(text: str) -> tuple[float, float]:
    """Return the smallest and the largest of a range of times, in seconds; a single time is both."""
    parse = seconds(0, 3600)
    first, dash, second = text.partition("-")
    problem = "must be a time up to 3600 seconds, or two as 0.5-5, the smaller first"
    try:
        low = parse(first)
        high = parse(second) if dash else low
    except ValueError:
        raise ValueError(problem) from None
    if low > high:
        raise ValueError(problem)
    return low, high


def host(text: str) -> str:
    """Return an address or host name to listen on; an IPv6 address may have brackets."""
    if not re.fullmatch(rf"{_HOST}|[0-9A-Fa-f:.]+", text):
        raise ValueError("must be an address or a host name, such as 127.0.0.1")
    return text.strip("[]")


def pushgateway(text: str) -> Pushgateway:
    """Return the parts of a Pushgateway's URL."""
    parts = split_url(text)
    credentials, _, host = parts.netloc.rpartition("@")
    _check_pushgateway(parts, host)
    user, _, password = credentials.partition(":")
    return Pushgateway(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", unquote(user), unquote(password))


def ping_url(text: str) -> str:
    """Return the URL of a service that watches schedules; it may have a query."""
    parts = split_url(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("must begin with http:// or https:// and name a host")
    check_authority(parts.netloc)
    if "#" in text:
        raise ValueError("must have no fragment")
    return text


def _check_pushgateway(parts: SplitResult, host: str) -> None:
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("must begin with http:// or https:// and name a host")
    check_authority(host)
    if "?" in parts.geturl() or "#" in parts.geturl():
        raise ValueError("must have no query and no fragment: ? in a password is %3F, # is %23")
    if "@" in parts.path:
        raise ValueError("must have no @ in its path: / in a password is %2F")
