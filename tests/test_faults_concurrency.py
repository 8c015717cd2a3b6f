"""The catalogue of faults, row 70: an origin that bears some requests at the same time, and turns the others away."""

import threading
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import monotonic

import pytest
from command import Done
from images import GIF
from inprocess import WatchedLog, files_in, run, run_here
from rows import line_of, row
from scripted import Answer, Raw, RefusingServer, Request, ResettingServer, Script, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import Reason

BEARS = "an origin, proxy or firewall that bears"
CODES = [f"c{number}" for number in range(120)]
SERVICE_SECONDS = 0.01


def answer_slowly(_: Request) -> Step:
    """Return a file after the time that an origin takes."""
    threading.Event().wait(SERVICE_SECONDS)
    return Answer(body=GIF)


SCRIPT: Script = {f"/{code}.gif": answer_slowly for code in CODES}


class BusyServer(ScriptedServer):
    """Bears some requests at the same time, and answers the others with a status."""

    def __init__(self, most: int, status: int = 503) -> None:
        super().__init__({f"/{code}.gif": self._answer for code in CODES})
        self._places = threading.Semaphore(most)
        self._busy = Answer(status)

    def _answer(self, request: Request) -> Step:
        if not self._places.acquire(blocking=False):
            return self._busy
        try:
            return answer_slowly(request)
        finally:
            self._places.release()


def results(done: Done) -> Counter[tuple[str, str | None]]:
    """Return how many items ended in each way; each item must have exactly one line."""
    lines = done.events_named("result")
    assert len({line["code"] for line in lines}) == len(lines) == done.summary["codes"]
    return Counter((line["status"], line["reason"]) for line in lines)


def events(done: Done) -> Counter[str]:
    """Return how often there were lines of what concerns the whole origin."""
    names = {"concurrency_lowered", "host_paused", "origin_down", "retry_budget_spent"}
    return Counter(line["event"] for line in done.events if line["event"] in names)


ORIGINS: dict[str, Callable[[int], ScriptedServer]] = {
    "resets": lambda most: ResettingServer(SCRIPT, most),
    "refuses": lambda most: RefusingServer(SCRIPT, most),
    "503": BusyServer,
    "502": lambda most: BusyServer(most, 502),
}


@row(70)
@pytest.mark.parametrize("most", [1, 4, 11])
@pytest.mark.parametrize("how", ORIGINS)
@pytest.mark.slow
def test_an_origin_of_few_connections_gives_every_file(tmp_path: Path, how: str, most: int) -> None:
    """Thirty workers get every file of an origin that bears a few requests, at one try each; one line tells it."""
    line = line_of(BEARS)
    with ORIGINS[how](most) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1")
    assert results(done) == {(line.words[0], None): 120}
    assert (done.code, events(done)) == (line.exit_code, {"concurrency_lowered": 1})
    assert files_in(tmp_path) == {f"{code}.gif": GIF for code in CODES}


@row(70)
def test_one_worker_more_than_the_origin_bears(tmp_path: Path) -> None:
    """Five workers get every file of an origin of four connections."""
    with ResettingServer(SCRIPT, 4) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1", workers="5")
    assert (done.code, results(done)) == (0, {("ok", None): 120})


@row(70)
def test_an_item_that_is_always_reset_is_an_error(tmp_path: Path) -> None:
    """An item that is reset whatever the others do ends as an error, after three tries for free and its own four."""
    line, script = line_of("an item that is always reset"), {**SCRIPT, "/c50.gif": Raw(b"", reset=True)}
    with ScriptedServer(script) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"))
    assert (done.code, results(done)) == (line.exit_code, {("ok", None): 119, tuple(line.words): 1})
    (failed,) = (found for found in done.events_named("result") if found["status"] == "error")
    assert (failed["code"], 4 <= failed["attempts"] <= 8, events(done)) == ("C50", True, {})


@row(70)
@pytest.mark.parametrize("step", [Raw(b"", reset=True), Answer(503)])
def test_an_origin_that_answers_nobody_is_down(tmp_path: Path, step: Step) -> None:
    """An origin that turns everybody away is down: its concurrency is not what is wrong."""
    line = line_of("an origin that turns everybody away")
    with ScriptedServer(dict.fromkeys(SCRIPT, step)) as server:
        done = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"), origin_patience="0")
    assert (done.code, results(done)[line.words[0], line.words[1]] > 50) == (line.exit_code, True)
    assert events(done).keys() - {"retry_budget_spent"} == {"origin_down"}  # on a busy machine some try again first


@row(70)
def test_a_signal_ends_those_that_wait_for_a_place(tmp_path: Path) -> None:
    """Items that wait until fewer requests are under way are cancelled at once."""
    cancellation = Cancellation()

    def end(line: bytes) -> None:
        if b'"concurrency_lowered"' in line:
            cancellation.request(Reason.SIGNAL)

    def answer(request: Request) -> Step:
        threading.Event().wait(0.3)
        return answer_slowly(request)

    began = monotonic()
    with ResettingServer(dict.fromkeys(SCRIPT, answer), 4) as server:
        done = run(CODES, cancellation, WatchedLog(end), dest=str(tmp_path), url=server.url("/{cc}.gif"))
    assert monotonic() - began < 3
    found = results(done)
    assert (found["cancelled", "signal"] > 100, found["ok", None] > 0, found.total()) == (True, True, 120)


@row(70)
def test_a_proxy_of_few_connections_gives_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that resets what is more than it bears is like an origin that does so."""
    url = "http://origin.example/{cc}.gif"
    with ResettingServer({url.format(cc=code): answer_slowly for code in CODES}, 4) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))  # the proxy's only setting
        done = run(CODES, Cancellation(), BytesIO(), dest=str(tmp_path), url=url, max_attempts="1")
    assert (done.code, results(done)) == (0, {("ok", None): 120})
