"""Both executors alike: a future for each item, no processor time while they wait, and a prompt end."""

import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command import TIMEOUT, start_flagjob
from images import GIF
from inprocess import run_here
from limits import limited
from processor import MAX_BUSY_SHARE, busy_share
from scripted import Answer, Hold, Raw, Request, ScriptedServer, Stall, Step

from job.greenlet_executor import GreenletExecutor

if TYPE_CHECKING:
    from job.model import Result

pytestmark = pytest.mark.parametrize("executor", ["threads", "greenlets"], indirect=True)

FINE = Answer(body=GIF)


@contextmanager
def watched_futures() -> Iterator[list["Future[Any]"]]:
    """Collect the futures of the items that are submitted to any executor."""
    futures: list[Future[Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ThreadPoolExecutor, GreenletExecutor):

            def submit(
                self: ThreadPoolExecutor, call: Callable[..., Any], /, *args: object, original: Any = kind.submit
            ) -> "Future[Any]":
                future: Future[Any] = original(self, call, *args)
                if getattr(call, "__name__", "") == "_run_unless_cancelled":
                    futures.append(future)
                return future

            patch.setattr(kind, "submit", submit)  # to see what goes in; nothing changes
        yield futures


def test_each_item_is_one_future_and_its_result_is_in_the_log(tmp_path: Path) -> None:
    """As many items, as many submits; the result lines are what those futures returned, each once."""
    routes: dict[str, Step] = {f"/c{number}.gif": FINE for number in range(300)}
    routes |= {"/c7.gif": Answer(404), "/c8.gif": Answer(403)}
    with ScriptedServer(routes) as server, watched_futures() as futures:
        codes = [path[1:-4] for path in routes]
        done = run_here(*codes, "no/code", dest=tmp_path, url=server.url("/{cc}.gif"))
    assert len(futures) == 301
    results: list[Result] = [future.result(0) for future in futures]
    expected = {result.code: (result.status, result.attempts, round(result.duration_seconds, 6)) for result in results}
    lines = done.events_named("result")
    assert {line["code"]: (line["status"], line["attempts"], line["duration_s"]) for line in lines} == expected
    assert len(lines) == 301


@pytest.mark.slow
def test_waiting_takes_no_processor_time(tmp_path: Path) -> None:
    """Neither silent servers nor idle connections that the server has closed keep the process busy."""
    closed = Raw(FINE.wire())  # a whole answer on a connection that could go on, and then the end of it
    release = threading.Event()
    routes: dict[str, Step] = {f"/c{number}.gif": closed for number in range(20)}
    routes |= {f"/d{number}.gif": Hold(release, FINE) for number in range(10)}
    with ScriptedServer(routes) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "30"}
        with start_flagjob(*(path[1:-4] for path in routes), cwd=tmp_path, settings=settings) as process:
            assert process.stdout
            lines = list(islice(result_lines(process.stdout), 20))
            busy = busy_share(process.pid, 2.0)
            release.set()
            rest = list(result_lines(process.stdout))
            assert process.wait(TIMEOUT) == 0
    assert (len(lines), len(rest)) == (20, 10)
    assert busy <= MAX_BUSY_SHARE


@pytest.mark.slow
def test_waiting_for_the_throttle_takes_no_processor_time(tmp_path: Path) -> None:
    """Two hundred workers that all wait for one paused origin do not keep the process busy."""
    routes: dict[str, Step] = {f"/c{number}.gif": Answer(429, {"Retry-After": "60"}) for number in range(200)}
    with ScriptedServer(routes) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "200"}
        with start_flagjob(*(path[1:-4] for path in routes), cwd=tmp_path, settings=settings) as process:
            assert process.stdout
            next(line for line in process.stdout if b'"host_paused"' in line)
            threading.Event().wait(1)  # requests under way are answered meanwhile
            busy = busy_share(process.pid, 2.0)
            process.send_signal(signal.SIGTERM)
            lines = list(result_lines(process.stdout))
            assert process.wait(TIMEOUT) == 143
    assert len(lines) == 200
    assert busy <= 5 * MAX_BUSY_SHARE  # two hundred ask again once a second


def test_a_redirect_without_its_body_is_followed_at_once(tmp_path: Path) -> None:
    """A redirect that announces a body and never sends it is broken off at its headers, in one attempt."""
    redirect = Stall(b"HTTP/1.1 302 Found\r\nLocation: /file.gif\r\nContent-Length: 100\r\n\r\n")
    with ScriptedServer({"/cn.gif": redirect, "/file.gif": FINE}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"))
    assert [(line["status"], line["attempts"]) for line in done.events_named("result")] == [("ok", 1)]


def test_two_thousand_open_files_are_no_limit(tmp_path: Path) -> None:
    """Connections may have descriptors above 1,023, which select() cannot wait for."""
    routes: dict[str, Step] = {f"/c{number}.gif": FINE for number in range(20)}
    with ScriptedServer(routes) as server, limited(resource.RLIMIT_NOFILE, 4096), ExitStack() as stack:
        for _ in range(2000):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        done = run_here(*(path[1:-4] for path in routes), dest=tmp_path, url=server.url("/{cc}.gif"))
    assert Counter(done.statuses.values()) == {"ok": 20}


@pytest.mark.timeout(120)
def test_sigterm_with_two_hundred_workers(tmp_path: Path) -> None:
    """With 200 downloads of 50 ms under way SIGTERM ends the run: 143, a line for each item, and no file is torn."""
    codes = [f"c{number}" for number in range(2000)]

    def answer(_request: Request) -> Step:
        time.sleep(0.05)
        return FINE

    with ScriptedServer({f"/{code}.gif": answer for code in codes}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "200"}
        with start_flagjob(*codes, cwd=tmp_path, settings=settings) as process:
            server.wait_for(400, TIMEOUT)
            process.send_signal(signal.SIGTERM)
            assert process.stdout
            statuses = Counter(b'"status":"ok"' in line for line in result_lines(process.stdout))
            assert process.wait(TIMEOUT) == 143
    assert sum(statuses.values()) == 2000
    stored = list((tmp_path / "downloads").glob("*.gif"))
    assert {path.read_bytes() for path in stored} == {GIF}
    assert len(stored) == statuses[True]


def result_lines(lines: Iterator[bytes] | Any) -> Iterator[bytes]:
    """Yield the lines that are results."""
    return (line for line in lines if b'"event":"result"' in line)
