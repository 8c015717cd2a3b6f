"""Runs the programs that these tests use, and reads their output."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from command import defaults

ROOT = Path(__file__).parents[2]
CONTAINERS = {**os.environ, "CONTAINERS_CONF": str(ROOT / ".ci" / "containers.conf")}
HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""The options of podman for the pod's security context: a read-only root, no other writable path, no privileges."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the checkout to its end."""
    return subprocess.run(command, cwd=ROOT, env=CONTAINERS, check=False, capture_output=True, text=True)


def output(*command: str) -> str:
    """Return what a program printed; it must succeed."""
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run podman with this project's settings."""
    return run("podman", *arguments)


def flagjob(settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the job of this checkout with these settings only."""
    command = [sys.executable, "-m", "job", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**defaults, **settings}, check=False, capture_output=True, text=True)


def events(stdout: str, name: str) -> list[Mapping[str, object]]:
    """Return the log events of one name; every line must be a JSON object."""
    return [event for event in map(json.loads, stdout.splitlines()) if event["event"] == name]


def result_fields(stdout: str, *fields: str) -> list[tuple[object, ...]]:
    """Return these fields of every result line, sorted."""
    return sorted((tuple(event[field] for field in fields) for event in events(stdout, "result")), key=repr)


def setting_flags(settings: Mapping[str, str]) -> Sequence[str]:
    """Return environment variables as arguments of `podman run`."""
    return [word for name, value in {**defaults, **settings}.items() for word in ("--env", f"{name}={value}")]


def files_in(volume: str) -> dict[str, bytes]:
    """Return the files in a volume by name, without flagjob's own."""
    root = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", volume).stdout.strip())
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file() and path.name != "SHA256SUMS"}
