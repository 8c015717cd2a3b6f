"""The words of the house: names that a reader of HTTP clients, Kubernetes and Prometheus knows, each for one thing."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

JOB = Path(__file__).parents[1] / "job"
FILES = {path.relative_to(JOB.parent).as_posix(): path for path in sorted(JOB.rglob("*.py"))}
MOST_FILES = 80
"""Seven more than the parts of the first edition: `lists`, `tables` and `rows` read them, `structure` what is no
picture, `advice` is what the terminal and any report show alike, `display` decides on colours for all of them, and
`status` reads what runs have left and writes nothing; and nine for the report, which no other part imports unless it
is asked for."""
DIALECT = (
    "told lane meaning refusal verdict sinks upkeep course face farewell excused doubted"
    " ticket gate news draft audit tally excuse meanings lanes judged"
).split()
"""Words of a dialect that only this house spoke: none is a name, nor a part of one between underscores."""
CONTRACT = {"UNIFORM_REFUSAL"}
"""Names that users see, and that therefore stay: the reason `uniform_refusal`."""
VAGUE_FIRST_WORDS = {"Give", "Gives", "Tell", "Tells", "Say", "Says", "Let", "Lets", "Whether", "Who", "What", "Whose"}
"""How no docstring of a function begins: the first word is a verb that says what the function does for its caller."""


@cache
def tree(file: str) -> ast.Module:
    return ast.parse(FILES[file].read_text("utf-8"))


def names(module: ast.AST) -> Iterator[str]:
    """Yield every name that a module gives or uses."""
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


def words(name: str) -> set[str]:
    """Return the words of a name, in lower case: `RetryBudget` and `retry_budget` are the same two."""
    return set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))


def docstrings(file: str) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def test_names_are_split_into_words() -> None:
    """The rules below see a word in any place of a name, and nothing in a word that only contains it."""
    assert words("_RetryBudget_told") == {"", "retry", "budget", "told"}
    assert "gate" not in words("aggregate")


@pytest.mark.parametrize("file", FILES)
def test_no_name_is_of_a_dialect(file: str) -> None:
    """Every name is a word that the field uses."""
    found = {name for name in names(tree(file)) if words(name) & set(DIALECT)}
    assert found - CONTRACT == set()
    assert not set(Path(file).with_suffix("").parts) & set(DIALECT)


@pytest.mark.parametrize("file", FILES)
def test_the_book_is_called_by_its_name(file: str) -> None:
    """No text of a module calls Fluent Python the seed."""
    assert "the seed" not in FILES[file].read_text("utf-8").lower()


@pytest.mark.parametrize("file", FILES)
def test_docstrings_begin_with_what_happens(file: str) -> None:
    """A function's docstring begins with a verb such as Return, Raise, Yield or Write."""
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]
    first = {(ast.get_docstring(function) or "-").split()[0]: function.name for function in functions}
    assert {name: word for word, name in first.items() if word in VAGUE_FIRST_WORDS} == {}


def test_each_name_is_of_one_class_and_one_module() -> None:
    """No two modules and no two classes have one name."""
    modules = Counter(path.stem for path in FILES.values() if not path.stem.startswith("__"))
    packages = Counter(path.parent.name for path in FILES.values() if path.stem == "__init__")
    classes = Counter(node.name for file in FILES for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef))
    assert [name for name, count in (modules + packages).items() if count > 1] == []
    assert [name for name, count in classes.items() if count > 1] == []


def test_the_house_has_few_rooms() -> None:
    """A reader can hold the list of files in mind."""
    assert len(FILES) <= MOST_FILES


def is_packing(node: ast.AST) -> bool:
    """Return whether an assignment gives several names several values in one statement."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    return any(isinstance(target, ast.Tuple) and len(target.elts) > 1 for target in node.targets)


def adds_truth(node: ast.AST) -> bool:
    """Return whether a statement adds a condition to a number."""
    if not isinstance(node, ast.AugAssign) or not isinstance(node.op, ast.Add):
        return False
    is_negation = isinstance(node.value, ast.UnaryOp) and isinstance(node.value.op, ast.Not)
    return is_negation or isinstance(node.value, ast.Compare | ast.BoolOp)


def is_puzzle(node: ast.AST) -> bool:
    """Return whether `and` and `or` stand side by side in one expression, to be read by precedence."""
    if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
        return False
    return any(isinstance(value, ast.BoolOp) and isinstance(value.op, ast.And) for value in node.values)


SAMPLE = """
a, b = x, y
self.a, self.b = 1, 2
head, tail = split(x)
a = b, c
count += x is y
count += not x
count += 1
both = a and b or c
"""


def test_the_rules_see_what_they_are_for() -> None:
    """Packings, sums of conditions and puzzles are found, and nothing else is."""
    nodes = list(ast.walk(ast.parse(SAMPLE)))
    assert [sum(map(rule, nodes)) for rule in (is_packing, adds_truth, is_puzzle)] == [2, 2, 1]


@pytest.mark.parametrize("file", FILES)
def test_statements_are_written_out(file: str) -> None:
    """One assignment a line, no condition added to a number, no `and` within an `or`."""
    lines = {
        rule.__name__: [getattr(node, "lineno", 0) for node in ast.walk(tree(file)) if rule(node)]
        for rule in (is_packing, adds_truth, is_puzzle)
    }
    assert lines == {"is_packing": [], "adds_truth": [], "is_puzzle": []}
