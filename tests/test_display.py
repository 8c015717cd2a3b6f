"""What people read: colours only where they are wanted, columns that hold for every text, numbers in few digits."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import environment, flagjob
from hypothesis import given
from hypothesis import strategies as st
from test_book import on_terminal, screen

from job.display import (
    Colour,
    Line,
    age_text,
    cut,
    duration_text,
    number_text,
    painted,
    size_text,
    table,
    wants_colours,
    width,
)
from job.progress import painted_page
from job.settings import parse_arguments
from job.settings.command_options import _Parser

ESCAPE = "\x1b"
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]))


class Stream(io.StringIO):
    """A stream that is a terminal or none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


# Colours


@pytest.mark.parametrize(
    ("terminal", "environ", "log_format", "wanted"),
    [
        (True, {}, "auto", True),
        (True, {"TERM": "xterm"}, "console", True),
        (True, {"TERM": "dumb"}, "auto", False),
        (True, {"NO_COLOR": "1"}, "auto", False),
        (True, {"NO_COLOR": "0"}, "auto", False),
        (True, {"NO_COLOR": "", "FORCE_COLOR": ""}, "auto", True),
        (False, {}, "auto", False),
        (False, {"FORCE_COLOR": ""}, "console", False),
        (False, {"FORCE_COLOR": "0"}, "console", True),
        (False, {"FORCE_COLOR": "1", "TERM": "dumb"}, "console", True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, "auto", False),
        (True, {"FORCE_COLOR": "1"}, "json", False),
        (True, {"FORCE_COLOR": "1"}, "gcp", False),
    ],
)
def test_colours_are_decided_in_one_place(
    *, terminal: bool, environ: dict[str, str], log_format: str, wanted: bool
) -> None:
    """A terminal has them; NO_COLOR wins over FORCE_COLOR; both count unless empty; formats for programs have none."""
    assert wants_colours(Stream(terminal=terminal), log_format, environ) is wanted


def test_a_closed_stream_has_no_colours() -> None:
    """Standard error may be None."""
    assert not wants_colours(None, environ={})


def test_a_painted_line_ends_its_colour() -> None:
    """The colour begins before the text and ends after it; without one, or without text, nothing is added."""
    assert painted(Line("x", Colour.RED), coloured=True) == "\x1b[31mx\x1b[0m"
    for line, coloured in ((Line("x", Colour.RED), False), (Line("x"), True), (Line("", Colour.RED), True)):
        assert painted(line, coloured=coloured) == line.text


@pytest.mark.parametrize("command", ["run", "serve", "simulate", "verify", "rollback"])
def test_a_page_of_help_has_its_colours_added(command: str) -> None:
    """Colours are all that is added: without them the page is as it was, and it is plain unless colours are wanted."""
    page = parse_arguments([command, "--help"]).page
    coloured = painted_page(page, coloured=True)
    assert painted_page(page, coloured=False) == page
    assert ESCAPE not in page
    assert "\x1b[1musage:\x1b[0m" in coloured
    assert "\x1b[36m-h, --help\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == page


def test_argparse_has_no_colours_of_its_own() -> None:
    """Python 3.14 hands `color` to each subparser: it is taken, and not heeded."""
    parser = _Parser(color=True)
    assert parser.color is False


@pytest.mark.parametrize(
    ("settings", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "FLAGJOB_LOG_FORMAT": "json"}, False),
    ],
)
@pytest.mark.parametrize("words", [["--help"], ["verify", "--log-format=console"]])
def test_off_a_terminal_colours_must_be_forced(
    tmp_path: Path, words: list[str], settings: dict[str, str], *, coloured: bool
) -> None:
    """Pages and console lines in a pipe are coloured only with FORCE_COLOR."""
    if "FLAGJOB_LOG_FORMAT" in settings:
        words = words[:1]
    (tmp_path / "downloads" / ".flagjob").mkdir(parents=True)
    (tmp_path / "downloads" / ".flagjob" / "manifest.jsonl").touch()
    (tmp_path / "downloads" / "mine").touch()
    done = flagjob(*words, cwd=tmp_path, settings=settings)
    assert (b"\x1b[" in done.stdout, done.stderr) == (coloured, "")


@pytest.mark.parametrize(
    ("words", "settings", "coloured"),
    [
        (["BR", "ZZ"], {}, True),
        (["BR", "ZZ"], {"NO_COLOR": "1"}, False),
        (["BR", "ZZ"], {"FLAGJOB_LOG_FORMAT": "json", "FORCE_COLOR": "1"}, False),
        (["--help"], {}, True),
        (["--help"], {"NO_COLOR": "1"}, False),
        (["--workers=0"], {}, True),
        (["--workers=0"], {"NO_COLOR": "1"}, False),
    ],
)
def test_a_terminal_has_colours(tmp_path: Path, words: list[str], settings: dict[str, str], *, coloured: bool) -> None:
    """Log and closing words of a run, help, and what is wrong, are coloured on a terminal, unless told not to be."""
    _, sent = on_terminal(*words, cwd=tmp_path, settings=settings)
    assert (re.search(r"\x1b\[[0-9]+m", sent) is not None) == coloured


