"""The rows of the catalogue of faults, docs/faults.md, and the tests that claim them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "docs" / "faults.md"


def row(*numbers: int) -> pytest.MarkDecorator:
    """Mark a test, or a case of a test (`marks=row(5)`), that holds these rows of the catalogue.

    The numbers are literals, so that they can be found without running a test; `pytest -m row` runs all of them.
    """
    return pytest.mark.row(*numbers)


class Line(NamedTuple):
    """One line of the catalogue's tables; a row has a line for each of its forms."""

    number: int
    fault: str
    result: str
    again: str
    exit: str
    file: str

    @property
    def words(self) -> list[str]:
        """The status, and the reason if there is one."""
        return re.findall(r"`(\w+)`", self.result)

    @property
    def exit_code(self) -> int:
        """The exit code of a run in which the other items succeed."""
        return int(self.exit.split()[0])


@cache
def lines() -> list[Line]:
    """Return every line of the catalogue's tables."""
    found = re.findall(r"^\| (\d+) \| (.*) \|$", CATALOGUE.read_text("utf-8"), re.MULTILINE)
    return [Line(int(number), *rest.split(" | ")) for number, rest in found]


def line_of(fault: str) -> Line:
    """Return the only line of a fault, by the beginning of its words."""
    (found,) = [line for line in lines() if line.fault.startswith(fault)]
    return found


def claims() -> Iterator[tuple[int, str]]:
    """Yield the rows that tests claim, each with the file of the test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "row":
                yield from ((ast.literal_eval(number), path.name) for number in node.args)
