"""The module map: layers, the owner of each outside library, and the lock files."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOB = ROOT / "job"

LAYERS: list[set[str]] = [
    {"errors", "template", "file_table", "redaction", "structure"},
    {"cancellation", "atomic_write", "layout", "advice", "display"},
    {"body"},
    {"model"},
    {"rows"},
    {"tables"},
    {"settings", "codes", "validation", "redirects", "revalidation", "exit_code", "progress"},
    {"transport", "lists"},
    {"client"},
    {"resilience"},
    {"storage", "manifest", "pool", "log", "metrics", "demo_server"},
    {"greenlet_executor", "downloader", "inputs", "maintenance", "report"},
    {"simulate", "status"},
    {"destination", "reporting"},
    {"wiring"},
    {"run"},
    {"cli"},
    {"__main__"},
]
"""Modules and packages, lowest first: each imports only from the layers below its own."""
DOORS = {
    "requests": {"transport", "client"},
    "pycurl": {"transport"},
    "tenacity": {"resilience"},
    "structlog": {"log"},
    "orjson": {"log", "manifest"},
    "obstore": {"storage"},
    "prometheus_client": {"metrics"},
    "tqdm": {"progress"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "argparse": {"settings"},
    "concurrent": {"pool", "greenlet_executor"},
    "greenlet": {"greenlet_executor"},
    "http.server": {"demo_server"},
    "signal": {"cli"},
    "socketserver": {"demo_server"},
}
"""Who may import a library: each outside one, and those of Python's own that shape a module."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(JOB.rglob("*.py"))}
LOCKS = sorted(ROOT.glob("*.lock"))
PIN = re.compile(r"([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==[0-9][0-9a-z.+!]*(?: ; [^#@]+?)?(?: --hash=sha256:[0-9a-f]{64})+")


def owner(file: str) -> str:
    """Return the module, or the package, that a file under job/ belongs to."""
    return Path(file).with_suffix("").parts[1]


def imported_names(source: str, file: str) -> set[str]:
    """Return every name that a source text imports, anywhere in it, dotted from the top."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = Path(file).parts[: -node.level] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def imported_by(file: str) -> set[str]:
    return imported_names(FILES[file].read_text("utf-8"), file)


def is_part_of(name: str, library: str) -> bool:
    return f"{name}.".startswith(f"{library}.")


def requirements(lock: Path) -> list[str]:
    """Return a lock file's requirements, each on one line."""
    return re.sub(r"\s*\\\n\s*", " ", lock.read_text("utf-8")).splitlines()


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("import requests.adapters as a, signal", {"requests.adapters", "signal"}),
        ("from job import codes, __version__", {"job.codes", "job.__version__"}),
        ("from job.storage.local import sync", {"job.storage.local.sync"}),
        ("from . import local", {"job.storage.local"}),
        ("from .local import sync", {"job.storage.local.sync"}),
        ("from ..model import Item", {"job.model.Item"}),
        ("def late():\n    import requests", {"requests"}),
    ],
)
def test_every_form_of_import_is_found(statement: str, names: set[str]) -> None:
    """An import is found in every form, and inside functions."""
    assert imported_names(statement, "job/storage/bucket.py") == names


def test_every_module_is_on_the_map() -> None:
    """Every module has a layer, and every module in the layers exists."""
    assert {owner(file) for file in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str) -> None:
    """A module imports from lower layers only; the files of a package may import each other."""
    own = {name.split(".")[1] for name in imported_by(file) if name.startswith("job.")}
    below = {name for name in RANK if RANK[name] < RANK.get(owner(file), 0)}
    assert own - below - {owner(file), "__version__"} == set()


@pytest.mark.parametrize("file", FILES)
def test_each_library_has_one_door(file: str) -> None:
    """A library is imported only by the modules that the map allows."""
    names = imported_by(file)
    wrong = {
        name
        for name in names
        for library, doors in DOORS.items()
        if is_part_of(name, library) and owner(file) not in doors
    }
    assert wrong == set()


@pytest.mark.parametrize("file", FILES)
def test_no_library_comes_in_without_a_door(file: str) -> None:
    """Every third-party library that is imported is in DOORS."""
    known = {"job", "_typeshed", *sys.stdlib_module_names, *DOORS}
    assert {name.split(".")[0] for name in imported_by(file)} - known == set()


@pytest.mark.parametrize("file", FILES)
def test_every_module_opens_with_one_sentence(file: str) -> None:
    """The docstring of every module begins with one sentence."""
    first = (ast.get_docstring(ast.parse(FILES[file].read_text("utf-8"))) or "").split("\n\n")[0]
    assert re.fullmatch(r"(?:[^.\n]|\.(?=\S))+\.", first), first


def test_urllib3_future_is_not_installed() -> None:
    """urllib3-future, whose files replace those of urllib3, is not installed."""
    with pytest.raises(PackageNotFoundError):
        distribution("urllib3-future")
    assert packages_distributions()["urllib3"] == ["urllib3"]


def test_lock_files_exist() -> None:
    """The lock files of the program and of its development exist."""
    assert {"requirements.lock", "requirements-dev.lock"} <= {lock.name for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_files_pin_everything_by_hash(lock: Path) -> None:
    """Every line of a lock file is one version of one package with its hashes."""
    assert [line for line in requirements(lock) if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_files_name_no_host(lock: Path) -> None:
    """No lock file names a package index or any other host."""
    assert re.findall(r"\S*(?:://|index-url|find-links|trusted-host)\S*", lock.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("requirements.lock", ["", "origin", "objects"]),
        ("requirements-report.lock", ["report"]),
        ("requirements-dev.lock", ["", "origin", "objects", "report"]),
    ],
)
def test_lock_files_hold_every_dependency(lock: str, groups: list[str]) -> None:
    """Every dependency in pyproject.toml, and in its extras, is in the lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted = [text for group in groups for text in extras[group]]
    names = {re.split(r"[^A-Za-z0-9._-]", text)[0].lower() for text in wanted}
    locked = {found[1] for line in requirements(ROOT / lock) if (found := PIN.fullmatch(line))}
    assert names - locked == set()
