"""Thirty workers at an origin of four connections: a real nginx with `limit_conn`, and a server that resets others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from command import Done, environment, flagjob
from images import numbered_gif
from rows import row
from scripted import Answer, Request, ResettingServer, ScriptedServer, Step

from e2e.live import run_to_end
from e2e.namespaces import ANY_GIF, namespace
from e2e.nginx import serve

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
CODES = [f"c{number:03}" for number in range(250)]
SERVICE_SECONDS = 0.02
BORNE = 4


def answer(request: Request) -> Step:
    """Return a file after the time that an origin takes."""
    threading.Event().wait(SERVICE_SECONDS)
    return Answer(body=numbered_gif(int(request.target[-7:-4])))


SCRIPT = {f"/{code}.gif": answer for code in CODES}


@contextmanager
def limited_nginx(home: Path) -> Iterator[str]:
    """Yield a URL of a real nginx, which answers four requests at the same time, and the others with 503."""
    with ScriptedServer(SCRIPT) as upstream, serve(home, {}, upstream.url("")) as nginx:
        yield f"{nginx.url}/few"


@contextmanager
def resetting_server(_: Path) -> Iterator[str]:
    """Yield a URL of a server that accepts four connections, and resets the others."""
    with ResettingServer(SCRIPT, BORNE) as server:
        yield server.url("")


def run(home: Path, url: str, workers: int) -> Done:
    """Run the job with so many workers into a directory of its own; every item must succeed."""
    settings = {"FLAGJOB_URL": f"{url}/{{cc}}.gif", "FLAGJOB_WORKERS": str(workers), "FLAGJOB_CODES": " ".join(CODES)}
    dest = home / f"dest{workers}"
    done = flagjob(cwd=home, settings=environment(**settings, FLAGJOB_DEST=str(dest)))
    assert (done.code, done.summary["counts"]["ok"], done.summary["counts"]["error"]) == (0, 250, 0)
    assert {path.name: path.read_bytes() for path in dest.glob("*.gif")} == {
        f"{code}.gif": numbered_gif(int(code[1:])) for code in CODES
    }
    return done


@row(70)
@pytest.mark.parametrize("origin", [limited_nginx, resetting_server])
def test_thirty_workers_are_half_as_fast_as_four_at_worst(
    tmp_path: Path, origin: Callable[[Path], AbstractContextManager[str]]
) -> None:
    """Thirty workers at an origin of four connections get everything, in at most twice the time of four workers."""
    with origin(tmp_path) as url:
        few = run(tmp_path, url, BORNE)
        many = run(tmp_path, url, 30)
    times = few.summary["duration_s"], many.summary["duration_s"]
    print(f"{times[0]:.2f} s with four workers, {times[1]:.2f} s with thirty")
    assert [len(done.events_named("concurrency_lowered")) for done in (few, many)] == [0, 1]
    assert times[1] <= 2 * times[0]


@row(70)
def test_a_firewall_that_drops_what_is_more_than_four(tmp_path: Path) -> None:
    """A firewall that drops the packets of a fifth connection costs no item a try, though it takes a time-out."""
    settings = {"FLAGJOB_URL": "http://127.0.0.1/{cc}.gif", "FLAGJOB_CODES": " ".join(CODES)}
    limits = {"FLAGJOB_CONNECT_TIMEOUT": "1", "FLAGJOB_MAX_ATTEMPTS": "1", "FLAGJOB_DEST": str(tmp_path / "out")}
    with namespace() as machine, machine.nginx(tmp_path / "nginx", ANY_GIF):
        machine.drop("-p", "tcp", "--syn", "-m", "connlimit", "--connlimit-above", "4", "--connlimit-mask", "0")
        done = run_to_end(tmp_path, {**settings, **limits}, machine.command_prefix)
    assert (done.code, done.summary["counts"]["ok"]) == (0, 250)
    assert sum(line["attempts"] for line in done.events_named("result")) > 250
