"""What people install, and the workflow that publishes a version."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from e2e.programs import ROOT, output, run
from e2e.tree import branch, each, pick, text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
TWO_FLAGS = ("--server", "local", "CN", "IN", "--dest")
DEVELOPER_TOOLS = {"hypothesis", "mypy", "pytest", "ruff"}


def assert_downloads(program: Path, home: Path) -> None:
    """Let an installed command download two flags; fail if it does not."""
    subprocess.run([program, *TWO_FLAGS, home / "flags"], cwd=home, check=True, capture_output=True)
    assert {path.name for path in (home / "flags").glob("*.gif")} == {"cn.gif", "in.gif"}


def packages_of(python: Path) -> set[str]:
    """Return the names of the packages in an environment."""
    lines = output(str(python), "-m", "pip", "list", "--format", "freeze").splitlines()
    return {line.partition("==")[0] for line in lines}


def test_make_install(tmp_path: Path) -> None:
    """`make install` puts the command below PREFIX, from the lock file and without developer tools; twice is well."""
    for _ in range(2):
        output("make", "install", f"PREFIX={tmp_path / 'prefix'}")
    assert_downloads(tmp_path / "prefix" / "bin" / "flagjob", tmp_path)
    assert not packages_of(tmp_path / "prefix" / "share" / "flagjob" / "bin" / "python") & DEVELOPER_TOOLS


def test_pip_install(tmp_path: Path) -> None:
    """`pip install .` in a new environment gives the command; the built-in origin is an extra."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"
    output(str(programs / "python"), "-m", "pip", "install", "--quiet", f"{ROOT}[origin]")
    assert_downloads(programs / "flagjob", tmp_path)
    assert not packages_of(programs / "python") & DEVELOPER_TOOLS


def test_distributions(tmp_path: Path) -> None:
    """`make dist` builds a wheel and a source distribution with the program, its licence and its README."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    environment = Path(sys.executable).parents[1]
    made = ["make", "--old-file", f"{environment}/.installed", f"VENV={environment}", "dist"]
    subprocess.run(made, cwd=tmp_path / "clone", check=True, capture_output=True)
    (wheel,) = (tmp_path / "clone" / "dist").glob("*.whl")
    (source,) = (tmp_path / "clone" / "dist").glob("*.tar.gz")
    program = {str(path.relative_to(ROOT)) for path in (ROOT / "job").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert program <= names
        assert any(name.endswith("LICENSE") for name in names)
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert program | {"LICENSE", "README.md", "pyproject.toml"} <= inside


def test_workflow_passes_its_checkers() -> None:
    """The schema of workflows and an auditor of their security find no fault; yamllint neither."""
    files = (str(WORKFLOW),)
    for checker in (
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
        ("zizmor", "--offline", "--quiet", "--pedantic"),
        ("yamllint", "--strict", "--config-file", ".ci/yamllint.yaml"),
    ):
        checked = run(*checker, *files)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_workflow_tests_before_it_publishes() -> None:
    """Nothing is published before the tests have passed, each action is pinned, and only two jobs have an identity."""
    jobs = branch(yaml.safe_load(WORKFLOW.read_text()), "jobs")
    assert {name for name in jobs if "test" not in str(branch(jobs, name).get("needs"))} == {"test", "wheel"}
    assert {name for name in jobs if "id-token" in str(branch(jobs, name)["permissions"])} == {"image", "package-index"}
    steps = [step for name in jobs for step in each(branch(jobs, name), "steps")]
    actions = [text(step, "uses") for step in steps if pick(step, "uses")]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
