"""Two hundred thousand files, one in twenty with a fault: no leak, and equal counts on both sides."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from threading import Event, Thread
from time import monotonic

import pytest
from command import environment
from rows import row

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
CODES = 200_000
A_CODE_BYTES = 220
"""The memory for a known code: at most 110 bytes for its entry among the codes seen, at most 48 for the position of its
manifest line, and the smaller tables that both outgrew, which the allocator keeps."""
MAX_EXTRA_BYTES = 5_000_000
SAMPLE_SECONDS = 0.5
TESTS = Path(__file__).parents[1]


@contextmanager
def origin(home: Path) -> Iterator[int]:
    """Run the origin in a process of its own, on a listening socket; yield its port."""
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        command = [sys.executable, "-m", "e2e.soak_origin", str(listener.fileno()), str(home / "requests")]
        with subprocess.Popen(command, env=environ, pass_fds=[listener.fileno()]) as process:
            try:
                yield int(listener.getsockname()[1])
            finally:
                process.terminate()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample(pid: int, samples: list[int], enough: Event) -> None:
    """Measure a process at intervals; an unreaped child that ended counts 0."""
    while not enough.wait(SAMPLE_SECONDS):
        samples.append(resident_bytes(pid))


def memory_of_a_run(home: Path, url: str) -> list[int]:
    """Run the job, with its output into a file; return its memory each half second. It must succeed."""
    settings = {"FLAGJOB_URL": url, "FLAGJOB_MAX_NOT_FOUND": "1%"}
    where = {"FLAGJOB_CODES_FILE": str(home / "codes"), "FLAGJOB_DEST": str(home / "out")}
    samples, enough = list[int](), Event()
    command, environ = [sys.executable, "-m", "job"], environment(**where, **settings)
    with (home / "stdout").open("wb") as stdout, subprocess.Popen(command, stdout=stdout, env=environ) as process:
        watch = Thread(target=sample, args=[process.pid, samples, enough])
        watch.start()
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            enough.set()
            watch.join()
            process.kill()
    assert process.returncode == 0
    return [found for found in samples if found]


@dataclass(frozen=True)
class ResultTotals:
    """The totals of the result lines of a run."""

    lines: int
    codes: int
    attempts: int
    statuses: Counter[str]


def result_totals(stdout: Path) -> ResultTotals:
    """Count the result lines of a run."""
    codes, attempts, statuses = set[str](), 0, Counter[str]()
    with stdout.open("rb") as lines:
        for line in map(json.loads, lines):
            if line["event"] == "result":
                codes.add(line["code"])
                attempts += line["attempts"]
                statuses[line["status"]] += 1
    return ResultTotals(statuses.total(), len(codes), attempts, statuses)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory in memory: a disk would be busy long after the files are deleted."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@row(20, 48)
def test_two_hundred_thousand_files(home: Path) -> None:
    """Every code has one line, the origin counts the same, and memory grows only by the cost of a known code."""
    (home / "codes").write_text("\n".join(f"c{number:07}" for number in range(CODES)))
    began = monotonic()
    with origin(home) as port:
        samples = memory_of_a_run(home, f"http://127.0.0.1:{port}/{{cc}}.gif")
    took = monotonic() - began
    results, requested = result_totals(home / "stdout"), Counter((home / "requests").read_text().split()[1::2])
    print(f"{took:.0f} s, {CODES / took:.0f} files a second, {results.statuses}, {requested}")
    assert results.lines == CODES == results.codes
    each = CODES // 100
    assert requested == {"ok": 98 * each, "slow": each, "busy": each, "cut": each, "reset": each, "missing": each}
    assert results.statuses == {"ok": 99 * each, "not_found": each}
    assert results.attempts == requested.total()
    assert len(list((home / "out").glob("*.gif"))) == results.statuses["ok"]
    assert_memory_is_flat(samples)


def assert_memory_is_flat(samples: list[int]) -> None:
    tenth = len(samples) // 10
    first, last = mean(samples[:tenth]), mean(samples[-tenth:])
    print(f"{first / 1e6:.1f} MB in the first tenth, {last / 1e6:.1f} in the last, {max(samples) / 1e6:.1f} at most")
    assert tenth > 2
    assert last - first <= A_CODE_BYTES * 9 * CODES // 10 + MAX_EXTRA_BYTES
