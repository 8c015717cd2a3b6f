"""The features of the example in *Fluent Python*: order, options, progress bar, servers, timeline."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from command import TIMEOUT, environment, flagjob, start_flagjob
from images import GIF
from scripted import Answer, Hold, ScriptedServer, Step


def on_terminal(
    *arguments: str, cwd: Path, stdout: int | None = None, columns: int = 80, settings: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run the command on a terminal of so many columns; return its exit code and the text that the terminal got."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    command = [sys.executable, "-m", "job", *arguments]
    env = environment(COLUMNS=str(columns), LINES="24", TERM="xterm", **(settings or {}))
    out = follower if stdout is None else stdout
    with subprocess.Popen(command, cwd=cwd, env=env, stdin=follower, stdout=out, stderr=follower) as process:
        os.close(follower)
        seen = b"".join(_read(leader))
        code = process.wait(TIMEOUT)
    os.close(leader)
    return code, seen.decode()


def _read(leader: int) -> Iterator[bytes]:
    """Yield what a terminal gets until no process has it open, which Linux reports as EIO."""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            return
        yield data


def screen(sent: str) -> list[str]:
    """Return the lines as a terminal shows them, without colours: text after a carriage return overwrites the line."""
    lines = []
    for line in re.sub(r"\x1b\[[0-9]*m", "", sent).replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_the_bar_and_the_lines_never_mix(tmp_path: Path) -> None:
    """Problems appear above the bar, successes only advance it, and no line is wider than the terminal."""
    code, sent = on_terminal("-e", "-l", "60", cwd=tmp_path)
    lines = screen(sent)
    problems = [line for line in lines if "not found" in line and not line[0].isdigit()]
    assert code == 0
    assert lines[1:3] == ["Searching for 60 flags: from AA to CH", "30 concurrent connections will be used."]
    assert all(re.fullmatch(r"[A-Z]{2} not found", line) for line in problems)
    assert len(problems) == 60 - sum(1 for _ in (tmp_path / "downloads").glob("*.gif"))
    assert any(line.startswith("100%|") and " 60/60 " in line for line in lines)
    assert not any(line.endswith(" ok") for line in lines)
    assert max(map(len, lines)) <= 80


def test_verbose_shows_lines_instead_of_the_bar(tmp_path: Path) -> None:
    """With -v each code has the lines scheduled, result and done, as in the book, and there is no bar."""
    code, sent = on_terminal("-v", "BR", cwd=tmp_path)
    lines = screen(sent)
    assert code == 0
    assert any(re.fullmatch(r"Scheduled for BR: <Future state=(pending|running)>", line) for line in lines)
    assert {"BR ok", "<Future state=finished returned Result> for BR"} <= set(lines)
    assert "100%" not in sent


def test_a_piped_log_leaves_the_bar_on_the_terminal(tmp_path: Path) -> None:
    """With `flagjob | jq` the JSON lines go into the pipe, the bar and the final lines to the terminal."""
    read, write = os.pipe()
    code, sent = on_terminal("BR", "CN", cwd=tmp_path, stdout=write)
    os.close(write)
    with os.fdopen(read, "rb") as piped:
        events = [json.loads(line)["event"] for line in piped]
    lines = screen(sent)
    assert (code, events.count("result"), events[-1]) == (0, 2, "run_finished")
    assert any(line.startswith("100%|") and " 2/2 " in line for line in lines)
    assert "2 flags downloaded." in lines


def test_a_bar_of_unknown_length_only_counts(tmp_path: Path) -> None:
    """For a file with more codes than workers the total is unknown, so the bar shows no percentage."""
    (tmp_path / "codes").write_text("BR CN")
    code, sent = on_terminal("--codes-file", "codes", "-m", "1", cwd=tmp_path)
    assert (code, "%" in sent) == (0, False)
    assert "Searching for flags" in screen(sent)
    assert "2flag [" in sent


def test_requested_result_lines_appear_above_the_bar(tmp_path: Path) -> None:
    """With --log-results changed, lines of changed files appear above the bar, too."""
    _, sent = on_terminal("BR", "--log-results", "changed", cwd=tmp_path)
    assert any(line.startswith("BR ok") for line in screen(sent))


CODES = [f"c{number}" for number in range(40)]


@pytest.mark.parametrize(("order", "others"), [("completed", 39), ("submitted", 0)])
def test_results_come_in_the_requested_order(tmp_path: Path, order: str, others: int) -> None:
    """A slow first code comes last as completed, and first as submitted, when the window of ten waits for it."""
    release = threading.Event()
    script: dict[str, Step] = {f"/{code}.gif": Answer(body=GIF) for code in CODES}
    with ScriptedServer({**script, "/c0.gif": Hold(release, Answer(body=GIF))}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "5", "FLAGJOB_ORDER": order}
        with start_flagjob(*CODES, cwd=tmp_path, settings=settings) as process:
            server.wait_for(10 if order == "submitted" else 40)
            codes = list(islice(results(process), others))
            release.set()
            codes += results(process)
            assert process.wait(TIMEOUT) == 0
    assert (len(codes), codes.index("C0")) == (40, others)
    assert order == "completed" or codes == [code.upper() for code in CODES]


def results(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    assert process.stdout
    for line in map(json.loads, process.stdout):
        if line["event"] == "result":
            yield line["code"]


def test_sequential_is_one_at_a_time_in_order(tmp_path: Path) -> None:
    """As in the book's first script, there is one connection, with requests and results in the order of the codes."""
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in CODES}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_EXECUTOR": "sequential"}
        done = flagjob(*CODES, cwd=tmp_path, settings=settings)
    assert [request.target for request in server.requests] == [f"/{code}.gif" for code in CODES]
    assert [line["code"] for line in done.events_named("result")] == [code.upper() for code in CODES]
    assert (server.connections, done.events_named("run_started")[0]["workers"]) == (1, 1)


