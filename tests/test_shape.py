"""The size budgets of functions, modules and test doubles."""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MEDIAN_LINES, NINETIETH_LINES, MODULE_LINES, MOCKS_PER_TEST = 8, 25, 400, 0.1
LIMITS = {"code lines": 50, "branches": 10, "nesting": 3, "positional parameters": 5, "untyped": 0}

Definition = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Definition
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.Match)
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_FAKES = {"Mock", "MagicMock", "AsyncMock", "create_autospec", "patch"}


class Function(NamedTuple):
    """A function, its location, and its measures by the names of LIMITS."""

    location: str
    measures: dict[str, int]


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no blank line, comment or docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def branches(function: ast.AST) -> int:
    """Return how many ways lead through a function: one, and one more for each decision."""
    nodes = list(ast.walk(function))
    decisions = sum(isinstance(node, _BRANCHES) for node in nodes)
    conditions = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return 1 + decisions + conditions + sum(1 + len(n.ifs) for n in nodes if isinstance(n, ast.comprehension))


def nesting(node: ast.AST) -> int:
    """Return the depth of nested blocks; an inner function counts separately."""
    inner = (n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.ClassDef | Definition))
    return max((nesting(child) + isinstance(child, _BLOCKS) for child in inner), default=0)


def untyped(function: Definition) -> int:
    """Return how many parameters have no type, plus one if the return type is missing."""
    given = function.args
    events = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    missing = [p for p in events if p.annotation is None and p.arg not in {"self", "cls"}]
    return len(missing) + (function.returns is None)


def functions(source: str, file: str) -> Iterator[Function]:
    """Yield every function and method of a source text, measured."""
    code = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Definition):
            measures = {
                "code lines": len(code & set(range(node.lineno, (node.end_lineno or 0) + 1))),
                "branches": branches(node),
                "nesting": nesting(node),
                "positional parameters": len(node.args.posonlyargs) + len(node.args.args),
                "untyped": untyped(node),
            }
            yield Function(f"{file}:{node.lineno} {node.name}", measures)


def count_fakes(source: str) -> int:
    """Return how often a test replaces or fakes a part of the program or of Python."""
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sum(name.startswith("monkeypatch.") or not _FAKES.isdisjoint(name.split(".")) for name in calls)


@cache
def sources(directory: str) -> dict[str, str]:
    """Return every Python file under a directory, by its path from the root."""
    found = sorted((ROOT / directory).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in found}


@cache
def all_functions() -> list[Function]:
    return [function for file, source in sources("job").items() for function in functions(source, file)]


def list_longest() -> str:
    by_length = sorted(all_functions(), key=lambda function: -function.measures["code lines"])
    return "\n".join(
        f"{function.location}: {function.measures['code lines']} code lines" for function in by_length[:20]
    )


SAMPLE = '''
class Sample:
    """Not code."""

    @property
    def one(self, a, /, b: int, *rest, c=1) -> int:
        """Not code
        either."""
        # nor this

        for x in range(b):  # 1
            if x and a or c:  # 3
                return [y for y in "two\\
lines" if y]  # 2

        def inner(**more): ...
        return 1 if a else 2  # 1
'''


def test_the_measures_are_right() -> None:
    """A sample whose sizes are known is measured correctly, or the other tests here would prove nothing."""
    assert list(functions(SAMPLE, "sample.py")) == [
        Function(
            "sample.py:6 one",
            {"code lines": 7, "branches": 8, "nesting": 2, "positional parameters": 3, "untyped": 3},
        ),
        Function(
            "sample.py:16 inner",
            {"code lines": 1, "branches": 1, "nesting": 0, "positional parameters": 0, "untyped": 2},
        ),
    ]
    assert count_fakes("mock.Mock(); patch.object(a, 'b'); monkeypatch.setenv('A', 'b'); ok(patched); Mocked()") == 3


@pytest.mark.parametrize("measure", LIMITS)
def test_no_function_is_over_a_limit(measure: str) -> None:
    """Every function is within the limits."""
    limit = LIMITS[measure]
    sizes = [(function.location, function.measures[measure]) for function in all_functions()]
    over = [f"{location}: {size} {measure}, at most {limit}" for location, size in sizes if size > limit]
    assert over == [], "\n".join(over)


def test_the_usual_function_is_short() -> None:
    """Half of the functions have at most eight lines, and nine tenths at most twenty-five."""
    lengths = [function.measures["code lines"] for function in all_functions()]
    assert median(lengths) <= MEDIAN_LINES, list_longest()
    assert quantiles(lengths, n=10, method="inclusive")[-1] <= NINETIETH_LINES, list_longest()


def test_no_module_is_too_long() -> None:
    """Every module has at most 400 lines."""
    lengths = {file: len(source.splitlines()) for file, source in sources("job").items()}
    over = [f"{file}: {lines} lines, at most {MODULE_LINES}" for file, lines in lengths.items() if lines > MODULE_LINES]
    assert over == [], "\n".join(over)


def test_tests_fake_little() -> None:
    """Hardly any test replaces a part of the program or of Python."""
    counts = {file: count_fakes(source) for file, source in sources("tests").items()}
    tests = sum(source.count("\ndef test_") for source in sources("tests").values())
    assert sum(counts.values()) / tests <= MOCKS_PER_TEST, {file: count for file, count in counts.items() if count}
