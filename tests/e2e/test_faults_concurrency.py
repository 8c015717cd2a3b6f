"""Thirty workers at an origin of four connections: a real nginx with `limit_conn`, and a server that resets others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from command import Done
from images import numbered_gif
from rows import row
from scripted import Answer, Request, ResettingServer, ScriptedServer, Step

from e2e.live import run_to_end, start
from e2e.namespaces import ANY_GIF, namespace
from e2e.nginx import POLL_SECONDS, serve

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
CODES = [f"c{number:03}" for number in range(250)]
SERVICE_SECONDS = 0.05
BORNE = 4
WORKERS = 30
HANG_SECONDS = 20
"""How long an answer is held at most, if what it waits for does not happen."""


class Crowd:
    """An origin's answers. Those to thirty workers wait until these have met, however slow the machine is.

    The first answer waits until all workers that the origin does not bear were turned away, and the others until
    `is_told`: a line tells that fewer requests are sent. Any thread may call `answer`.
    """

    def __init__(self) -> None:
        self.turned_away: Callable[[], int] = int
        self.is_told = threading.Event()
        self._lock = threading.Lock()
        self.let_pass()

    def let_pass(self) -> None:
        """Hold no answer."""
        self._is_first = False
        self.is_told.set()

    def hold(self) -> None:
        """Hold the answers from now on."""
        self.is_told.clear()
        self._is_first = True

    def answer(self, request: Request) -> Step:
        """Return a file after the time that an origin takes."""
        with self._lock:
            is_first = self._is_first
            self._is_first = False
        if is_first:
            self._wait_until_met()
        else:
            self.is_told.wait(HANG_SECONDS)
        threading.Event().wait(SERVICE_SECONDS)
        return Answer(body=numbered_gif(int(request.target[-7:-4])))

    def _wait_until_met(self) -> None:
        ends_at = monotonic() + HANG_SECONDS
        while self.turned_away() < WORKERS - BORNE and monotonic() < ends_at:
            threading.Event().wait(POLL_SECONDS)

    @property
    def script(self) -> dict[str, Callable[[Request], Step]]:
        """The paths of all files."""
        return {f"/{code}.gif": self.answer for code in CODES}


@contextmanager
def limited_nginx(home: Path, crowd: Crowd) -> Iterator[str]:
    """Yield a URL of a real nginx, which answers four requests at the same time, and the others with 503."""
    crowd.turned_away = lambda: (home / "access.log").read_text().count(" 503 ")
    with ScriptedServer(crowd.script) as upstream, serve(home, {}, upstream.url("")) as nginx:
        yield f"{nginx.url}/few"


@contextmanager
def resetting_server(_: Path, crowd: Crowd) -> Iterator[str]:
    """Yield a URL of a server that accepts four connections, and resets the others."""
    with ResettingServer(crowd.script, BORNE) as server:
        crowd.turned_away = lambda: server.resets
        yield server.url("")


def settings(home: Path, url: str, workers: int) -> dict[str, str]:
    """Return the settings of a run with so many workers into a directory of its own."""
    limits = {"FLAGJOB_URL": f"{url}/{{cc}}.gif", "FLAGJOB_WORKERS": str(workers)}
    return {**limits, "FLAGJOB_CODES": " ".join(CODES), "FLAGJOB_DEST": str(home / f"dest{workers}")}


def assert_complete(done: Done, dest: Path) -> None:
    """Assert that every item succeeded."""
    assert (done.code, done.summary["counts"]["ok"], done.summary["counts"]["error"]) == (0, 250, 0)
    assert {path.name: path.read_bytes() for path in dest.glob("*.gif")} == {
        f"{code}.gif": numbered_gif(int(code[1:])) for code in CODES
    }


@row(70)
@pytest.mark.parametrize("origin", [limited_nginx, resetting_server])
def test_thirty_workers_are_half_as_fast_as_four_at_worst(
    tmp_path: Path, origin: Callable[[Path, Crowd], AbstractContextManager[str]]
) -> None:
    """Thirty workers at an origin of four connections get everything, in at most twice the time of four workers."""
    crowd = Crowd()
    with origin(tmp_path, crowd) as url:
        few = run_to_end(tmp_path, settings(tmp_path, url, BORNE))
        crowd.hold()
        with start(tmp_path, settings(tmp_path, url, WORKERS)) as job:
            job.read_until_event("concurrency_lowered")
            crowd.let_pass()
            many = job.wait()
    assert_complete(few, tmp_path / f"dest{BORNE}")
    assert_complete(many, tmp_path / f"dest{WORKERS}")
    times = few.summary["duration_s"], many.summary["duration_s"]
    print(f"{times[0]:.2f} s with four workers, {times[1]:.2f} s with thirty")
    assert [len(done.events_named("concurrency_lowered")) for done in (few, many)] == [0, 1]
    assert times[1] <= 2 * times[0]


@row(70)
def test_a_firewall_that_drops_what_is_more_than_four(tmp_path: Path) -> None:
    """A firewall that drops the packets of a fifth connection costs no item a try, though it takes a time-out."""
    limits = {"FLAGJOB_CONNECT_TIMEOUT": "1", "FLAGJOB_MAX_ATTEMPTS": "1"}
    with namespace() as machine, machine.nginx(tmp_path / "nginx", ANY_GIF):
        machine.drop("-p", "tcp", "--syn", "-m", "connlimit", "--connlimit-above", "4", "--connlimit-mask", "0")
        done = run_to_end(
            tmp_path, {**settings(tmp_path, "http://127.0.0.1", WORKERS), **limits}, machine.command_prefix
        )
    assert (done.code, done.summary["counts"]["ok"]) == (0, 250)
    assert sum(line["attempts"] for line in done.events_named("result")) > 250