def test_sequential_handles_signals_promptly(tmp_path: Path) -> None:
    """The one worker is a thread, so the main thread can handle a signal at once."""
    release = threading.Event()
    with ScriptedServer({"/br.gif": Hold(release, Answer(body=GIF))}) as server:
        url = server.url("/{cc}.gif")
        with start_flagjob("--executor", "sequential", "BR", "CN", "--url", url, cwd=tmp_path) as process:
            server.wait_for(1)
            process.send_signal(signal.SIGINT)
            assert process.stdout
            lines = map(json.loads, process.stdout)
            assert any(line["event"] == "interrupted" for line in lines)  # the signal was handled
            release.set()
            ends = {line["code"]: line["status"] for line in lines if line["event"] == "result"}
            assert (process.wait(TIMEOUT), ends) == (130, {"BR": "ok", "CN": "cancelled"})


def test_the_rate_holds_for_all_threads(tmp_path: Path) -> None:
    """At 50 requests a second, ten requests on thirty threads take at least nine fiftieths of a second."""
    done = flagjob("-a", "-l", "10", "--rate-limit", "50", cwd=tmp_path)
    assert done.summary["counts"]["ok"] == 10
    assert 9 / 50 <= done.summary["duration_s"] < TIMEOUT


@contextmanager
def serving(*arguments: str, cwd: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Start `flagjob serve` on a free port; yield its process and its URL template."""
    with start_flagjob("serve", "--port", "0", *arguments, cwd=cwd) as process:
        assert process.stdout
        line: dict[str, Any] = json.loads(process.stdout.readline())
        yield process, line["url"]


@pytest.mark.slow
def test_the_demo_server_injects_faults_in_a_process_of_its_own(tmp_path: Path) -> None:
    """A run against injected faults ends with all codes ok; log, server and metrics agree on the retries."""
    with serving("--error-rate", "0.5", "--retry-after", "0", "--truncate-rate", "0.1", cwd=tmp_path) as (server, url):
        settings = {"FLAGJOB_URL": url, "FLAGJOB_MAX_ATTEMPTS": "60", "FLAGJOB_METRICS_FILE": "x.prom"}
        # At level debug the log has the retries that cost an item nothing, too.
        done = flagjob(cwd=tmp_path, settings={**settings, "FLAGJOB_LOG_LEVEL": "debug"})
        server.send_signal(signal.SIGTERM)
        stdout, stderr = server.communicate(timeout=TIMEOUT)
    requests = [json.loads(line) for line in stdout.splitlines()]
    failed = sum(request["fault"] is not None for request in requests)
    assert (done.code, set(done.statuses.values()), server.returncode, stderr) == (0, {"ok"}, 0, b"")
    assert len(requests) == 20 + failed
    assert len(done.events_named("retry")) == done.summary["retries"] == failed > 0
    metrics = (tmp_path / "x.prom").read_text()
    retries = re.findall(r'flagjob_retries_total{reason="(?:5xx|invalid)"} ([0-9.]+)', metrics)
    assert sum(map(float, retries)) == failed


@pytest.mark.slow
def test_the_servers_of_the_book_have_their_labels(tmp_path: Path) -> None:
    """-s takes the labels of the book, and the delay is at least half a second, as in the book."""
    done = flagjob("-s", "DELAY", "BR", cwd=tmp_path)
    assert done.events_named("run_started")[0]["server"] == "delay"
    assert done.statuses == {"BR": "ok"}
    assert done.summary["duration_s"] >= 0.5
    (remote,) = flagjob("-s", "REMOTE", "BR", "--dry-run", cwd=tmp_path).events_named("item")
    assert remote["url"] == "https://www.fluentpython.com/data/flags/br/br.gif"


def test_a_simulation_takes_its_expected_time(tmp_path: Path) -> None:
    """The logged wall time is at least the expected time, all tasks are done, and the exit code is 0."""
    done = flagjob("simulate", "--tasks", "100", "--workers", "10", "--latency", "100ms", cwd=tmp_path)
    first, *_, last = done.events
    assert (done.code, first["expected_s"], last["done"], last["tasks"]) == (0, 1.0, 100, 100)
    assert last["duration_s"] >= 1.0
    assert len(done.events) == 302


def test_a_simulation_on_a_terminal_is_drawn(tmp_path: Path) -> None:
    """A terminal gets the book's timeline instead of the log's events."""
    code, sent = on_terminal("simulate", "--tasks", "3", "--latency", "0", cwd=tmp_path)
    first, *_, last, _ = screen(sent)
    assert (code, first[11:]) == (0, "3 tasks on 3 workers: expected 0.00s")
    assert "3 of 3 tasks done in " in last


def test_a_simulation_whose_terminal_is_gone_ends(tmp_path: Path) -> None:
    """A timeline that cannot be written any more is exit code 5, as a log is."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "job", "simulate", "--tasks=101", "--workers=101", "--latency=300ms"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=follower, stderr=pipe) as process:
        os.close(follower)
        os.read(leader, 100)
        os.close(leader)
        assert process.wait(TIMEOUT) == 5
        assert process.stderr
        assert b"standard output cannot be written" in process.stderr.read()


def test_an_interrupted_simulation_has_the_exit_code_of_its_signal(tmp_path: Path) -> None:
    """Ctrl-C ends a simulation at once, with exit code 130."""
    with start_flagjob("simulate", "--latency", "1h", cwd=tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert json.loads(stdout.splitlines()[-1])["done"] == 0


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ("serve", "--port", "http", "--error-rate", "25", "--delay", "5-1", "--bind", "a b", "--codes", "BR"),
            {
                "--port 'http': must be a whole number from 0 to 65535",
                "--error-rate '25': must be a share from 0 to 1, such as 0.25",
                "--delay '5-1': must be a time up to 3600 seconds, or two as 0.5-5, the smaller first",
                "--bind 'a b': must be an address or a host name, such as 127.0.0.1",
                "--codes: is not an option of flagjob serve",
                "BR: is not an option of flagjob serve",
            },
        ),
        (
            ("simulate", "--tasks", "0", "--rate", "fast"),
            {
                "--tasks '0': must be a whole number from 1 to 100000",
                "--rate 'fast': must be a number of requests a second, up to 1000000, or 0 for no limit",
            },
        ),
    ],
)
def test_wrong_options_are_reported_together(tmp_path: Path, arguments: Sequence[str], messages: set[str]) -> None:
    """The other commands report usage errors as the job does: every fault, by name, with exit code 2."""
    done = flagjob(*arguments, cwd=tmp_path)
    assert done.code == 2
    assert {line["message"] for line in done.events_named("usage_error")} == messages


@pytest.mark.parametrize("command", ["serve", "simulate"])
def test_each_command_has_its_help_page(tmp_path: Path, command: str) -> None:
    """--help of a command prints a page about its own options, in 80 columns."""
    done = flagjob(command, "--help", cwd=tmp_path)
    page = done.stdout.decode()
    assert done.code == 0
    assert page.startswith(f"usage: flagjob {command} [OPTION ...]\n")
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.slow
def test_cancelled_items_are_only_counted_on_a_terminal(tmp_path: Path) -> None:
    """If the origin is down, the terminal shows this once, with the number of cancelled items."""
    code, sent = on_terminal("ALL", "--url", "http://127.0.0.1:1/{cc}.gif", cwd=tmp_path)
    seen = screen(sent)
    assert code == 6
    assert [line for line in seen if line.endswith(" cancelled")] == []
    assert [line for line in seen if line.startswith("*** http://127.0.0.1:1 is down")] != []
    assert "249 cancelled." in seen
