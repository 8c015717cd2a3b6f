"""The catalogue of faults, rows 47 to 56: what signals, clusters, logs and dead origins can do to a run."""

import ast
import errno
import json
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from command import TIMEOUT, Done, environment
from images import GIF, numbered_gif
from inprocess import Watched, here, left_in, run
from rows import ROOT, line_of, row
from scripted import Answer, Raw, Request, ScriptedServer, Stall, Step

from job import validation
from job.cancellation import Cancellation
from job.errors import LogError, Reason
from job.model import FileType, Reply

WORKERS = 30
"""As many failures of the origin in a row are enough, and as many requests may be under way then."""


def results(done: Done) -> Counter[tuple[str, str | None]]:
    """Count how items ended; each must have exactly one line."""
    lines = done.named("result")
    assert len({line["code"] for line in lines}) == len(lines) == done.summary["codes"]
    return Counter((line["status"], line["reason"]) for line in lines)


def attempts(done: Done) -> int:
    return sum(line["attempts"] for line in done.named("result"))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# Signals


@row(47)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("step", "moment"),
    [
        pytest.param(Answer(503), b'"retry"', id="in a back-off"),
        pytest.param(Answer(503, {"Retry-After": "60"}), b'"host_paused"', id="in a pause that the origin asked for"),
        pytest.param(Stall(), None, id="in the middle of a transfer"),
    ],
)
def test_a_signal_ends_every_wait(tmp_path: Path, number: int, step: Step, moment: bytes | None) -> None:
    """No further attempt, a line for each item, and the exit code that a shell gives for the signal."""
    line, cancellation = line_of("SIGTERM or SIGINT"), Cancellation()

    def signalled(text: bytes) -> None:
        if moment and moment in text:
            cancellation.request(Reason.SIGNAL, number)

    def answer(_: Request) -> Step:
        if not moment:
            cancellation.request(Reason.SIGNAL, number)
        return step

    with ScriptedServer({"/cn.gif": answer}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "shutdown_grace": "0.2"}
        done = run(["cn", "br"], cancellation, Watched(signalled), workers="1", **settings)
        assert len(server.requests) == 1
    assert results(done) == {tuple(line.words): 2}
    assert (done.code, str(done.code) in line.exit) == (128 + number, True)
    assert left_in(tmp_path) == {}


# Memory and clusters


@row(48)
def test_memory_does_not_depend_on_the_size_of_a_body(tmp_path: Path) -> None:
    """A file of 20 MB passes through in less than 3 MB."""
    body = numbered_gif(1, 20_000_000)
    with ScriptedServer({"/cn.gif": Raw(b"HTTP/1.1 200 OK\r\n\r\n" + body)}) as server:
        tracemalloc.start()
        try:
            done = here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_bytes="30MB")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (done.code, left_in(tmp_path) == {"cn.gif": body}) == (0, True)
    assert peak < 3_000_000


@row(49)
def test_two_runs_at_once_are_as_good_as_one(tmp_path: Path) -> None:
    """Both succeed, every file is whole, and the manifest and the list of sums have each of them once."""
    line = line_of("two pods on one volume")
    files = {f"c{number}": numbered_gif(number, 70_000 * (number % 2)) for number in range(40)}
    script = {f"/{code}.gif": Answer(body=body) for code, body in files.items()}
    with ScriptedServer(script) as server, ThreadPoolExecutor(2) as pods:
        url = server.url("/{cc}.gif")
        both = list(pods.map(lambda _: here(*files, dest=tmp_path, url=url, workers="4"), range(2)))
    assert [done.code for done in both] == [line.exit_code] * 2
    assert left_in(tmp_path) == {f"{code}.gif": body for code, body in files.items()}
    sums = sorted(f"{sha256(body).hexdigest()}  {code}.gif" for code, body in files.items())
    assert sorted((tmp_path / "SHA256SUMS").read_text().splitlines()) == sums
    lines = (tmp_path / ".flagjob" / "manifest.jsonl").read_bytes().splitlines()
    assert len(list(map(json.loads, lines))) == len(files) + 1


