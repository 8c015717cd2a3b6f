"""The catalogue of faults, rows 47 to 56: signals, memory, clusters, logs, metrics and dead origins."""

import ast
import errno
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Self

import pytest
import trustme
from command import TIMEOUT, Done, environment
from images import GIF, HTML, PNG, numbered_gif
from inprocess import WatchedLog, files_in, run, run_here
from rows import ROOT, line_of, row
from scripted import Answer, Raw, Request, ScriptedServer, Stall, Step

from job import validation
from job.cancellation import Cancellation
from job.errors import LogError, Reason
from job.model import FileType, Reply

WORKERS = 30
"""This many failures in a row give the origin up, and this many requests may be in flight then."""


def results(done: Done) -> Counter[tuple[str, str | None]]:
    """Return how many items ended in each way; each item must have exactly one line."""
    lines = done.events_named("result")
    assert len({line["code"] for line in lines}) == len(lines) == done.summary["codes"]
    return Counter((line["status"], line["reason"]) for line in lines)


def attempts(done: Done) -> int:
    return sum(line["attempts"] for line in done.events_named("result"))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# Signals


@row(47)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("step", "log_text"),
    [
        pytest.param(Answer(503), b'"retry"', id="in a back-off"),
        pytest.param(Answer(503, {"Retry-After": "60"}), b'"host_paused"', id="in a pause that the origin asked for"),
        pytest.param(Stall(), None, id="in the middle of a transfer"),
    ],
)
def test_a_signal_ends_every_wait(tmp_path: Path, number: int, step: Step, log_text: bytes | None) -> None:
    """A signal ends every wait: no further attempt, one line for each item, and exit code 128 + signal."""
    line, cancellation = line_of("SIGTERM or SIGINT"), Cancellation()

    def signal_at_log_text(text: bytes) -> None:
        if log_text and log_text in text:
            cancellation.request(Reason.SIGNAL, number)

    def answer(_: Request) -> Step:
        if not log_text:
            cancellation.request(Reason.SIGNAL, number)
        return step

    with ScriptedServer({"/cn.gif": answer}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "shutdown_grace": "0.2"}
        done = run(["cn", "br"], cancellation, WatchedLog(signal_at_log_text), workers="1", **settings)
        assert len(server.requests) == 1
    assert results(done) == {tuple(line.words): 2}
    assert (done.code, str(done.code) in line.exit) == (128 + number, True)
    assert files_in(tmp_path) == {}


# Memory and clusters


@row(48)
def test_memory_does_not_depend_on_the_size_of_a_body(tmp_path: Path) -> None:
    """A file of 20 MB is downloaded in less than 3 MB of memory."""
    body = numbered_gif(1, 20_000_000)
    with ScriptedServer({"/cn.gif": Raw(b"HTTP/1.1 200 OK\r\n\r\n" + body)}) as server:
        tracemalloc.start()
        try:
            done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_bytes="30MB")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (done.code, files_in(tmp_path) == {"cn.gif": body}) == (0, True)
    assert peak < 3_000_000


@row(49)
def test_two_concurrent_runs_leave_a_complete_destination(tmp_path: Path) -> None:
    """Two concurrent runs succeed, and record every file once in the manifest and in SHA256SUMS."""
    line = line_of("two pods on one volume")
    files = {f"c{number}": numbered_gif(number, 70_000 * (number % 2)) for number in range(40)}
    script = {f"/{code}.gif": Answer(body=body) for code, body in files.items()}
    with ScriptedServer(script) as server, ThreadPoolExecutor(2) as pods:
        url = server.url("/{cc}.gif")
        both = list(pods.map(lambda _: run_here(*files, dest=tmp_path, url=url, workers="4"), range(2)))
    assert [done.code for done in both] == [line.exit_code] * 2
    assert files_in(tmp_path) == {f"{code}.gif": body for code, body in files.items()}
    sums = sorted(f"{sha256(body).hexdigest()}  {code}.gif" for code, body in files.items())
    assert sorted((tmp_path / "SHA256SUMS").read_text().splitlines()) == sums
    lines = (tmp_path / ".flagjob" / "manifest.jsonl").read_bytes().splitlines()
    assert len(list(map(json.loads, lines))) == len(files) + 1


