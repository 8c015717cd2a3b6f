"""Runs the command as its users do, in a process of its own, and reads its output."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 50
_OURS = (
    "FLAGJOB_",
    "KUBERNETES_",
    "CLOUD_RUN_",
    "AWS_BATCH_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "NO_COLOR",
    "FORCE_COLOR",
)

defaults: dict[str, str] = {}
"""Settings of every job that a test runs, unless it sets them itself (conftest.py)."""


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process with these settings, without any variable that would change a run."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
    return {**kept, **defaults, **settings}


@dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line of standard output; each must be a JSON object."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def events_named(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.events if line["event"] == event]

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each code."""
        return {line["code"]: line["status"] for line in self.events_named("result")}

    @property
    def summary(self) -> dict[str, Any]:
        """The last line, which must be the summary."""
        last = self.events[-1]
        assert last["event"] == "run_finished", last
        return last


def flagjob(
    *arguments: str | bytes,
    cwd: Path,
    stdin: bytes = b"",
    settings: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Done:
    """Run the command to its end and return its output."""
    with start_flagjob(*arguments, cwd=cwd, settings=settings) as process:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
        return Done(process.returncode, stdout, stderr.decode())


def wait_until_asleep(process: "subprocess.Popen[bytes]") -> None:
    """Return when the main thread waits: its state is asleep, and it did not run for a while."""
    before: tuple[bytes, ...] | None = None
    while (now := _main_thread(process.pid)) != before or now[0] != b"S":
        before = now
        threading.Event().wait(0.05)


def wait_for_signal_handlers(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Return when the process has a handler for a signal (proc(5): SigCgt in status)."""
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 1 << number - 1:
        threading.Event().wait(0.02)


def _main_thread(pid: int) -> tuple[bytes, ...]:
    """Return the state and the ticks in user mode and in the kernel (proc(5): task/PID/stat)."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0], fields[11], fields[12]


@contextmanager
def start_flagjob(
    *arguments: str | bytes, cwd: Path, settings: Mapping[str, str] | None = None, pipe_bytes: int = -1
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the command; kill it at the end of the block if it is still running.

    Its output blocks when `pipe_bytes` of it are unread; -1 is the default of the system.
    """
    command: Sequence[str | bytes] = [sys.executable, "-m", "job", *arguments]
    pipe = subprocess.PIPE
    env = environment(**(settings or {}))
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env, pipesize=pipe_bytes
    ) as process:
        try:
            yield process
        finally:
            process.kill()
