"""Display: colours where a terminal wants them, the width of text there, and numbers in the words of people."""

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TextIO

_MACHINE_FORMATS = {"json", "gcp"}
"""Formats of FLAGJOB_LOG_FORMAT for programs."""
_NO_COLUMN = {"Mn", "Me", "Cf", "Cc"}
"""Unicode's categories of characters that take no column: marks above or below others, and controls."""
_WIDE = {"W", "F"}
_ELLIPSIS = "…"
_GAP = "  "
"""What divides the cells of a table."""
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_BYTE_BASE = 1000
_TIME_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_PRECISE_BELOW = 10
"""Numbers below this are shown with a digit after the point."""


class Colour(StrEnum):
    """How a text stands out on a terminal: the parameter of its escape sequence (ECMA-48, 8.3.117)."""

    BOLD = "1"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"


@dataclass(frozen=True, slots=True)
class Line:
    """One line for people, and how it stands out where there are colours."""

    text: str
    colour: Colour | None = None


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal. Standard error is None if the parent process closed it."""
    return stream is not None and stream.isatty()


def wants_colours(stream: TextIO | None, log_format: str = "auto", environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether what people read on a stream has colours; everything that may be coloured asks here.

    Checked in this order: FLAGJOB_LOG_FORMAT is for programs: no. NO_COLOR is not empty: no (no-color.org: it "prevents
    the addition of ANSI color"). FORCE_COLOR is not empty: yes, also off a terminal (force-color.org). Else a terminal
    has colours, unless TERM is `dumb`. Neither site says in words which wins where both are set; NO_COLOR does, as in
    CPython (`_colorize.can_colorize`) and pytest, though the sample code of force-color.org has it the other way round.
    """
    if log_format in _MACHINE_FORMATS or environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and environ.get("TERM") != "dumb"


def painted(line: Line, *, coloured: bool) -> str:
    """Return a line's text, in its colour if there are colours. The text holds no control character."""
    if not coloured or line.colour is None or not line.text:
        return line.text
    return f"\x1b[{line.colour}m{line.text}\x1b[0m"


def width(text: str) -> int:
    """Return how many columns a text takes on a terminal (Unicode, UAX 11: wide characters take two)."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in _NO_COLUMN:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def cut(text: str, columns: int) -> str:
    """Return a text that takes at most so many columns; where it is cut it ends in an ellipsis."""
    if width(text) <= columns:
        return text
    ends = accumulate(map(_character_width, text))
    return text[: sum(end < columns for end in ends)] + _ELLIPSIS


def table(rows: Iterable[tuple[str, ...]], columns: int, right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows as lines whose cells stand below each other, in so many columns of a terminal.

    Each row has as many cells; those of the numbers in `right` are aligned right. The last cells of all rows are left
    out where there is no room for them. Memory: all rows.
    """
    cells = list(rows)
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    while len(widths) > 1 and sum(widths) + len(_GAP) * (len(widths) - 1) > columns:
        widths.pop()
    return [cut(_aligned(row[: len(widths)], widths, right), columns) for row in cells]


def _aligned(row: tuple[str, ...], widths: list[int], right: frozenset[int]) -> str:
    parts: list[str] = []
    for number, (cell, columns) in enumerate(zip(row, widths, strict=True)):
        blanks = " " * (columns - width(cell))
        parts.append(blanks + cell if number in right else cell + blanks)
    return _GAP.join(parts).rstrip()


def number_text(number: float) -> str:
    """Return a number that is not negative in about two digits or more: `0.52`, `3.8`, `41`, `12000`."""
    if round(number, 1) >= _PRECISE_BELOW or float(number).is_integer():
        return f"{number:.0f}"
    return f"{number:.1f}" if round(number, 2) >= 1 else f"{number:.2f}"


def size_text(size: float) -> str:
    """Return a size in bytes with a decimal unit: `999 B`, `1.2 kB`, `41 MB`."""
    scaled = float(size)
    for unit in _BYTE_UNITS[:-1]:
        if round(scaled) < _BYTE_BASE:
            return f"{_scaled_text(scaled, unit)} {unit}"
        scaled /= _BYTE_BASE
    return f"{_scaled_text(scaled, _BYTE_UNITS[-1])} {_BYTE_UNITS[-1]}"


def _scaled_text(scaled: float, unit: str) -> str:
    is_precise = unit != "B" and round(scaled, 1) < _PRECISE_BELOW
    return f"{scaled:.1f}" if is_precise else f"{scaled:.0f}"


def duration_text(seconds: float) -> str:
    """Return a duration in its two greatest units: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `1 d 3 h`."""
    if round(seconds, 1) < _PRECISE_BELOW and not float(seconds).is_integer():
        return f"{max(seconds, 0.0):.1f} s"
    rest = max(round(seconds), 0)
    parts: list[str] = []
    for unit, unit_seconds in _TIME_UNITS:
        number, rest = divmod(rest, unit_seconds)
        if parts or number:
            parts.append(f"{number} {unit}" if number else "")
    return " ".join(filter(None, parts[:2])) or "0 s"


def age_text(seconds: float) -> str:
    """Return how long ago something was, in its greatest unit: `59 s ago`, `3 h ago`; `in 2 d` if it is to come."""
    whole = math.floor(abs(seconds))
    unit, unit_seconds = next((row for row in _TIME_UNITS if whole >= row[1]), _TIME_UNITS[-1])
    amount = f"{whole // unit_seconds} {unit}"
    if whole == 0:
        return "now"
    return f"{amount} ago" if seconds > 0 else f"in {amount}"