WALL_CLOCK_READERS = {
    "job/downloader.py": 1,  # FLAGJOB_NOT_FOUND_TTL and FLAGJOB_RECHECK_AFTER, which are of earlier runs
    "job/client.py": 1,  # a Retry-After that is a date, clamped
    "job/manifest/shard_manifest.py": 1,  # when an entry was checked
    "job/reporting.py": 2,  # when a run began and ended, for metrics
    "job/storage/generations.py": 1,  # a set's name
    "job/status.py": 1,  # how long ago a run ended
    "job/destination.py": 2,  # names of objects in a bucket
    "job/report/recorder.py": 1,  # when a run began, for its page
}


@row(50)
def test_the_wall_clock_is_read_only_where_listed() -> None:
    """The time of day is read only by the modules listed here; limits and waits use the monotonic clock."""
    found: Counter[str] = Counter()
    for path in (ROOT / "job").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        clocks = [ast.unparse(call) for call in calls if ast.unparse(call) in {"time.time", "time", "datetime.now"}]
        found[path.relative_to(ROOT).as_posix()] += len(clocks)
    assert +found == WALL_CLOCK_READERS


@row(50)
def test_a_jumping_clock_moves_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps a year ahead at each reading does not affect deadline, time-outs or waits."""
    line, years = line_of("the clock is wrong"), iter(range(0, 10**12, 366 * 86400))
    monkeypatch.setattr("time.time", lambda: float(next(years)))  # the clock is the process's
    with ScriptedServer({"/cn.gif": [Answer(500), Answer(body=GIF)], "/br.gif": Answer(body=GIF)}) as server:
        done = run_here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"), deadline="60", item_timeout="60")
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert 0 <= done.summary["duration_s"] < 60


# Logs and metrics


class FullLog(BytesIO):
    """A log that accepts a number of lines, and then fails as a full disk does."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # (the log writes nothing but bytes)
        """Write a line, or raise OSError."""
        self.lines -= 1
        if self.lines < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@row(51)
@pytest.mark.parametrize("lines", [0, 1, 5])
def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path, lines: int) -> None:
    """A log that fails ends the run within a few requests, and every stored file is whole."""
    codes, cancellation = [f"c{number}" for number in range(500)], Cancellation()
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in codes}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "workers": "2"}
        with pytest.raises(LogError):
            run(codes, cancellation, FullLog(lines), **settings)
        assert len(server.requests) < len(codes) // 2
    assert {path.read_bytes() for path in tmp_path.glob("*.gif")} <= {GIF}


@row(51)
@pytest.mark.parametrize(
    "words", [["BR"], ["--workers=x"], ["verify"], ["--codes-file=/proc/self/mem"], ["--help"], ["simulate"]]
)
@pytest.mark.slow
def test_a_full_standard_output_is_exit_code_5(tmp_path: Path, words: list[str]) -> None:
    """`flagjob > /dev/full` ends with exit code 5 and one line on standard error, without a traceback."""
    command = [sys.executable, "-m", "job", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=TIMEOUT,
        )
    assert (done.returncode, done.stderr) == (
        line_of("nobody reads the log").exit_code,
        b"flagjob: standard output cannot be written: No space left on device\n",
    )


@row(51)
def test_a_run_needs_no_standard_error(tmp_path: Path) -> None:
    """`flagjob 2>&-` runs as usual, and reports wrong settings on standard output."""
    command = ["sh", "-c", 'exec "$0" -m job "$@" 2>&-', sys.executable]
    ended = [
        subprocess.run([*command, *words], cwd=tmp_path, env=environment(), capture_output=True, check=False)
        for words in (["BR"], ["--workers=x"])
    ]
    assert [done.returncode for done in ended] == [0, 2]
    assert [b'"event":"run_finished"' in ended[0].stdout, b'"event":"usage_error"' in ended[1].stdout] == [True, True]


