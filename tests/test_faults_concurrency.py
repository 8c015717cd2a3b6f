"""The catalogue of faults, row 70: an origin that bears some requests at the same time, and turns the others away."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Done
from images import GIF
from inprocess import WatchedLog, files_in, run, run_here
from rows import line_of, row
from scripted import Answer, Raw, RefusingServer, Request, ResettingServer, Script, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import Reason
from job.resilience import Permit, Throttle

BEARS = "an origin, proxy or firewall that bears"
CODES = [f"c{number}" for number in range(120)]
URL = "/{cc}.gif"
WORKERS = 30
SERVICE_SECONDS = 0.01
HANG_SECONDS = 20
"""How long a server holds an answer at most, if what it waits for does not happen."""


def answer_slowly(_: Request) -> Step:
    """Return a file after the time that an origin takes."""
    threading.Event().wait(SERVICE_SECONDS)
    return Answer(body=GIF)


SCRIPT: Script = {f"/{code}.gif": answer_slowly for code in CODES}


class Crowd:
    """Holds an origin's answers until its workers have met, so that no test depends on how fast they come.

    The first answer waits until all workers that the origin does not bear were turned away (only the throttle sees that
    with each origin), and the others wait until a line tells that fewer requests are sent. Any thread may call it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turned_away: int, *, is_told: bool = True) -> None:
        """Count the attempts that fail; `is_told` means that there will be a line."""
        self._lock = threading.Lock()
        self._to_come = turned_away
        self._is_first = True
        self._have_met = threading.Event()
        self._is_told = threading.Event()
        if not is_told:
            self._is_told.set()
        release = Throttle.release

        def count(throttle: Throttle, permit: Permit, error: BaseException | None) -> bool:
            is_ignored = release(throttle, permit, error)
            if error is not None:
                self._count()
            return is_ignored

        monkeypatch.setattr(Throttle, "release", count)

    def answer(self, request: Request) -> Step:
        """Return a file as soon as it may be answered."""
        with self._lock:
            awaited = self._have_met if self._is_first else self._is_told
            self._is_first = False
        awaited.wait(HANG_SECONDS)
        return answer_slowly(request)

    def _count(self) -> None:
        with self._lock:
            self._to_come -= 1
            if self._to_come == 0:
                self._have_met.set()

    def watch(self, line: bytes) -> None:
        """Let all answers go once the line is there."""
        if b'"concurrency_lowered"' in line:
            self._is_told.set()


class BusyServer(ScriptedServer):
    """Bears some requests at the same time, and answers the others with a status."""

    def __init__(self, script: Script, most: int, status: int = 503) -> None:
        super().__init__(dict.fromkeys(script, self._answer_or_not))
        self._answers = script
        self._places = threading.Semaphore(most)
        self._busy = Answer(status)

    def _answer_or_not(self, request: Request) -> Step:
        if not self._places.acquire(blocking=False):
            return self._busy
        try:
            answer = self._answers[request.target]
            assert callable(answer)
            return answer(request)
        finally:
            self._places.release()


def settings_of(dest: Path) -> dict[str, str]:
    """Return the settings of a run in which each item has one attempt."""
    return {"dest": str(dest), "max_attempts": "1", "workers": str(WORKERS)}


def results(done: Done) -> Counter[tuple[str, str | None]]:
    """Return how many items ended in each way; each item must have exactly one line."""
    lines = done.events_named("result")
    assert len({line["code"] for line in lines}) == len(lines) == done.summary["codes"]
    return Counter((line["status"], line["reason"]) for line in lines)


def events(done: Done) -> Counter[str]:
    """Return how often there were lines of what concerns the whole origin."""
    names = {"concurrency_lowered", "host_paused", "origin_down", "retry_budget_spent"}
    return Counter(line["event"] for line in done.events if line["event"] in names)


ORIGINS: dict[str, Callable[[Script, int], ScriptedServer]] = {
    "resets": ResettingServer,
    "refuses": RefusingServer,
    "503": BusyServer,
    "502": lambda script, most: BusyServer(script, most, 502),
}


