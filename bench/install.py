"""Installations of flagjob as users have them: an environment for each, with the locked requirements only."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import BenchError

ROOT = Path(__file__).parents[1]
_PIP = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def install(source: Path, home: Path) -> Path:
    """Install the flagjob of a source tree below `home`; return the program's path.

    The wheel is built by this environment's flit_core, so that the new one holds nothing but what runs.
    """
    environment = home / "venv"
    wheels = home / "wheels"
    python = environment / "bin" / "python"
    wheels.mkdir(parents=True)
    _run([sys.executable, "-m", "venv", environment])
    _run([python, *_PIP, "--require-hashes", "--only-binary=:all:", "-r", source / "requirements.lock"])
    _run([sys.executable, "-m", "flit_core.wheel", source, "--outdir", wheels])
    _run([python, *_PIP, "--no-deps", *wheels.glob("*.whl")])
    return environment / "bin" / "flagjob"


@contextmanager
def checkout(revision: str, home: Path) -> Iterator[Path]:
    """Check a revision out into a directory below `home`, for as long as the context lasts."""
    tree = home / "tree"
    _run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision])
    try:
        yield tree
    finally:
        _run(["git", "-C", ROOT, "worktree", "remove", "--force", tree])


def resolve(revision: str) -> str:
    """Return the short name of a revision; raise BenchError if the repository has none of that name."""
    name = _git("rev-parse", "--verify", "--quiet", "--short", f"{revision}^{{commit}}")
    if not name:
        raise BenchError(f"BASE={revision}: the repository has no such revision")
    return name


def working_revision() -> str:
    """Return the short name of the commit that is checked out, with a plus sign if files other than results differ."""
    changes = _git("status", "--porcelain", "--", ".", ":!bench/RESULTS.md")
    return _git("rev-parse", "--short", "HEAD") + ("+" if changes else "") or "unknown"


def _git(*arguments: str) -> str:
    """Return what git prints, or an empty text where it fails or is not installed."""
    if not shutil.which("git"):
        return ""
    argv = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def _run(argv: list[str | Path]) -> None:
    """Run a command to its good end; raise BenchError with its output otherwise."""
    done = subprocess.run([os.fspath(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