READS_THE_CLOCK = {
    "job/downloader.py": 1,  # FLAGJOB_NOT_FOUND_TTL, which is of earlier runs
    "job/client.py": 1,  # a Retry-After that is a date, clamped
    "job/manifest/shard_manifest.py": 1,  # when an entry was checked
    "job/reporting.py": 2,  # when a run began and ended, for metrics
    "job/storage/generations.py": 2,  # a set's name, and what is old enough to be swept
    "job/storage/directory.py": 1,  # the same
    "job/destination.py": 2,  # names of objects in a bucket
}


@row(50)
def test_no_limit_is_on_the_wall_clock() -> None:
    """Who reads the time of day says why here; every limit and every wait is on the monotonic clock."""
    found: Counter[str] = Counter()
    for path in (ROOT / "job").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        clocks = [ast.unparse(call) for call in calls if ast.unparse(call) in {"time.time", "time", "datetime.now"}]
        found[path.relative_to(ROOT).as_posix()] += len(clocks)
    assert +found == READS_THE_CLOCK


@row(50)
def test_a_clock_that_jumps_moves_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year forward with each look at it: the deadline of the run, its items and its waits do not notice."""
    line, years = line_of("the clock is wrong"), iter(range(0, 10**12, 366 * 86400))
    monkeypatch.setattr("time.time", lambda: float(next(years)))  # there is one clock, and it is everybody's
    with ScriptedServer({"/cn.gif": [Answer(500), Answer(body=GIF)], "/br.gif": Answer(body=GIF)}) as server:
        done = here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"), deadline="60", item_timeout="60")
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert 0 <= done.summary["duration_s"] < 60


# Logs and metrics


class Full(BytesIO):
    """A log that takes so many lines, and then is a full disk."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # (the log writes nothing but bytes)
        """Take a line, or fail."""
        self.lines -= 1
        if self.lines < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@row(51)
@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_log_that_takes_no_more_ends_the_run(tmp_path: Path, lines: int) -> None:
    """At its first line or later: the run ends, asks for little more, and leaves whole files only."""
    codes, cancellation = [f"c{number}" for number in range(500)], Cancellation()
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in codes}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "workers": "2"}
        with pytest.raises(LogError):
            run(codes, cancellation, Full(lines), **settings)
        assert len(server.requests) < len(codes) // 2
    assert {path.read_bytes() for path in tmp_path.glob("*.gif")} <= {GIF}


@row(51)
@pytest.mark.parametrize(
    "words", [["BR"], ["--workers=x"], ["verify"], ["--codes-file=/proc/self/mem"], ["--help"], ["simulate"]]
)
def test_a_full_disk_under_the_log_is_no_success(tmp_path: Path, words: list[str]) -> None:
    """`flagjob > /dev/full`: exit 5, one line on standard error, no traceback, whatever there was to be said."""
    command = [sys.executable, "-m", "job", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False, timeout=TIMEOUT
        )
    assert (done.returncode, done.stderr) == (
        line_of("nobody reads the log").exit_code,
        b"flagjob: standard output cannot be written: No space left on device\n",
    )


@row(51)
def test_without_standard_error_a_run_is_a_run(tmp_path: Path) -> None:
    """`flagjob 2>&-` has nobody to show a bar to, and does the rest; wrong settings are told on standard output."""
    command = ["sh", "-c", 'exec "$0" -m job "$@" 2>&-', sys.executable]
    ended = [
        subprocess.run([*command, *words], cwd=tmp_path, env=environment(), capture_output=True, check=False)
        for words in (["BR"], ["--workers=x"])
    ]
    assert [done.returncode for done in ended] == [0, 2]
    assert [b'"event":"run_finished"' in ended[0].stdout, b'"event":"usage_error"' in ended[1].stdout] == [True, True]