@row(70)
@pytest.mark.parametrize("most", [1, 4, 11])
@pytest.mark.parametrize("how", ORIGINS)
@pytest.mark.slow
def test_an_origin_of_few_connections_gives_every_file(
    tmp_path: Path, how: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty workers get every file of an origin that bears a few requests, at one try each; one line tells it."""
    line, crowd = line_of(BEARS), Crowd(monkeypatch, WORKERS - most)
    with ORIGINS[how](dict.fromkeys(SCRIPT, crowd.answer), most) as server:
        done = run(CODES, Cancellation(), WatchedLog(crowd.watch), url=server.url(URL), **settings_of(tmp_path))
    assert results(done) == {(line.words[0], None): 120}
    assert (done.code, events(done)) == (line.exit_code, {"concurrency_lowered": 1})
    assert files_in(tmp_path) == {f"{code}.gif": GIF for code in CODES}


@row(70)
def test_one_worker_more_than_the_origin_bears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five workers get every file of an origin of four connections."""
    crowd = Crowd(monkeypatch, 1, is_told=False)
    with ResettingServer(dict.fromkeys(SCRIPT, crowd.answer), 4) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url(URL), max_attempts="1", workers="5")
    assert (done.code, results(done)) == (0, {("ok", None): 120})


@row(70)
def test_an_item_that_is_always_reset_is_an_error(tmp_path: Path) -> None:
    """An item that is reset whatever the others do ends as an error, after three tries for free and its own four."""
    line, script = line_of("an item that is always reset"), {**SCRIPT, "/c50.gif": Raw(b"", reset=True)}
    with ScriptedServer(script) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url(URL))
    assert (done.code, results(done)) == (line.exit_code, {("ok", None): 119, tuple(line.words): 1})
    (failed,) = (found for found in done.events_named("result") if found["status"] == "error")
    assert (failed["code"], 4 <= failed["attempts"] <= 8, events(done)) == ("C50", True, {})


@row(70)
@pytest.mark.parametrize("step", [Raw(b"", reset=True), Answer(503)])
def test_an_origin_that_answers_nobody_is_down(tmp_path: Path, step: Step) -> None:
    """An origin that turns everybody away is down: its concurrency is not what is wrong."""
    line = line_of("an origin that turns everybody away")
    with ScriptedServer(dict.fromkeys(SCRIPT, step)) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url(URL), origin_patience="0")
    assert (done.code, results(done)[line.words[0], line.words[1]] > 50) == (line.exit_code, True)
    assert events(done).keys() - {"retry_budget_spent"} == {"origin_down"}  # on a busy machine some try again first


@row(70)
def test_a_signal_ends_those_that_wait_for_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that wait until fewer requests are under way are cancelled at once."""
    cancellation, crowd = Cancellation(), Crowd(monkeypatch, WORKERS - 4)

    def end(line: bytes) -> None:
        if b'"concurrency_lowered"' in line:
            cancellation.request(Reason.SIGNAL)
        crowd.watch(line)

    with ResettingServer(dict.fromkeys(SCRIPT, crowd.answer), 4) as server:
        done = run(CODES, cancellation, WatchedLog(end), dest=str(tmp_path), url=server.url(URL))
    found = results(done)
    assert (found["cancelled", "signal"] > 100, found["ok", None] > 0, found.total()) == (True, True, 120)


@row(70)
def test_a_proxy_of_few_connections_gives_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that resets what is more than it bears is like an origin that does so."""
    url, crowd = f"http://origin.example{URL}", Crowd(monkeypatch, WORKERS - 4)
    with ResettingServer({url.format(cc=code): crowd.answer for code in CODES}, 4) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))  # the proxy's only setting
        done = run(CODES, Cancellation(), WatchedLog(crowd.watch), url=url, **settings_of(tmp_path))
    assert (done.code, results(done)) == (0, {("ok", None): 120})
