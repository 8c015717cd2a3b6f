"""Runs the job under the limits that the system offers, reads its log while it runs, and measures it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

from command import Done, environment

HANGS_SECONDS = 120
MEASURED = """
import pathlib, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(code if code >= 0 else 128 - code)
"""
"""An interpreter that runs the job and writes its peak memory: a child's peak begins with its parent's memory."""

Event = dict[str, Any]
"""A line of the job's output."""


@dataclass(frozen=True)
class FinishedJob(Done):
    """The exit code, the output and the cost of a job that has ended."""

    seconds: float
    peak_bytes: int

    @property
    def codes(self) -> list[str]:
        """The code of each result line, in order."""
        return [line["code"] for line in self.events_named("result")]


@dataclass
class RunningJob:
    """A job that may still run, in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    home: Path
    began: float = field(default_factory=monotonic)
    lines: list[bytes] = field(default_factory=list)

    def read_until(self, matches: Callable[[Event], bool], times: int = 1) -> Event:
        """Read the output until that many lines matched; return the last of them."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            times -= matches(event := json.loads(line))
            if not times:
                return dict(event)
        raise AssertionError(f"the job ended first: {self.lines[-1:]}")

    def read_until_event(self, name: str) -> Event:
        """Read the output until an event of that name; return it."""
        return self.read_until(lambda event: bool(event["event"] == name))

    @property
    def pid(self) -> int:
        """The job's own process ID, below the commands that it runs under."""
        pid = self.process.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def signal(self, number: int) -> None:
        """Send a signal to the job only."""
        os.kill(self.pid, number)

    def wait(self) -> FinishedJob:
        """Wait for the end of the job; return what it printed and cost."""
        assert self.process.stdout
        stdout = b"".join([*self.lines, *self.process.stdout])
        code = self.process.wait()
        stderr, peak = (self.home / "stderr").read_text(), (self.home / "peak").read_text()
        return FinishedJob(code, stdout, stderr, monotonic() - self.began, int(peak))


@contextmanager
def start(home: Path, settings: Mapping[str, str], under: Sequence[str] = ()) -> Iterator[RunningJob]:
    """Start the job with these settings, under a command that runs another one; kill it if it hangs."""
    command = [sys.executable, "-I", "-c", MEASURED, str(home / "peak"), *under, sys.executable, "-m", "job"]
    (home / "peak").unlink(missing_ok=True)
    with (
        (home / "stderr").open("wb") as stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=home,
            env=environment(**settings),
            start_new_session=True,
        ) as process,
    ):
        timer = Timer(HANGS_SECONDS, _kill_all, [process.pid])
        timer.start()
        try:
            yield RunningJob(process, home)
        finally:
            timer.cancel()
            _kill_all(process.pid)


def run_to_end(home: Path, settings: Mapping[str, str], under: Sequence[str] = ()) -> FinishedJob:
    """Run the job to its end."""
    with start(home, settings, under) as job:
        return job.wait()


def _kill_all(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