@row(51)
@pytest.mark.parametrize(("closed", "stderr"), [(">&-", b"flagjob: standard output is closed\n"), (">&- 2>&-", b"")])
def test_a_run_needs_standard_output(tmp_path: Path, closed: str, stderr: bytes) -> None:
    """`flagjob >&-` ends with exit code 5 and one line on standard error, if it is open, and writes no file."""
    command = ["sh", "-c", f'exec "$0" -m job BR {closed}', sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (5, stderr, [])


@row(46)
def test_a_shortage_of_threads_for_the_deadline_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread for the deadline every item is cancelled: exit 5. (No limit on threads binds root.)."""

    def refuse_to_start(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse_to_start)
    done = run_here("cn", "us", dest=tmp_path, url=f"http://127.0.0.1:{closed_port()}/{{cc}}.gif")
    assert (done.code, results(done)) == (5, Counter({("cancelled", "storage"): 2}))
    assert [line["problem"] for line in done.events_named("storage_error")] == [
        "this machine does not allow a thread: can't start new thread"
    ]


@row(46)
def test_the_soft_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    """A soft limit of 60 descriptors is raised, so that thirty workers can run."""
    codes = [f"c{n}" for n in range(60)]
    all_workers = threading.Barrier(30)

    def answer_all_at_once(_request: Request) -> Step:
        all_workers.wait(TIMEOUT)  # passes only while thirty connections are open
        return Answer(body=GIF)

    with ScriptedServer({f"/{code}.gif": answer_all_at_once for code in codes}) as server:
        command = ["sh", "-c", 'ulimit -Sn 60; exec "$0" -m job "$@"', sys.executable]
        words = [*codes, "--dest", str(tmp_path), "--url", server.url("/{cc}.gif")]
        done = subprocess.run([*command, *words], env=environment(), capture_output=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, len(list(tmp_path.glob("*.gif")))) == (0, 60)


@row(52)
def test_failing_metrics_change_no_exit_code(tmp_path: Path) -> None:
    """Each metrics target that fails is one warning, and the exit code is 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken, ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        settings = {
            "metrics_address": f"127.0.0.1:{taken.getsockname()[1]}",
            "metrics_file": "/proc/flagjob.prom",
            "pushgateway_url": f"http://127.0.0.1:{closed_port()}",
        }
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), **settings)
    warnings = [event["target"] for event in done.events if event["level"] == "warning"]
    assert (done.code, sorted(warnings)) == (line_of("the metrics port is taken").exit_code, sorted(settings.values()))


