"""Pings of a service that watches schedules: start and end of a run, their failures and their time limit."""

import json
import signal
import socket
import threading
from pathlib import Path
from time import monotonic

import pytest
from command import TIMEOUT, Done, flagjob, start_flagjob
from images import GIF
from inprocess import run_here
from scripted import Answer, Drip, Hold, ScriptedServer, Stall, Step

from job.errors import UsageError
from job.metrics import Pings

KEY = "0f3a9c1e-1111-2222-3333-444455556666"


def failed(done: Done) -> list[tuple[str, str]]:
    """Return target and error of each ping that failed."""
    return [(line["target"], line["error"]) for line in done.events_named("ping_failed")]


@pytest.mark.parametrize(("codes", "exit_code"), [(["BR"], 0), (["BR", "ZZ"], 4)])
def test_a_run_pings_its_start_and_its_exit_code(tmp_path: Path, codes: list[str], exit_code: int) -> None:
    """The start comes first, the exit code last, with the termination message as its body."""
    script = {f"/ping/{KEY}/{event}": Answer() for event in ("start", exit_code)}
    with ScriptedServer(script) as server:
        settings = {"FLAGJOB_PING_URL": server.url(f"/ping/{KEY}/?create=1"), "FLAGJOB_TERMINATION_LOG": "message"}
        done = flagjob(*codes, cwd=tmp_path, settings=settings)
    start, end = server.requests
    assert (done.code, start.method, start.target, start.body) == (
        exit_code,
        "POST",
        f"/ping/{KEY}/start?create=1",
        b"",
    )
    assert (end.method, end.target) == ("POST", f"/ping/{KEY}/{exit_code}?create=1")
    assert end.body == (tmp_path / "message").read_bytes()
    assert (failed(done), done.events_named("run_started")[0]["settings"]["ping_url"]) == ([], server.url("/***"))
    assert KEY.encode() not in done.stdout


def test_an_interrupted_run_pings_its_exit_code(tmp_path: Path) -> None:
    """After SIGTERM the exit code is 143, and is pinged."""
    with ScriptedServer({"/br.gif": Stall(), "/p/start": Answer(), "/p/143": Answer()}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_PING_URL_FILE": str(tmp_path / "ping")}
        (tmp_path / "ping").write_text(server.url("/p\n"))
        with start_flagjob("BR", cwd=tmp_path, settings={**settings, "FLAGJOB_SHUTDOWN_GRACE": "2"}) as process:
            server.wait_for(2)
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=TIMEOUT)
        targets = [request.target for request in server.requests]
    assert (process.returncode, targets[-1], failed(Done(143, stdout, ""))) == (143, "/p/143", [])


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Answer(404, body=b"no check " + KEY.encode()), "HTTP 404: no check ***"),
        (Answer(302, {"Location": "/elsewhere"}), "HTTP 302, a redirect to /elsewhere, which is not followed"),
    ],
)
def test_pings_that_fail_are_one_warning(tmp_path: Path, step: Step, problem: str) -> None:
    """The exit code stays that of the run, and the warning shows nothing of the URL's path."""
    with ScriptedServer({"/cn.gif": Answer(body=GIF), f"/{KEY}/start": step, f"/{KEY}/0": step}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), ping_url=server.url(f"/{KEY}"))
    assert (done.code, failed(done)) == (0, [(server.url("/***"), problem)])
    assert KEY.encode() not in done.stdout
    assert done.events[-1]["event"] == "run_finished"


def test_a_service_that_is_down_is_one_warning(tmp_path: Path) -> None:
    """Where no server listens, the run ends as it would without pings."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), ping_url=f"http://127.0.0.1:{port}/x")
    assert (done.code, failed(done)) == (0, [(f"http://127.0.0.1:{port}/***", "[Errno 111] Connection refused")])


def test_a_start_that_is_slow_holds_nothing_up_and_stays_first() -> None:
    """The second ping waits for the first one, and the caller for none of them before it asks."""
    release = threading.Event()
    with ScriptedServer({"/start": Hold(release, Answer()), "/0": Answer()}) as server:
        pings = Pings(server.url(""), None, TIMEOUT)
        pings.begin("start")
        server.wait_for(1)
        pings.begin(0)
        assert (pings.alive, len(server.requests)) == (2, 1)
        release.set()
        assert pings.wait_within(lambda: float(TIMEOUT)) is None
    assert ([request.target for request in server.requests], pings.alive) == (["/start", "/0"], 0)


def test_a_silent_service_is_abandoned_at_the_time_limit() -> None:
    """A ping that trickles on ends the wait, and is still counted as alive."""
    with ScriptedServer({"/0": Drip(b"HTTP/1.1 200 OK\r\nX-Drops: ")}) as server:
        pings = Pings(server.url(""), None, 0.2)
        pings.begin(0)
        began = monotonic()
        assert (pings.wait_within(lambda: float(TIMEOUT)) or "").startswith("no answer within ")
        assert (pings.alive, monotonic() - began < TIMEOUT) == (1, True)


@pytest.mark.parametrize(("words", "targets"), [([], ["/p/2"]), (["--dry-run"], [])])
def test_a_run_that_is_refused_pings_that(tmp_path: Path, words: list[str], targets: list[str]) -> None:
    """Where settings are sound but there is no code, the service gets exit code 2; a dry run pings nobody."""
    (tmp_path / "codes").write_text("# none\n")
    with ScriptedServer({"/p/2": Answer()}) as server:
        settings = {"codes_file": str(tmp_path / "codes"), "url": server.url("/{cc}.gif"), "ping_url": server.url("/p")}
        with pytest.raises(UsageError):
            run_here(*words, dest=tmp_path / "dest", **settings)
    assert [request.target for request in server.requests] == targets


def test_a_thread_that_cannot_start_is_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no thread for a ping has one warning more. (No limit on threads binds root.)."""

    def refuse_to_start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    pings = Pings("http://127.0.0.1:1", None, 1)
    pings.begin("start")
    assert (pings.wait_within(lambda: 1.0), pings.alive) == ("can't start new thread", 0)
    assert json.dumps(Pings(None, None, 1).wait_within(lambda: 1.0)) == "null"