@row(51)
@pytest.mark.parametrize(("closed", "told"), [(">&-", b"flagjob: standard output is closed\n"), (">&- 2>&-", b"")])
def test_without_standard_output_nothing_is_begun(tmp_path: Path, closed: str, told: bytes) -> None:
    """`flagjob >&-`: exit 5 and one line on standard error, if that is there; no traceback, no file."""
    command = ["sh", "-c", f'exec "$0" -m job BR {closed}', sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (5, told, [])


@row(46)
def test_a_machine_without_a_thread_for_the_clock_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the deadline can be watched: exit 5, a line for each code. (No limit on threads binds root.)."""

    def refused(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refused)
    done = here("cn", "us", dest=tmp_path, url=f"http://127.0.0.1:{closed_port()}/{{cc}}.gif")
    assert (done.code, results(done)) == (5, Counter({("cancelled", "storage"): 2}))
    assert [line["problem"] for line in done.named("storage_error")] == [
        "this machine does not allow a thread: can't start new thread"
    ]


@row(46)
def test_a_soft_limit_of_descriptors_is_raised_as_far_as_workers_need(tmp_path: Path) -> None:
    """Thirty workers under a soft limit of 60 files: the hard one allows more, and all files arrive."""
    codes = [f"c{n}" for n in range(60)]
    everybody = threading.Barrier(30)

    def together(_request: Request) -> Step:
        everybody.wait(TIMEOUT)  # passes only while thirty connections are open
        return Answer(body=GIF)

    with ScriptedServer({f"/{code}.gif": together for code in codes}) as server:
        command = ["sh", "-c", 'ulimit -Sn 60; exec "$0" -m job "$@"', sys.executable]
        words = [*codes, "--dest", str(tmp_path), "--url", server.url("/{cc}.gif")]
        done = subprocess.run([*command, *words], env=environment(), capture_output=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, len(list(tmp_path.glob("*.gif")))) == (0, 60)


@row(52)
def test_metrics_that_nobody_takes_change_nothing(tmp_path: Path) -> None:
    """A taken port, a dead Pushgateway and a directory that cannot be written: one warning each, exit 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken, ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        settings = {
            "metrics_address": f"127.0.0.1:{taken.getsockname()[1]}",
            "metrics_file": "/proc/flagjob.prom",
            "pushgateway_url": f"http://127.0.0.1:{closed_port()}",
        }
        done = here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), **settings)
    warnings = [event["target"] for event in done.events if event["level"] == "warning"]
    assert (done.code, sorted(warnings)) == (line_of("the metrics port is taken").exit_code, sorted(settings.values()))


