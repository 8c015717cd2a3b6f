"""Text to value, for each kind of setting: a parser returns it, or raises ValueError with what would be right."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from job.layout import BucketLocation, is_bucket, is_url
from job.model import Budget

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


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host is every IPv4 address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        """Give it as it was written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def whole(low: int, high: int) -> Callable[[str], int]:
    """Whole numbers in a closed range."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Durations: a number of seconds, or one with a unit (100ms, 30s, 5m, 1h, 1d)."""

    def parse(text: str) -> float:
        found = _DURATION.fullmatch(text)
        value = _in_seconds(float(found[1]), found[2]) if found else -1.0
        if not low <= value <= high:
            limits = f"from {low:.15g} to {high:.15g} seconds"  # `:g` alone would make 3.1536e+07 of a year
            raise ValueError(f"must be a time {limits}, such as 30, 1.5, 500ms, 5m or 1h")
        return value

    return parse


def _in_seconds(number: float, unit: str) -> float:
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]


def size(text: str) -> int:
    """Bytes: a number, or one with a unit (500kB is decimal, 5MiB binary)."""
    found = _SIZE.fullmatch(text)
    value = _in_bytes(float(found[1]), found[2] or "", binary=bool(found[3])) if found else 0
    if not 1 <= value <= _SIZE_MAX:
        raise ValueError("must be a size from 1 byte to 1TiB, such as 5242880, 500kB or 5MiB")
    return value


def _in_bytes(number: float, unit: str, *, binary: bool) -> int:
    return int(number * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))


def budget(text: str) -> Budget:
    """Read a number of items, or a percentage of them."""
    found = _BUDGET.fullmatch(text)
    if found and found[2] and float(found[1]) <= 100:  # noqa: PLR2004  (per cent)
        return Budget(float(found[1]) / 100, is_share=True)
    if found and not found[2] and found[1].isdigit():
        return Budget(float(found[1]))
    raise ValueError("must be a whole number of items or a percentage of them up to 100%, such as 3 or 5%")


def choice(kind: type[E]) -> Callable[[str], E]:
    """One of a few words, in either case."""

    def parse(text: str) -> E:
        try:
            return kind(text.lower())
        except ValueError:
            raise ValueError(f"must be one of {', '.join(kind)}") from None

    return parse


def several(kind: type[E]) -> Callable[[str], tuple[E, ...]]:
    """One or more of a few words, with commas or spaces between, each taken once."""

    def parse(text: str) -> tuple[E, ...]:
        words = text.lower().replace(",", " ").split()
        if not words or not set(words) <= set(kind):
            raise ValueError(f"must be one or more of {', '.join(kind)}")
        return tuple(map(kind, dict.fromkeys(words)))

    return parse


def hosts(text: str) -> tuple[str, ...]:
    """Host names, with commas or spaces between; compared in lower case."""
    found = tuple(text.lower().replace(",", " ").split())
    if not found or not all(re.fullmatch(_HOST, host) for host in found):
        raise ValueError("must be host names without scheme or port, such as cdn.example.org")
    return tuple(host.strip("[]") for host in found)


def address(text: str) -> Address:
    """HOST:PORT, or :PORT for every IPv4 address of the machine."""
    found = _ADDRESS.fullmatch(text)
    if not found or int(found[2]) > _PORT_MAX:
        raise ValueError("must be HOST:PORT or :PORT, such as :9464 or 127.0.0.1:9464")
    return Address(found[1].strip("[]"), int(found[2]))


def line(text: str) -> str:
    """One line of text that may stand in a header."""
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise ValueError("must be one line of printable ASCII")
    return text.strip()


def words(text: str) -> str:
    """At least one word, with commas or spaces between."""
    if not text.replace(",", " ").split():
        raise ValueError("must be codes or names of sets, such as BR CN or ALL")
    return _utf_8(text)


def path(text: str) -> str:
    """Read a path that the operating system can take."""
    if "\0" in text or not text.strip():
        raise ValueError("must be a path")
    return _utf_8(text)


def destination(text: str) -> str:
    """Read a directory's path, or a bucket's URL: any other URL would silently become a directory of that name."""
    if text.startswith("~"):
        raise ValueError("must be the directory's path in full: nothing here knows whose home ~ is")
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
    """Read requests a second; 0 is no limit."""
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= _RATE_MAX:
        raise ValueError(f"must be a number of requests a second, up to {_RATE_MAX}, or 0 for no limit")
    return float(text)


def share(text: str) -> float:
    """Read a share of all, from 0 to 1."""
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= 1:
        raise ValueError("must be a share from 0 to 1, such as 0.25")
    return float(text)


def span(text: str) -> tuple[float, float]:
    """One time, or two with a dash between: the least and the most."""
    parse = seconds(0, 3600)
    low, dash, high = text.partition("-")
    try:
        found = parse(low), parse(high if dash else low)
    except ValueError:
        found = 1, 0
    if found[0] > found[1]:
        raise ValueError("must be a time up to 3600 seconds, or two as 0.5-5, the smaller first")
    return found


def host(text: str) -> str:
    """One address or host name to listen on; an IPv6 address may stand in brackets."""
    if not re.fullmatch(rf"{_HOST}|[0-9A-Fa-f:.]+", text):
        raise ValueError("must be an address or a host name, such as 127.0.0.1")
    return text.strip("[]")
