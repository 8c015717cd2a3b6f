"""Runs that get a signal at the worst moments."""

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest
from images import GIF
from processor import MAX_BUSY_SHARE, busy_share
from rows import row
from scripted import Answer, Request, ScriptedServer, Stall, Step

from e2e.live import FinishedJob, RunningJob, run_to_end, start
from e2e.namespaces import LOOK_UP, namespace
from e2e.programs import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
WORKERS = 30
CODES = WORKERS + 1000
LOOK_UPS = 20
"""A CurlMulti looks up so many names at once; each thread of its own has a look-up of its own."""
GONE_WITHIN_SECONDS = 10
"""A third of the time that Kubernetes leaves between SIGTERM and SIGKILL."""
FSYNC_DELAY = ROOT / "bench" / "fsync_delay.c"
PID_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass
class SwitchableOrigin:
    """Does the same step for every file; the step can be changed."""

    step: Step
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = ScriptedServer({f"/c{number:04}.gif": self._current_step for number in range(CODES)})

    def _current_step(self, _request: Request) -> Step:
        return self.step


@dataclass
class Job:
    """A job over many codes, to be run twice."""

    home: Path
    url: str

    @property
    def settings(self) -> dict[str, str]:
        (self.home / "codes").write_text("\n".join(f"c{number:04}" for number in range(CODES)))
        where = {"FLAGJOB_CODES_FILE": str(self.home / "codes"), "FLAGJOB_DEST": str(self.home / "out")}
        return {"FLAGJOB_URL": self.url, **where}


def assert_ends_in_time(job: RunningJob, number: int = signal.SIGTERM) -> FinishedJob:
    """Send a signal; the job must end in time, with that signal's exit code and a line for each code."""
    signalled_at = monotonic()
    job.signal(number)
    done = job.wait()
    took = monotonic() - signalled_at
    print(f"gone after {took:.1f} s: {done.summary['counts']}")
    assert took < GONE_WITHIN_SECONDS
    assert (done.code, done.stderr) == (128 + number, "")
    assert len(set(done.codes)) == CODES == len(done.codes)
    assert sum(done.summary["counts"].values()) == CODES
    assert {line["reason"] for line in done.events_named("result") if line["status"] == "cancelled"} == {"signal"}
    return done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("under", [(), PID_1], ids=["as any process", "as PID 1"])
@row(47)
def test_with_transfers_in_flight(tmp_path: Path, under: Sequence[str], number: int) -> None:
    """A run with 30 transfers in flight and 1,000 codes waiting ends in time, and the next one completes."""
    origin = SwitchableOrigin(Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nGIF89a"))
    with origin.server as server:
        job = Job(tmp_path, server.url("/{cc}.gif"))
        with start(tmp_path, job.settings, under) as running:
            server.wait_for(WORKERS)
            done = assert_ends_in_time(running, number)
        assert done.summary["counts"]["cancelled"] == CODES
        origin.step = Answer(200, body=GIF)
        assert_next_run_completes(job)


@row(47, 21)
def test_in_a_pause(tmp_path: Path) -> None:
    """A run that waits because of a Retry-After ends in time."""
    origin = SwitchableOrigin(Answer(429, {"Retry-After": "50"}))
    with origin.server as server:
        job = Job(tmp_path, server.url("/{cc}.gif"))
        with start(tmp_path, job.settings) as running:
            assert running.read_until_event("host_paused")["until_s"] >= 50
            assert_ends_in_time(running)
        origin.step = Answer(200, body=GIF)
        assert_next_run_completes(job)


@row(47, 14)
@pytest.mark.parametrize("under", [(), PID_1], ids=["as any process", "as PID 1"])
def test_while_a_name_server_is_silent(tmp_path: Path, under: Sequence[str]) -> None:
    """A name look-up, which cannot be interrupted, neither keeps the process nor keeps it busy."""
    with namespace() as machine:
        machine.count(*LOOK_UP)
        machine.drop(*LOOK_UP)
        job = Job(tmp_path, "http://nowhere.example/{cc}.gif")
        with start(tmp_path, job.settings, [*machine.command_prefix, *under]) as running:
            machine.wait_for_packets(LOOK_UPS)
            assert busy_share(running.pid, 2) <= MAX_BUSY_SHARE
            assert_ends_in_time(running)


@row(47)
def test_while_the_disk_is_slow(tmp_path: Path) -> None:
    """A flush that takes two seconds cannot be interrupted: its file is stored, and the others are cancelled."""
    library = tmp_path / "fsync_delay.so"
    compiler = ["cc", "-shared", "-fPIC", "-DDELAY_SECONDS=2", "-o", str(library), str(FSYNC_DELAY), "-ldl"]
    subprocess.run(compiler, check=True)
    origin = SwitchableOrigin(Answer(200, body=GIF))
    with origin.server as server:
        job = Job(tmp_path, server.url("/{cc}.gif"))
        with start(tmp_path, {**job.settings, "LD_PRELOAD": str(library)}) as running:
            server.wait_for(WORKERS)
            done = assert_ends_in_time(running)
        stored = [path.read_bytes() for path in (tmp_path / "out").glob("*.gif")]
        assert stored == [GIF] * done.summary["counts"]["ok"]
        assert_next_run_completes(job)


@row(47)
def test_a_second_signal(tmp_path: Path) -> None:
    """A second signal ends the drain at once."""
    with SwitchableOrigin(Stall()).server as server:
        job = Job(tmp_path, server.url("/{cc}.gif"))
        with start(tmp_path, {**job.settings, "FLAGJOB_SHUTDOWN_GRACE": "60"}) as running:
            server.wait_for(WORKERS)
            running.signal(signal.SIGTERM)
            running.read_until(lambda line: line.get("status") == "cancelled")
            signalled_at = monotonic()
            running.signal(signal.SIGINT)
            done = running.wait()
            took = monotonic() - signalled_at
    print(f"gone after {took:.2f} s")
    assert (done.code, done.stderr) == (130, "")
    assert took < 30  # half the grace period


def assert_next_run_completes(job: Job) -> None:
    done = run_to_end(job.home, job.settings)
    assert (done.code, done.stderr) == (0, "")
    assert done.summary["counts"]["ok"] + done.summary["counts"]["unchanged"] == CODES
    assert len(list((job.home / "out").glob("*.gif"))) == CODES
    assert list((job.home / "out" / ".flagjob" / "tmp").iterdir()) == []