def test_the_closing_words_beside_a_pipe_have_the_colours_of_their_terminal(tmp_path: Path) -> None:
    """With `flagjob | jq` the pipe gets JSON without colours, and the terminal the closing words with theirs."""
    read, write = os.pipe()
    _, sent = on_terminal("ZZ", cwd=tmp_path, stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as piped:
        assert ESCAPE.encode() not in piped.read()
    assert "\x1b[33m1 not found.\x1b[0m" in sent
    assert "Why, most frequent first:" in screen(sent)


def test_a_control_character_gets_no_colour_of_its_own(tmp_path: Path) -> None:
    """Colours are added after what cannot be seen was escaped."""
    _, sent = on_terminal("c\x1b[32mn", cwd=tmp_path)
    assert "\x1b[32mn" not in sent
    assert r"c\x1b[32mn" in sent


# The width of text


@given(PRINTABLE, st.integers(1, 60))
def test_a_cut_text_fits(text: str, columns: int) -> None:
    """It takes no more columns than there are, also where its characters are wide, and is cut only if it must be."""
    shown = cut(text, columns)
    assert width(shown) <= columns
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]) and width(text) > columns)


@given(st.lists(st.tuples(PRINTABLE, PRINTABLE, st.integers().map(str)), min_size=1), st.integers(1, 200))
def test_the_cells_of_a_table_stand_below_each_other(rows: list[tuple[str, str, str]], columns: int) -> None:
    """No line is wider than the terminal, and each column begins at the same place in all lines that are not cut."""
    lines = table(rows, columns, right=frozenset({2}))
    assert len(lines) == len(rows)
    assert max(map(width, lines)) <= columns
    whole = table(rows, 10**6, right=frozenset({2}))
    first, second, third = (max(width(row[number]) for row in rows) for number in range(3))
    for row, line in zip(rows, whole, strict=True):
        padding = " " * (first - width(row[0]) + 2)
        assert line.startswith(f"{row[0]}{padding}{row[1]}".rstrip())
        assert width(line) == first + 2 + second + 2 + third


def test_wide_and_combining_characters_take_their_columns() -> None:
    """Ideographs take two columns, marks none (UAX 11)."""
    assert (width("國"), width("e\u0301"), width("é"), width("a")) == (2, 1, 1, 1)
    assert cut("國國國", 5) == "國國…"
    assert cut("國國國", 4) == "國…"


# Numbers


@given(st.floats(0, 1e17))
def test_sizes_are_near_and_short(size: float) -> None:
    """The text is within 6 % of the size, or half a byte, has at most seven characters, and never 1000 of a unit."""
    amount, unit = size_text(size).split(" ")
    assert abs(float(amount) * UNITS[unit] - size) <= max(0.06 * size, 0.5)
    assert float(amount) < 1000
    assert len(size_text(size)) <= 7


@given(st.floats(0, 1e8))
def test_durations_are_near_and_short(seconds: float) -> None:
    """The text is within a unit of its last one, whose number is below what makes the next unit."""
    words = duration_text(seconds).split(" ")
    parts = {unit: float(number) for number, unit in zip(words[::2], words[1::2], strict=True)}
    total = sum(number * SECONDS[unit] for unit, number in parts.items())
    greatest = max(SECONDS[unit] for unit in parts)
    tolerance = {1: 0.5, 60: 0.5, 3600: 60, 86400: 3600}[greatest]
    assert abs(total - seconds) <= tolerance + 0.01
    assert len(parts) <= 2
    assert all(parts.get(unit, 0) < limit for unit, limit in (("s", 60), ("min", 60), ("h", 24)))


@given(st.floats(-1e9, 1e9))
def test_ages_are_cut_to_their_greatest_unit(seconds: float) -> None:
    """An age is the whole number of its greatest unit; what is to come says so."""
    text = age_text(seconds)
    if text == "now":
        assert abs(seconds) < 1
        return
    found = re.fullmatch(r"(?:(\d+) (\w+) ago|in (\d+) (\w+))", text)
    assert found
    amount, unit = (int(found[1] or found[3]), SECONDS[found[2] or found[4]])
    assert amount * unit <= abs(seconds) < (amount + 1) * unit
    assert amount < {1: 60, 60: 60, 3600: 24, 86400: 10**6}[unit]
    assert (found[1] is None) == (seconds < 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """Two units at most, and no unit that has nothing."""
    assert duration_text(seconds) == text


@given(st.floats(0, 1e6))
def test_rates_are_near(number: float) -> None:
    """A rate is within 6 % of what it was, or a hundredth."""
    assert abs(float(number_text(number)) - number) <= max(0.06 * number, 0.0051)


def test_display_imports_nothing_heavy() -> None:
    """Help does not pay for what it does not show."""
    program = "import sys, job.display; sys.exit(len({'tqdm', 'structlog', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], env=environment(), check=False).returncode == 0