@row(52)
def test_a_silent_gateway_does_not_outlast_the_grace(tmp_path: Path) -> None:
    """After a signal a push may take only the rest of the grace period, and the exit code is the signal's."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL, signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gateway = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"dest": str(tmp_path), "url": "http://127.0.0.1/{cc}.gif", "shutdown_grace": "0.5"}
        done = run(["cn"], cancellation, BytesIO(), pushgateway_url=gateway, **settings)
    (warning,) = done.events_named("metrics_push_failed")
    assert (done.code, float(warning["error"].removeprefix("no answer within ").removesuffix(" s")) < 5) == (143, True)


# Ends


@row(53)
@pytest.mark.slow
def test_a_dead_origin_costs_few_requests(tmp_path: Path) -> None:
    """Of 2,000 items of a dead origin at most 60 are attempted; each has its line, and one event says why."""
    line = line_of("the origin is dead")
    (tmp_path / "codes").write_text("\n".join(f"c{number}" for number in range(2000)))
    url = f"http://127.0.0.1:{closed_port()}/{{cc}}.gif"
    done = run_here(dest=tmp_path / "dest", url=url, codes_file=str(tmp_path / "codes"))
    assert (done.code, len(done.events_named("origin_down"))) == (line.exit_code, 1)
    assert results(done)[line.words[0], line.words[1]] >= 2000 - 2 * WORKERS
    assert WORKERS <= attempts(done) <= 2 * WORKERS


@row(53)
def test_an_origin_that_dies_leaves_exactly_the_ok_files(tmp_path: Path) -> None:
    """When the origin dies in mid-run, exactly the files logged as ok are stored; the rest is cancelled."""
    line, codes, alive = line_of("the origin is dead"), [f"c{number}" for number in range(500)], 50

    def answer(_: Request) -> Step:
        return Answer(body=GIF) if len(server.requests) <= alive else Raw(b"", reset=True)

    with ScriptedServer({f"/{code}.gif": answer for code in codes}) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), origin_patience="1")
        assert len(server.requests) <= alive + 5 * WORKERS  # libcurl repeats a request whose kept connection ended
    good = {code for code, status in done.statuses.items() if status == "ok"}
    assert (done.code, set(results(done)) - {("ok", None), ("error", "connection")}) == (6, {tuple(line.words)})
    assert files_in(tmp_path) == {f"{code.lower()}.gif": GIF for code in good}


@row(54)
def test_the_deadline_cancels_the_remaining_items(tmp_path: Path) -> None:
    """After the deadline the remaining items are cancelled with exit code 7, and their files are kept."""
    line, cancellation = line_of("the run's time is up"), Cancellation()

    def answer(_: Request) -> Step:
        cancellation.request(Reason.DEADLINE)  # as the timer does
        return Stall()

    tmp_path.joinpath("cn.gif").write_bytes(GIF)
    with ScriptedServer({"/br.gif": Answer(body=GIF), "/cn.gif": answer}) as server:
        settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif"), "shutdown_grace": "0.2"}
        done = run(["br", "cn", "us"], cancellation, BytesIO(), workers="1", **settings)
    assert (results(done), done.code) == ({("ok", None): 1, tuple(line.words): 2}, line.exit_code)
    assert files_in(tmp_path) == {"br.gif": GIF, "cn.gif": GIF}


@row(55)
@pytest.mark.parametrize("step", [Answer(403), Answer(404), Answer(302, {"Location": "http://elsewhere.example/"})])
def test_uniform_failures_end_the_run(tmp_path: Path, step: Step) -> None:
    """After a hundred items that failed with one reason the run ends."""
    line, codes = line_of("the first hundred items"), [f"c{number}" for number in range(400)]
    with ScriptedServer({f"/{code}.gif": step for code in codes}) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), workers="5")
        assert 100 <= len(server.requests) <= 100 + 4 * 5
    assert results(done)[line.words[0], line.words[1]] == 400 - len(server.requests)
    assert (done.code, len(done.events_named("uniform_refusal"))) == (line.exit_code, 1)


@row(64)
@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Answer(body=HTML), "bad_content"),
        (Answer(), "empty"),
        (Answer(body=PNG), "bad_content"),
        (Answer(408), "http_408"),
        (Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + GIF), "truncated"),
    ],
)
@pytest.mark.slow
def test_one_page_for_everything_ends_the_run(tmp_path: Path, step: Step, reason: str) -> None:
    """After a hundred items that all got the same wrong answer the run ends; a later run may fare better."""
    line, codes = line_of("every item gets the same answer"), [f"c{number}" for number in range(400)]
    with ScriptedServer({f"/{code}.gif": step for code in codes}) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), workers="5")
        retries = 50
        assert 100 <= len(server.requests) <= 100 + retries + 4 * 5
    failed = results(done)["error", reason]
    assert 100 <= failed <= 100 + 4 * 5
    assert results(done) == {("error", reason): failed, tuple(line.words): 400 - failed}
    (cause,) = done.events_named("uniform_refusal")
    assert (done.code, cause["reason"], "login page" in cause["hint"]) == (line.exit_code, reason, True)


@row(56)
def test_a_bug_fails_its_item_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug fails its item only, and is logged with code and traceback."""
    line, validate = line_of("an exception that nobody foresaw"), validation.validate

    def validate_with_bug(reply: Reply, accepted: tuple[FileType, ...], *_digests: object) -> str | None:
        return str(1 // 0) if reply.body.size > 1000 else validate(reply, accepted)

    monkeypatch.setattr(validation, "validate", validate_with_bug)  # plants a bug
    with ScriptedServer({"/cn.gif": Answer(body=numbered_gif(1, 2000)), "/br.gif": Answer(body=GIF)}) as server:
        done = run_here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"))
    (bug,) = done.events_named("bug")
    assert (bug["code"], bug["exception"][0]["exc_type"]) == ("CN", "ZeroDivisionError")
    assert results(done) == {tuple(line.words): 1, ("ok", None): 1}
    assert (done.code, files_in(tmp_path)) == (line.exit_code, {"br.gif": GIF})


def script_of_dying_origin(codes: list[str], first: Step) -> dict[str, Step]:
    """Return a script that does one step for the first code, and closes every other connection."""
    return {f"/{code}.gif": Raw(b"") if number else first for number, code in enumerate(codes)}


@row(53)
@pytest.mark.slow
def test_a_run_does_not_drain_once_the_origin_is_given_up(tmp_path: Path) -> None:
    """Once the origin is given up, a stalled transfer is interrupted at once, however long the grace period."""
    codes = [f"c{n}" for n in range(60)]
    with ScriptedServer(script_of_dying_origin(codes, Stall())) as server:
        timeouts = dict.fromkeys(["shutdown_grace", "read_timeout", "attempt_timeout", "item_timeout"], "600")
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), origin_patience="0", **timeouts)
    assert (done.code, results(done)["cancelled", "origin_down"] > 30) == (6, True)


