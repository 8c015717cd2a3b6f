"""Run the programs that these tests are about, and read what they print."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINERS = {**os.environ, "CONTAINERS_CONF": str(ROOT / ".ci" / "containers.conf")}
HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""podman's words for what the pod asks for: a root that cannot be written, nothing else writable, no privileges."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the checkout to its end."""
    return subprocess.run(command, cwd=ROOT, env=CONTAINERS, check=False, capture_output=True, text=True)


def output(*command: str) -> str:
    """Give what a program printed; it must have succeeded."""
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run podman with the settings that this project brings."""
    return run("podman", *arguments)


def flagjob(settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the job of this checkout with these settings and no others."""
    command = [sys.executable, "-m", "job", *arguments]
    return subprocess.run(command, cwd=ROOT, env=dict(settings), check=False, capture_output=True, text=True)


def events(stdout: str, name: str) -> list[Mapping[str, object]]:
    """Give the log events of one name; every line must be a JSON object."""
    return [event for event in map(json.loads, stdout.splitlines()) if event["event"] == name]


def totals(stdout: str, *fields: str) -> list[tuple[object, ...]]:
    """Give these fields of every result line, sorted."""
    return sorted((tuple(event[field] for field in fields) for event in events(stdout, "result")), key=repr)


def setting_flags(settings: Mapping[str, str]) -> Sequence[str]:
    """Give environment variables as arguments of `podman run`."""
    return [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]


def files_in(volume: str) -> dict[str, bytes]:
    """Give what the job left in a volume by name, its own directory apart."""
    root = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume).stdout.strip())
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file() and path.name != "SHA256SUMS"}
