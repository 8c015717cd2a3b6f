"""Run the job under whatever the system offers to limit it, watch what it says, and measure what it took."""

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
"""An interpreter of its own that runs the job and tells its peak: a child's count begins with its parent's memory."""

Event = dict[str, Any]
"""A line of the job's output."""


@dataclass(frozen=True)
class Ended(Done):
    """How a job ended, what it said, and what it took."""

    seconds: float
    peak_bytes: int

    @property
    def codes(self) -> list[str]:
        """The code of each result line, in their order."""
        return [line["code"] for line in self.named("result")]


@dataclass
class Live:
    """A job that may still run, in a process group of its own."""

    process: "subprocess.Popen[bytes]"
    home: Path
    began: float = field(default_factory=monotonic)
    lines: list[bytes] = field(default_factory=list)

    def until(self, wanted: Callable[[Event], bool], times: int = 1) -> Event:
        """Read what the job says until that many lines were such as are wanted; give the last of them."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            times -= wanted(event := json.loads(line))
            if not times:
                return dict(event)
        raise AssertionError(f"the job ended first: {self.lines[-1:]}")

    def until_event(self, name: str) -> Event:
        """Read what the job says until an event of that name."""
        return self.until(lambda event: bool(event["event"] == name))

    @property
    def pid(self) -> int:
        """The job's own process, behind those that it is run under."""
        pid = self.process.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def signal(self, number: int) -> None:
        """Send the job a signal, and nobody else."""
        os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for the end."""
        assert self.process.stdout
        stdout = b"".join([*self.lines, *self.process.stdout])
        code = self.process.wait()
        stderr, peak = (self.home / "stderr").read_text(), (self.home / "peak").read_text()
        return Ended(code, stdout, stderr, monotonic() - self.began, int(peak))


@contextmanager
def live(home: Path, settings: Mapping[str, str], under: Sequence[str] = ()) -> Iterator[Live]:
    """Start the job with these settings, under a command that runs another one; it is killed if it hangs."""
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
            yield Live(process, home)
        finally:
            timer.cancel()
            _kill_all(process.pid)


def ran(home: Path, settings: Mapping[str, str], under: Sequence[str] = ()) -> Ended:
    """Run the job to its end."""
    with live(home, settings, under) as job:
        return job.end()


def _kill_all(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