@row(53)
def test_the_patience_ends_before_the_deadline(tmp_path: Path) -> None:
    """A run whose deadline comes while it waits for the origin ends with exit code 6, not 7."""
    codes = [f"c{n}" for n in range(40)]
    with ScriptedServer(script_of_dying_origin(codes, Answer(body=GIF))) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), origin_patience="600", deadline="3")
    assert (done.code, len(done.events_named("origin_down")), results(done)["ok", None]) == (6, 1, 1)


class LateServer(ScriptedServer):
    """A server whose port refuses connections until it appears."""

    def __enter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepter = threading.Thread(target=self._accept)
        return self

    def appear(self) -> None:
        """Begin to listen."""
        self._listener.listen(1024)
        self._accepter.start()


HICCUP = "a hiccup: the origin refuses"


@pytest.mark.slow
@row(66)
def test_an_origin_that_refuses_connections_for_a_moment_costs_nothing(tmp_path: Path) -> None:
    """A run whose origin restarts waits for it, which one line tells, and then gets every file."""
    line, codes = line_of(HICCUP), [f"c{number}" for number in range(60)]
    with LateServer({f"/{code}.gif": Answer(body=GIF) for code in codes}) as server:

        def appear_in_the_pause(text: bytes) -> None:
            if b'"host_paused"' in text:
                server.appear()

        log = WatchedLog(appear_in_the_pause)
        done = run(codes, Cancellation(), log, dest=str(tmp_path), url=server.url("/{cc}.gif"))
    assert (done.code, results(done)) == (line.exit_code, {(line.words[0], None): 60})
    ((paused,), (back,)) = (done.events_named("host_paused"), done.events_named("origin_back"))
    assert (paused["until_s"], paused["reason"], back["level"]) == (5, "connection", "info")