@row(52)
def test_a_silent_gateway_does_not_outlast_the_grace(tmp_path: Path) -> None:
    """After a signal a push has what is left of the grace, and the exit code is the signal's."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL, signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gateway = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"dest": str(tmp_path), "url": "http://127.0.0.1/{cc}.gif", "shutdown_grace": "0.5"}
        done = run(["cn"], cancellation, BytesIO(), pushgateway_url=gateway, **settings)
    (warning,) = done.named("metrics_push_failed")
    assert (done.code, warning["error"].startswith("no answer within 0.")) == (143, True)


# Ends


@row(53)
def test_a_dead_origin_costs_a_few_requests(tmp_path: Path) -> None:
    """Of 2,000 items no more are tried than show that nobody is there; each has its line, and one line says why."""
    line = line_of("the origin is dead")
    (tmp_path / "codes").write_text("\n".join(f"c{number}" for number in range(2000)))
    url = f"http://127.0.0.1:{closed_port()}/{{cc}}.gif"
    done = here(dest=tmp_path / "dest", url=url, codes_file=str(tmp_path / "codes"))
    assert (done.code, len(done.named("origin_down"))) == (line.exit_code, 1)
    assert results(done)[line.words[0], line.words[1]] >= 2000 - 2 * WORKERS
    assert WORKERS <= attempts(done) <= 2 * WORKERS


@row(53)
def test_an_origin_that_dies_loses_nothing_that_came(tmp_path: Path) -> None:
    """What is logged as ok is there, and nothing else; the rest is cancelled after as few requests."""
    line, codes, alive = line_of("the origin is dead"), [f"c{number}" for number in range(500)], 50

    def answer(_: Request) -> Step:
        return Answer(body=GIF) if len(server.requests) <= alive else Raw(b"", reset=True)

    with ScriptedServer({f"/{code}.gif": answer for code in codes}) as server:
        done = here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"))
        assert len(server.requests) <= alive + 5 * WORKERS  # libcurl sends again what a kept connection lost
    good = {code for code, status in done.statuses.items() if status == "ok"}
    assert (done.code, set(results(done)) - {("ok", None), ("error", "connection")}) == (6, {tuple(line.words)})
    assert left_in(tmp_path) == {f"{code.lower()}.gif": GIF for code in good}


@row(54)
def test_the_end_of_the_runs_time_cancels_the_rest(tmp_path: Path) -> None:
    """Exit 7, and what was there before is kept."""
    line, cancellation = line_of("the run's time is up"), Cancellation()

    def answer(_: Request) -> Step:
        cancellation.request(Reason.DEADLINE)  # as the timer does
        return Stall()

    tmp_path.joinpath("cn.gif").write_bytes(GIF)
    with ScriptedServer({"/br.gif": Answer(body=GIF), "/cn.gif": answer}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "shutdown_grace": "0.2"}
        done = run(["br", "cn", "us"], cancellation, BytesIO(), workers="1", **settings)
    assert (results(done), done.code) == ({("ok", None): 1, tuple(line.words): 2}, line.exit_code)
    assert left_in(tmp_path) == {"br.gif": GIF, "cn.gif": GIF}


@row(55)
@pytest.mark.parametrize("step", [Answer(403), Answer(404), Answer(302, {"Location": "http://elsewhere.example/"})])
def test_a_wrong_path_is_not_tried_a_million_times(tmp_path: Path, step: Step) -> None:
    """After a hundred refusals of one kind the run ends; the origin is asked for little more."""
    line, codes = line_of("the first hundred items"), [f"c{number}" for number in range(400)]
    with ScriptedServer({f"/{code}.gif": step for code in codes}) as server:
        done = here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), workers="5")
        assert 100 <= len(server.requests) <= 100 + 4 * 5
    assert results(done)[line.words[0], line.words[1]] == 400 - len(server.requests)
    assert (done.code, len(done.named("uniform_refusal"))) == (line.exit_code, 1)


@row(56)
def test_a_bug_costs_its_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, the traceback is logged with the code, and the exit code is not one of a failing origin."""
    line, check = line_of("an exception that nobody foresaw"), validation.validate

    def broken(reply: Reply, accepted: tuple[FileType, ...], digest: str | None) -> str | None:
        return str(1 // 0) if reply.body.size > 1000 else check(reply, accepted, digest)

    monkeypatch.setattr(validation, "validate", broken)  # a bug, which the program has to have
    with ScriptedServer({"/cn.gif": Answer(body=numbered_gif(1, 2000)), "/br.gif": Answer(body=GIF)}) as server:
        done = here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"))
    (bug,) = done.named("bug")
    assert (bug["code"], bug["exception"][0]["exc_type"]) == ("CN", "ZeroDivisionError")
    assert results(done) == {tuple(line.words): 1, ("ok", None): 1}
    assert (done.code, left_in(tmp_path)) == (line.exit_code, {"br.gif": GIF})


def dying(codes: list[str], first: Step) -> dict[str, Step]:
    """Script an origin that has something to say of the first code, and ends all other connections."""
    return {f"/{code}.gif": Raw(b"") if number else first for number, code in enumerate(codes)}


@row(53)
def test_nothing_is_waited_for_once_the_origin_is_down(tmp_path: Path) -> None:
    """A transfer that stalls is broken off, however long the grace: there is nobody to end it in good order."""
    codes = [f"c{n}" for n in range(60)]
    with ScriptedServer(dying(codes, Stall())) as server:
        long = dict.fromkeys(["shutdown_grace", "read_timeout", "attempt_timeout", "item_timeout"], "600")
        done = here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), **long)
    assert (done.code, results(done)["cancelled", "origin_down"] > 30) == (6, True)


@row(53)
def test_patience_with_an_origin_ends_before_the_run_does(tmp_path: Path) -> None:
    """A run whose time is up while it waits for its origin says that the origin is down: exit 6, not 7."""
    codes = [f"c{n}" for n in range(40)]
    with ScriptedServer(dying(codes, Answer(body=GIF))) as server:
        done = here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), origin_patience="600", deadline="3")
    assert (done.code, len(done.named("origin_down")), results(done)["ok", None]) == (6, 1, 1)


@row(54)
def test_no_pause_begins_that_the_run_would_not_outlive(tmp_path: Path) -> None:
    """Half a minute was asked for, and the run has five seconds: the item ends now, with its own reason."""
    with ScriptedServer({"/cn.gif": Answer(500, {"Retry-After": "30"})}) as server:
        done = here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), deadline="5")
    assert (done.code, results(done)) == (3, Counter({("error", "http_500"): 1}))
