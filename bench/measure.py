"""Measure commands from outside: wall time, processor time, context switches, peak memory."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_SECONDS = 7200
_LAUNCHER = Path(__file__).with_name("launch.py")
_LAST_BYTES = 800


class BenchError(Exception):
    """A run that did not do what it was started for, or a machine that cannot run the benchmark."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, and what it has in its environment beside what all commands have."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run used, all its processes added up, over `files` files (0: none were counted)."""

    wall_seconds: float
    cpu_seconds: float
    switches: int
    rss_bytes: int
    files: int = 0
    note: str = ""


def measure(commands: list[Command], folder: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> Usage:
    """Run the commands at the same time in `folder`, which gets their output.

    Raise BenchError unless every one ends in time with exit code 0.
    """
    order = json.dumps([{"argv": command.argv, "env": _environment(folder) | command.env} for command in commands])
    argv = [sys.executable, "-I", "-S", os.fspath(_LAUNCHER)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, cwd=folder, start_new_session=True, text=True) as launcher:
        try:
            output, _ = launcher.communicate(order, timeout=timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"no end after {timeout_seconds} s: {commands[0].argv}") from error
        finally:
            # The launcher leads a process group of its own: this ends it and what it started, and nothing else.
            if launcher.returncode is None:
                os.killpg(launcher.pid, signal.SIGKILL)
    if launcher.returncode:
        raise BenchError(f"cannot be started: {commands[0].argv}")
    report = json.loads(output)
    codes = report.pop("exit_codes")
    if any(codes):
        raise BenchError(f"exit codes {codes}: {commands[0].argv}\n{_last_words(folder)}")
    return Usage(**report)


def _environment(folder: Path) -> dict[str, str]:
    """Return what every command has in its environment: no proxy, no setting of the user's."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.fspath(folder), "LANG": "C.UTF-8"}


def _last_words(folder: Path) -> str:
    """Return the end of what the commands wrote."""
    outputs = sorted(folder.glob("std*.*"))
    return "\n".join(f"{path.name}: ...{path.read_text('utf-8', 'replace')[-_LAST_BYTES:]}" for path in outputs)