@row(66)
@pytest.mark.parametrize(
    "trouble", [Raw(b""), Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", reset=True), Answer(500), Answer(502)]
)
@pytest.mark.slow
def test_an_origin_that_has_answered_is_waited_for_longer(tmp_path: Path, trouble: Step) -> None:
    """An origin that fails in mid-run is waited for up to 30 s, and its failures cost no item its result."""
    line, is_away, codes = line_of(HICCUP), threading.Event(), [f"c{number}" for number in range(120)]

    def answer(request: Request) -> Step:
        if request.target == "/c40.gif" and not is_back.is_set():
            is_away.set()
        return trouble if is_away.is_set() and not is_back.is_set() else Answer(body=GIF)

    is_back = threading.Event()
    with ScriptedServer({f"/{code}.gif": answer for code in codes}) as server:
        log = WatchedLog(lambda text: is_back.set() if b'"host_paused"' in text else None)
        done = run(codes, Cancellation(), log, dest=str(tmp_path), url=server.url("/{cc}.gif"))
    assert (done.code, results(done)) == (line.exit_code, {(line.words[0], None): 120})
    assert [paused["until_s"] for paused in done.events_named("host_paused")] == [30]


@row(53, 66)
@pytest.mark.slow
def test_a_dead_origin_is_given_up_in_seconds(tmp_path: Path) -> None:
    """A dead origin is probed for 5 s, by few requests; then the run ends, with a line for each item."""
    line, codes, began = line_of("the origin is dead"), [f"c{number}" for number in range(300)], monotonic()
    done = run_here(*codes, dest=tmp_path, url=f"http://127.0.0.1:{closed_port()}/{{cc}}.gif")
    assert 5 <= monotonic() - began < 25  # an origin that has answered is probed for 30 s
    found = results(done)
    assert (done.code, found[line.words[0], line.words[1]] > 250, found.total()) == (line.exit_code, True, 300)
    assert attempts(done) < 100


@pytest.mark.slow
@row(66)
def test_a_short_list_keeps_the_result_of_each_item(tmp_path: Path) -> None:
    """Items of a list that is too short to open the circuit have their own tries and reasons; nothing is probed."""
    line, codes = line_of("a hiccup, and a list too short"), [f"c{number}" for number in range(5)]
    done = run_here(*codes, dest=tmp_path, url=f"http://127.0.0.1:{closed_port()}/{{cc}}.gif")
    assert (done.code, results(done)) == (6, {tuple(line.words): 5})
    assert (attempts(done), done.events_named("host_paused")) == (20, [])


@row(66)
def test_a_name_that_does_not_exist_is_not_waited_for(tmp_path: Path) -> None:
    """A name that does not exist is no hiccup: the run ends at once."""
    line, codes = line_of("a name or a certificate"), [f"c{number}" for number in range(300)]
    done = run_here(*codes, dest=tmp_path, url="http://no..name/{cc}.gif")
    assert (done.code, results(done)[line.words[0], line.words[1]] > 200) == (line.exit_code, True)
    assert (done.events_named("host_paused"), len(done.events_named("origin_down"))) == ([], 1)


@row(66)
def test_a_certificate_that_is_refused_is_not_waited_for(tmp_path: Path) -> None:
    """A certificate of an unknown authority is no hiccup: the run ends at once."""
    codes, context = [f"c{number}" for number in range(300)], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer({}, context) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"))
    assert (done.code, results(done)["cancelled", "origin_down"] > 200) == (6, True)
    assert (done.events_named("host_paused"), done.events_named("origin_down")[0]["reason"]) == ([], "tls")


@row(54)
def test_no_wait_exceeds_the_deadline(tmp_path: Path) -> None:
    """A Retry-After beyond the deadline is not waited for: the item fails at once with its own reason."""
    with ScriptedServer({"/cn.gif": Answer(500, {"Retry-After": "30"})}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), deadline="5")
    assert (done.code, results(done)) == (3, Counter({("error", "http_500"): 1}))
