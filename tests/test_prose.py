"""An offline checker of English (Harper) finds no error in the documents and in the messages of the program."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import harper
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = sorted((ROOT / "job").rglob("*.py"))
WORDS = Path(__file__).with_name("prose_words.txt")
"""What Harper's dictionary lacks: names of programs, formats, errors and Kubernetes objects, and terms of the field."""
RULES_OFF = {
    "CommaFixes": "team=maps,env=prod is one text",
    "CompoundNouns": "`file name`, `host name` and `lower case` are two words in the RFCs",
    "Dashes": "the documents are ASCII",
    "ExpandControl": "Ctrl-C is a key",
    "ExpandMemoryShorthands": "MB and MiB are units",
    "ExpandTimeShorthands": "s and ms are units",
    "MassNouns": "a content coding is countable in RFC 9110",
    "MergeWords": "the unit s is a word",
    "MissingPreposition": "it takes relative clauses without `that` for errors",
    "MissingTo": "a try is a noun here",
    "NumericRangeEnDash": "the documents are ASCII",
    "OkToOkay": "`ok` is a status",
    "OneOfTheSingular": "it does not know `one of the two`",
    "OrthographicConsistency": "CronJob and SlowDown are written as their owners write them",
    "OutOfDate": "it wants hyphens where nothing follows that they would join",
    "OxfordComma": "short lists of single words have none",
    "PhrasalVerbAsCompoundNoun": "rollback is a command",
    "SentenceCapitalization": "flagjob is in lower case, and cells and messages begin in lower case",
    "Spaces": "dots and dashes stand for themselves in lists of characters",
    "SplitWords": "it splits names; unknown words are the business of SpellCheck",
    "ThatThan": "it takes `a header that` for a comparison",
    "UseEllipsisCharacter": "the documents are ASCII",
    "UseTitleCase": "headings are in sentence case",
}
"""The rules of Harper that do not fit here, each with the reason."""
CODE = re.compile(
    r"""\[[\w./-]+\]\([^)]*\)   # a link that is called by its path
    | (?<!\w)--?[a-z][\w-]*     # an option
    | \{[^}]*\}                 # a placeholder
    | \b\w+_\w+\b               # a name of the code
    | \S+://\S+ | \S+@sha\S+    # an address
    | <[^>]+>""",
    re.VERBOSE,
)

FUNCTION_WORDS = r"\b(a|an|and|are|as|at|be|by|cannot|for|from|in|is|must|no|not|of|on|or|that|the|to|was|with)\b"
"""What a message has, but no list of codes, headers or options."""


@cache
def linter() -> harper.Linter:
    """Return the checker, with our words and without the rules that do not fit; it takes a second to make."""
    made = harper.Linter(harper.Dialect.BRITISH)
    made.set_lint_config({**made.get_lint_config(), **dict.fromkeys(RULES_OFF, False)})
    made.import_words(WORDS.read_text("utf-8").split())
    return made


def findings(text: str) -> list[str]:
    """Return what the checker finds in a text in Markdown: the rule, the words and what it says of them."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    plain = [piece if number % 2 else CODE.sub("`x`", piece) for number, piece in enumerate(pieces)]
    rules = linter().organized_lints("".join(plain)).items()
    return [f"{rule}: {lint.problem_text!r}: {lint.message}" for rule, lints in rules for lint in lints]


def prose(text: str) -> str:
    """Return a document without its blocks of code; each cell of a table is a paragraph."""
    without_blocks = re.sub(r"^( *)```.*?^ *```$|^    .*$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = without_blocks.splitlines()
    return "\n".join(line.strip("|").replace(" | ", "\n\n") + "\n" if line.startswith("|") else line for line in lines)


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each literal that reads as a message: three words, one of them no name, no pattern."""
    nodes = list(ast.walk(tree))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            values = [part.value if isinstance(part, ast.Constant) else "`x`" for part in node.values]
            text = "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            text = node.value
        else:
            continue
        if len(text.split()) > 2 and "\\" not in text and re.search(FUNCTION_WORDS, text):
            yield node.lineno, text.replace("\n  ", "\n\n")  # lines of a list, each by itself


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_no_errors(path: Path) -> None:
    """No document has an error of spelling or grammar, or a sentence of more than forty words."""
    assert findings(prose(path.read_text("utf-8"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_messages_have_no_errors(path: Path) -> None:
    """No help text, fault, event or hint has an error."""
    found = {line: findings(text) for line, text in literals(ast.parse(path.read_text("utf-8")))}
    assert {line: errors for line, errors in found.items() if errors} == {}


def test_the_checker_sees_errors() -> None:
    """It finds a misspelt word, a wrong verb and a repeated word, in paragraphs and cells, and reads no code."""
    assert findings(prose("The run have ended and and left its fiels.\n\n```sh\nteh\n```\n\n    teh\n\n`teh`")) != []
    text = "| a | The filez are there |\n|---|---|\n"
    assert [finding.split(":")[0] for finding in findings(prose(text))] == ["SpellCheck"]
    assert findings(prose("```sh\nteh filez\n```\n\n    teh filez\n\nThe file `teh` is `filez`.")) == []


def test_every_exception_is_needed() -> None:
    """Each rule that is off exists, and each word of the list stands somewhere; the list is sorted."""
    words = WORDS.read_text("utf-8").split()
    texts = "\n".join(path.read_text("utf-8") for path in [*DOCUMENTS, *MODULES])
    assert set(RULES_OFF) <= set(harper.Linter().get_lint_config())
    assert [word for word in words if word not in texts] == []
    assert words == sorted(words, key=lambda word: (word.lower(), word))
    assert len(words) == len(set(words))
