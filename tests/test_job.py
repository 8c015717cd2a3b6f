"""The whole job as its users run it: a process, its files, its log lines and its exit code."""

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

import pytest
from command import TIMEOUT, Done, environment, flagjob, start_flagjob, wait_for_signal_handlers, wait_until_asleep
from images import GIF, HTML, PNG, numbered_gif
from rows import line_of, row
from scripted import Answer, Hold, Raw, Request, ScriptedServer, Stall, Step

from job import __version__
from job.cli import main
from job.run import Run

CaptureBytes = pytest.CaptureFixture[bytes]
POP20 = "BD BR CD CN DE EG ET FR ID IN IR JP MX NG PH PK RU TR US VN".split()
FLAGS = Path(str(distribution("django-countries").locate_file("django_countries/static/flags")))


def files(root: Path) -> dict[str, bytes]:
    """Return all files below a directory by path, without flagjob's own."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and ".flagjob" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.name != "SHA256SUMS"}


def test_without_settings_twenty_real_flags_arrive(tmp_path: Path) -> None:
    """The default run downloads the book's twenty countries from the built-in origin, one line each, exit 0."""
    done = flagjob(cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert files(tmp_path) == {
        f"downloads/{code.lower()}.gif": (FLAGS / f"{code.lower()}.gif").read_bytes() for code in POP20
    }
    assert sorted(line["code"] for line in done.events_named("result")) == POP20
    assert [line["event"] for line in done.events[:2]] == ["run_started", "builtin_origin"]
    assert done.summary["summary"].startswith("20 flags downloaded.\nElapsed time: ")
    assert (done.summary["counts"]["ok"], done.summary["exit_code"], done.summary["codes"]) == (20, 0, 20)


def test_the_changes_say_how_the_run_ended(tmp_path: Path) -> None:
    """Their summary has the outcome, the numbers and the names that the log has; it is the last line."""
    done = flagjob("BR", "ZZ", "--name", "nightly", cwd=tmp_path)
    last = (tmp_path / "downloads" / ".flagjob" / "changes.jsonl").read_text().splitlines()[-1]
    assert last.startswith('{"change":"summary",')
    summary = json.loads(last)
    shared = ("job", "run_id", "outcome", "exit_code", "reasons", "counts", "bytes", "new", "changed", "gone")
    assert {name: summary[name] for name in shared} == {name: done.summary[name] for name in shared}
    assert (summary["job"], summary["outcome"], summary["reasons"]) == ("nightly", "permanent", {"http_404": 1})
    assert 0 < summary["duration_s"] <= done.summary["duration_s"]


def test_a_result_line_describes_its_file(tmp_path: Path) -> None:
    """Path, size and digest in the log are those of the file."""
    (line,) = flagjob("BR", cwd=tmp_path).events_named("result")
    data = (tmp_path / "downloads" / "br.gif").read_bytes()
    assert line["data"] == {
        "path": "br.gif",
        "bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "content_type": "image/gif",
    }
    assert (line["attempts"], line["http_status"], line["shard"], line["shards"]) == (1, 200, 0, 1)


@pytest.mark.parametrize(("allowed", "code"), [({}, 4), ({"FLAGJOB_MAX_NOT_FOUND": "1"}, 0)])
def test_a_code_that_does_not_exist_is_not_found(tmp_path: Path, allowed: dict[str, str], code: int) -> None:
    """A code that does not exist leads to exit code 4, unless the budget allows it."""
    done = flagjob("BR", "CN", "ZZ", cwd=tmp_path, settings=allowed)
    assert done.statuses == {"BR": "ok", "CN": "ok", "ZZ": "not_found"}
    assert done.code == done.summary["exit_code"] == code


def test_every_code_from_aa_to_zz_is_no_failure(tmp_path: Path) -> None:
    """Of the 676 codes of EVERY 249 exist; the others are expected to be missing and cost no budget."""
    done = flagjob("-e", cwd=tmp_path)
    assert done.code == 0
    assert Counter(done.statuses.values()) == {"ok": 249, "not_found": 427}


def test_a_code_that_is_named_must_exist(tmp_path: Path) -> None:
    """ZZ costs no budget as a part of EVERY, but it does when it is named beside EVERY."""
    assert flagjob("-e", "ZZ", "-m", "100", cwd=tmp_path).code == 4


def test_flags_of_the_book_choose_codes(tmp_path: Path) -> None:
    """The options -a and -l, a single letter, and the name of a set choose codes."""
    assert list(flagjob("-a", "-l", "3", "--dry-run", cwd=tmp_path).events[-1].items()) != []
    codes = [line["code"] for line in flagjob("u", "POP20", "-l28", "--dry-run", cwd=tmp_path).events_named("item")]
    assert codes == [f"U{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"] + ["BD", "BR"]


def test_a_dry_run_sends_and_writes_nothing(tmp_path: Path) -> None:
    """A dry run logs the settings, then the URL and the file of each item; hostile codes have neither."""
    with ScriptedServer({}) as server:
        url = server.url("/{cc}/{CC}.gif?key=hunter2hunter2")
        done = flagjob("br", "c?n", "--dry-run", cwd=tmp_path, settings={"FLAGJOB_URL": url, "FLAGJOB_WORKERS": "3"})
        assert server.connections == 0
    assert (done.code, files(tmp_path)) == (0, {})
    first, *items = done.events
    assert (first["event"], first["workers"]) == ("settings", "3")
    assert b"hunter2" not in done.stdout
    facts = [(line["code"], line["url"] and line["url"].split("?")[0], line["file"]) for line in items]
    assert facts == [("BR", server.url("/br/BR.gif"), "br.gif"), ("c?n", None, None)]


def test_a_wrong_path_is_not_asked_for_three_hundred_times(tmp_path: Path) -> None:
    """After a hundred times 404 and no other outcome the run ends: exit 4, one cause, and a line for each code."""
    codes = [f"c{n}" for n in range(300)]
    with ScriptedServer({}) as server:
        done = flagjob(*codes, cwd=tmp_path, settings={"FLAGJOB_URL": server.url("/wrong/{cc}.gif")})
    (cause,) = done.events_named("uniform_refusal")
    assert (done.code, done.summary["outcome"], cause["reason"], cause["outcomes"]) == (4, "permanent", "http_404", 100)
    assert 100 <= len(server.requests) <= 160  # those that were under way or waited for a worker may still be sent
    ends = Counter((line["status"], line["reason"]) for line in done.events_named("result"))
    missing, cancelled = ends["not_found", "http_404"], ends["cancelled", "uniform_refusal"]
    assert (missing, cancelled) == (len(server.requests), 300 - missing)


def test_a_budget_of_all_items_stops_no_run(tmp_path: Path) -> None:
    """A run whose budget allows all items to be missing asks for all of them."""
    codes = [f"c{n}" for n in range(130)]
    settings = {"FLAGJOB_MAX_NOT_FOUND": "100%"}
    with ScriptedServer({}) as server:
        done = flagjob(*codes, cwd=tmp_path, settings={**settings, "FLAGJOB_URL": server.url("/{cc}.gif")})
    assert (done.code, len(server.requests), done.events_named("uniform_refusal")) == (0, 130, [])


def test_a_percentage_refers_to_all_codes_if_their_number_is_known(tmp_path: Path) -> None:
    """A percentage refers to all codes: the first 150 of 400 may be missing if the budget is 40 %."""
    codes = [f"c{n}" for n in range(400)]
    there = {f"/{code}.gif": Answer(body=GIF) for code in codes[150:]}
    with ScriptedServer(there) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_MAX_NOT_FOUND": "40%"}
        done = flagjob(*codes, cwd=tmp_path, settings=settings)
    assert (done.code, Counter(done.statuses.values())) == (0, {"not_found": 150, "ok": 250})


@pytest.mark.parametrize("source", ["arguments", "FLAGJOB_CODES", "FLAGJOB_CODES_FILE", "stdin"])
def test_every_source_of_codes(tmp_path: Path, source: str) -> None:
    """Codes come from arguments, a variable, a file or standard input."""
    (tmp_path / "codes").write_bytes(b"\xef\xbb\xbfBR\r\n# comment\r\ncn, br\r\n")
    settings = {"FLAGJOB_CODES": {source: "BR, cn  BR"}, "FLAGJOB_CODES_FILE": {source: str(tmp_path / "codes")}}
    chosen = {name: value[source] for name, value in settings.items() if name == source}
    arguments = {"arguments": ["BR", "cn"], "stdin": ["-"]}.get(source, [])
    done = flagjob(*arguments, cwd=tmp_path, stdin=b"BR\ncn", settings=chosen)
    assert (done.code, done.statuses) == (0, {"BR": "ok", "CN": "ok"})
    assert done.events_named("run_started")[0]["codes"] == (None if source == "stdin" else 2)
    assert done.events_named("run_started")[0]["workers"] == (30 if source == "stdin" else 2)


def test_ids_keep_case_and_path(tmp_path: Path) -> None:
    """The segments of ids become directories, and ids that differ in case only are two files."""
    ids = ["7/66/42", "acme.com", "aB", "Ab"]
    with ScriptedServer({f"/{name}.png": Answer(body=PNG) for name in ids}) as server:
        done = flagjob(*ids, cwd=tmp_path, settings={"FLAGJOB_URL": server.url("/{id}.png")})
    assert done.code == 0
    assert sorted(files(tmp_path / "downloads")) == sorted(f"{name}.png" for name in ids)
    assert {request.target for request in server.requests} == {f"/{name}.png" for name in ids}


def test_real_ids_are_downloaded_verified_and_summed(tmp_path: Path) -> None:
    """Ids with signs and letters of any script are files that SHA256SUMS and verify agree about, run after run."""
    ids = ["it's(1)=2:3+4~5", "100%/\u00e4\u00df", "\u65d7/\u0639\u064e\u0644\u0645", "\u0e18\u0e07"]
    paths = {f"/{quote(name)}.png": Answer(body=PNG) for name in ids}
    settings = {"FLAGJOB_CODES_FILE": "-"}
    with ScriptedServer(paths) as server:
        settings["FLAGJOB_URL"] = server.url("/{id}.png")
        runs = [flagjob(cwd=tmp_path, stdin="\n".join(ids).encode(), settings=settings) for _ in range(2)]
    results = [[(line["code"], line["status"]) for line in done.events_named("result")] for done in runs]
    assert [sorted(found) for found in results] == [
        sorted((name, status) for name in ids) for status in ("ok", "unchanged")
    ]
    assert sorted(files(tmp_path / "downloads")) == sorted(f"{name}.png" for name in ids)
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path / "downloads", check=True)
    verified = flagjob("verify", cwd=tmp_path)
    assert (verified.code, verified.events_named("verify_finished")[0]["counts"]["whole"]) == (0, 4)


def test_files_are_fanned_out(tmp_path: Path) -> None:
    """FLAGJOB_FILE names the files, and its suffix tells their type; the URL is the same."""
    with ScriptedServer({f"/logo/{name}": Answer(body=PNG) for name in ("acme", "7")}) as server:
        settings = {"FLAGJOB_URL": server.url("/logo/{id}"), "FLAGJOB_FILE": "{id:.2}/{id}.png"}
        done = flagjob("acme", "7", "a/b", cwd=tmp_path, settings=settings)
    assert sorted(files(tmp_path / "downloads")) == ["7/7.png", "ac/acme.png"]
    assert [(line["code"], line["reason"]) for line in done.events_named("result") if line["reason"]] == [
        ("a/b", "invalid_code")
    ]


def test_a_single_letter_is_an_id_among_ids(tmp_path: Path) -> None:
    """X stands for XA to XZ among codes only: an id is taken verbatim."""
    done = flagjob("x", "--dry-run", "--url", "http://localhost/{id}.png", cwd=tmp_path)
    assert [line["code"] for line in done.events_named("item")] == ["x"]


@row(36, 39)
def test_hostile_codes_reach_no_url_and_no_path(tmp_path: Path) -> None:
    """Each hostile code has a line with invalid_code; the origin gets no request, and no file is written."""
    hostile = [b"../../etc/passwd", b"cn?x", b"cn#f", b"cn/../us", b"c%6e", b"x" * 10_000, b"\xff\xfe", b"a\x00b"]
    with ScriptedServer({}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_CODES_FILE": "-"}
        done = flagjob(cwd=tmp_path, stdin=b"\n".join(hostile), settings=settings)
    assert (done.code, server.connections) == (4, 0)
    assert [(line["status"], line["reason"]) for line in done.events_named("result")] == [("error", "invalid_code")] * 8
    assert all(len(line["code"]) <= 80 for line in done.events_named("result"))
    assert files(tmp_path) == {}


@row(21)
def test_a_busy_origin_is_asked_again(tmp_path: Path) -> None:
    """A 503 with Retry-After is retried after that wait; the line of the retry agrees with the result line."""
    script = {"/br.gif": [Answer(503, {"Retry-After": "0"}), Answer(body=GIF)]}
    with ScriptedServer(script) as server:
        done = flagjob("BR", cwd=tmp_path, settings={"FLAGJOB_URL": server.url("/{cc}.gif")})
    (retry,) = done.events_named("retry")
    assert (done.code, done.statuses, len(server.requests)) == (0, {"BR": "ok"}, 2)
    assert (retry["code"], retry["attempt"], retry["reason"], retry["http_status"]) == ("BR", 1, "http_503", 503)
    assert retry["wait_s"] <= 1
    assert done.events_named("result")[0]["attempts"] == 2
    assert done.summary["retries"] == 1


@pytest.mark.parametrize(
    ("step", "reason", "code"),
    [
        (Answer(body=HTML), "bad_content", 3),
        (Answer(), "empty", 3),
        (Answer(206, body=GIF), "http_206", 4),
        (Answer(500), "http_500", 3),
        (Answer(403), "http_403", 4),
        (Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + GIF), "truncated", 3),
        (Answer(body=numbered_gif(1, 2000)), "too_large", 4),
        (Answer(302, {"Location": "http://localhost:1/"}), "redirect_refused", 4),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_response_never_replaces_the_file(tmp_path: Path, step: Step, reason: str, code: int) -> None:
    """The last good copy survives; the line has the reason, and the exit code shows whether a later run may heal it."""
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "br.gif").write_bytes(PNG)
    with ScriptedServer({"/br.gif": step}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_MAX_ATTEMPTS": "1", "FLAGJOB_MAX_BYTES": "1kB"}
        done = flagjob("BR", cwd=tmp_path, settings=settings)
    (line,) = done.events_named("result")
    assert (line["status"], line["reason"], line["data"], done.code) == ("error", reason, None, code)
    assert line["error"]
    assert files(tmp_path) == {"downloads/br.gif": PNG}


@row(1)
def test_a_dead_origin_is_distinguished_from_failing_items(tmp_path: Path) -> None:
    """If no item got any response the exit code is 6."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = {"FLAGJOB_URL": f"http://127.0.0.1:{port}/{{cc}}.gif", "FLAGJOB_MAX_ATTEMPTS": "1"}
    done = flagjob("BR", "CN", cwd=tmp_path, settings=settings)
    assert (done.code, done.summary["outcome"], done.statuses) == (6, "origin_down", {"BR": "error", "CN": "error"})


@row(40)
def test_eight_wrong_settings_are_eight_messages(tmp_path: Path) -> None:
    """Eight wrong settings are eight lines with setting, value and problem; exit 2, no request, no file.

    Only the value of a name that no setting has is not shown: it may be a secret.
    """
    wrong = {
        "FLAGJOB_URL": "",
        "FLAGJOB_WORKERS": "many",
        "FLAGJOB_MAX_BYTES": "-1",
        "FLAGJOB_DEADLINE": "soon",
        "FLAGJOB_ACCEPT": "bmp",
        "FLAGJOB_MAX_ERRORS": "200%",
        "FLAGJOB_METRICS_ADDRESS": "9464",
        "FLAGJOB_WORKRES": "3",
        "FLAGJOB_SERVICE_HOST": "10.0.0.1",
        "FLAGJOB_PORT_80_TCP": "tcp://10.0.0.1:80",
    }
    done = flagjob("BR", cwd=tmp_path, settings=wrong)
    faults = done.events_named("usage_error")
    assert (done.code, len(done.events), files(tmp_path)) == (2, 8, {})
    shown = {**wrong, "FLAGJOB_WORKRES": None}
    assert {(line["setting"], line["value"]) for line in faults} == set(list(shown.items())[:8])
    assert all(line["problem"] in line["message"] for line in faults)
    assert (
        "did you mean FLAGJOB_WORKERS?"
        in next(line for line in faults if line["setting"] == "FLAGJOB_WORKRES")["problem"]
    )


@row(40)
@pytest.mark.parametrize("content", [b"", b"# only a comment\r\n\r\n"])
def test_a_list_without_codes_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    """An empty list is no successful run."""
    done = flagjob("-", cwd=tmp_path, stdin=content)
    assert (done.code, files(tmp_path)) == (2, {})
    assert done.events_named("usage_error")[0]["setting"] == "codes"


@row(42)
@row(47)
def test_sigterm_ends_the_run_in_good_order(tmp_path: Path) -> None:
    """SIGTERM in mid-run lets active downloads end, tears no file, leaves a line for each item, and exits with 143."""
    codes, release = [f"c{number}" for number in range(100)], threading.Event()

    def answer(_request: Request) -> Step:
        return Hold(release, Answer(body=GIF))

    with ScriptedServer({f"/{code}.gif": answer for code in codes}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "5", "FLAGJOB_METRICS_FILE": "x.prom"}
        with start_flagjob(*codes, cwd=tmp_path, settings=settings) as process:
            server.wait_for(5)
            process.send_signal(signal.SIGTERM)
            assert process.stdout
            lines = []
            for line in process.stdout:
                lines.append(json.loads(line))
                if lines[-1]["event"] == "interrupted":
                    release.set()
            assert process.wait(TIMEOUT) == 143
    (interrupted,) = [line for line in lines if line["event"] == "interrupted"]
    assert (interrupted["signal"], interrupted["in_flight"], interrupted["cancelled"]) == ("SIGTERM", 5, 5)
    results = Counter(line["status"] for line in lines if line["event"] == "result")
    assert (sum(results.values()), set(results), len(server.requests)) == (100, {"ok", "cancelled"}, 5)
    assert (lines[-1]["outcome"], lines[-1]["exit_code"]) == ("sigterm", 143)
    assert set(files(tmp_path / "downloads").values()) == {GIF}
    assert "flagjob_last_run_exit_code 143.0" in (tmp_path / "x.prom").read_text()


@row(65)
@pytest.mark.usefixtures("heeded_hangup")
@pytest.mark.parametrize("hangups", [1, 3])
def test_a_hangup_ends_the_run_in_good_order(tmp_path: Path, hangups: int) -> None:
    """SIGHUP ends the run as SIGTERM does, with exit code 129; the kernel and the shell may send it more than once."""
    line, release = line_of("SIGHUP"), threading.Event()
    codes = [f"c{number}" for number in range(20)]
    with ScriptedServer({f"/{code}.gif": Hold(release, Answer(body=GIF)) for code in codes}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "5"}
        with start_flagjob(*codes, cwd=tmp_path, settings=settings) as process:
            server.wait_for(5)
            assert process.stdout
            lines = []
            process.send_signal(signal.SIGHUP)
            for text in process.stdout:
                lines.append(json.loads(text))
                if lines[-1]["event"] == "interrupted":
                    for _ in range(hangups - 1):
                        wait_until_asleep(process)  # so that it is handled before the next one, and before the end
                        process.send_signal(signal.SIGHUP)
                    wait_until_asleep(process)
                    release.set()
            assert process.wait(TIMEOUT) == line.exit_code
    (interrupted,) = [line for line in lines if line["event"] == "interrupted"]
    results = Counter((line["status"], line["reason"]) for line in lines if line["event"] == "result")
    assert results == {("ok", None): 5, tuple(line.words): 15}
    assert (interrupted["signal"], lines[-1]["outcome"], lines[-1]["exit_code"]) == ("SIGHUP", "sighup", 129)


@row(65)
def test_a_hangup_that_nohup_ignores_changes_nothing(tmp_path: Path) -> None:
    """A process that was started with SIGHUP ignored goes on after one."""
    line, release = line_of("a SIGHUP that the process was told to ignore"), threading.Event()
    with ScriptedServer({"/br.gif": Hold(release, Answer(body=GIF))}) as server:
        command = ["nohup", sys.executable, "-m", "job", "BR"]
        env = environment(FLAGJOB_URL=server.url("/{cc}.gif"))
        with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
            server.wait_for(1)
            process.send_signal(signal.SIGHUP)
            release.set()
            stdout, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, Done(process.returncode, stdout, "").statuses) == (line.exit_code, {"BR": "ok"})


@pytest.fixture
def heeded_hangup() -> Iterator[None]:
    """Let the processes that the test starts die of SIGHUP by default, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def run_on_lost_terminal(cwd: Path, redirection: str, *, ignores: bool = False) -> int:
    """Run on a terminal that is closed while the run has requests under way; return the exit code."""
    release = threading.Event()
    codes = [f"c{number}" for number in range(40)]
    with ScriptedServer({f"/{code}.gif": Hold(release, Answer(body=GIF)) for code in codes}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "5", "FLAGJOB_TERMINATION_LOG": "end"}
        trap = "trap '' HUP; " if ignores else ""
        shell = f"{trap}exec {shlex.join([sys.executable, '-m', 'job', *codes])} {redirection}"
        terminal, other_end = pty.openpty()
        command = ["setsid", "--ctty", "sh", "-c", shell]  # on a terminal of its own, as a login session is
        with subprocess.Popen(
            command, cwd=cwd, env=environment(**settings), stdin=other_end, stdout=other_end, stderr=other_end
        ) as process:
            os.close(other_end)
            server.wait_for(5)
            os.close(terminal)
            release.set()
            return process.wait(TIMEOUT)


@row(65)
@pytest.mark.usefixtures("heeded_hangup")
@pytest.mark.parametrize("redirection", ["", "> log", "2> /dev/null", "> log 2> /dev/null"])
def test_a_run_outlives_its_terminal_until_its_summary(tmp_path: Path, redirection: str) -> None:
    """When the terminal is closed the run ends with 129 and its summary, whatever was shown on the terminal."""
    line = line_of("SIGHUP")
    assert run_on_lost_terminal(tmp_path, redirection) == line.exit_code
    summary = json.loads((tmp_path / "end").read_bytes())
    assert (summary["outcome"], summary["codes"]) == ("sighup", 40)
    assert summary["counts"]["ok"] == len(files(tmp_path / "downloads"))


def test_a_log_on_a_lost_terminal_is_one_that_nobody_reads(tmp_path: Path) -> None:
    """A run that ignores SIGHUP, but whose log goes to a terminal that is gone, ends with exit code 5."""
    assert run_on_lost_terminal(tmp_path, "", ignores=True) == 5


@row(65)
def test_success_is_silent_at_level_warning(tmp_path: Path) -> None:
    """A run that succeeds at level warning writes nothing, so that cron sends no mail; one that fails ends with why."""
    good = flagjob("BR", cwd=tmp_path, settings={"FLAGJOB_LOG_LEVEL": "warning"})
    bad = flagjob("ZZ", cwd=tmp_path, settings={"FLAGJOB_LOG_LEVEL": "warning"})
    assert (good.code, good.stdout, good.stderr) == (line_of("cron").exit_code, b"", "")
    assert ([line["event"] for line in bad.events], bad.summary["exit_code"]) == (["result", "run_finished"], 4)


@row(47)
def test_a_stalled_transfer_does_not_outlast_the_grace(tmp_path: Path) -> None:
    """An origin that never responds cannot hold an interrupted run: the download is aborted and cancelled."""
    with ScriptedServer({"/br.gif": Stall()}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_SHUTDOWN_GRACE": "0.2"}
        with start_flagjob("BR", cwd=tmp_path, settings=settings) as process:
            server.wait_for(1)
            process.send_signal(signal.SIGINT)
            stdout, _ = process.communicate(timeout=TIMEOUT)
    lines = list(map(json.loads, stdout.splitlines()))
    assert process.returncode == 130
    assert [(line["status"], line["reason"]) for line in lines if line["event"] == "result"] == [
        ("cancelled", "signal")
    ]


@row(47)
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A second signal ends the process at once, without the grace period of the first."""
    with ScriptedServer({"/br.gif": Stall()}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "1", "FLAGJOB_SHUTDOWN_GRACE": "600"}
        with start_flagjob("BR", "CN", cwd=tmp_path, settings=settings) as process:
            server.wait_for(1)
            process.send_signal(signal.SIGTERM)
            assert process.stdout
            assert any(b'"status":"cancelled"' in line for line in process.stdout)  # CN's: the first one was heeded
            wait_until_asleep(process)  # CPython 3.12 tells coverage nothing of a handler that interrupts a call
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 143


NESTED = """
import signal, sys
import job.run
from job import cli
from job.cancellation import Cancellation

class Interrupted(Cancellation):
    def request(self, reason, number=None):
        signal.raise_signal(signal.SIGTERM)  # on this thread, so that the handler interrupts the first one here

class Run:
    def __init__(self, *_, **__):
        pass

    def execute(self):
        signal.raise_signal(signal.SIGINT)

job.run.Run = Run
cli.Cancellation = Interrupted
sys.exit(cli.main(["BR"]))
"""


@row(47)
def test_a_second_signal_may_interrupt_the_handler_of_the_first(tmp_path: Path) -> None:
    """A second signal that interrupts the handler of the first ends the process at once, with the second's code."""
    command = [sys.executable, "-c", NESTED]
    assert subprocess.run(command, cwd=tmp_path, env=environment(), check=False, timeout=TIMEOUT).returncode == 143


@row(47)
def test_standard_input_that_never_ends_does_not_hold_the_run(tmp_path: Path) -> None:
    """SIGTERM while the job waits for more codes ends it; the codes that arrived have their lines."""
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_WORKERS": "1", "FLAGJOB_CODES_FILE": "-"}
        with start_flagjob(cwd=tmp_path, settings=settings) as process:
            assert process.stdin
            process.stdin.write(b"BR\n")
            process.stdin.flush()
            server.wait_for(1)
            process.send_signal(signal.SIGTERM)
            assert process.stdout
            lines = list(map(json.loads, process.stdout))
            assert process.wait(TIMEOUT) == 143
    assert [line["code"] for line in lines if line["event"] == "result"] == ["BR"]


def test_results_come_while_standard_input_is_silent(tmp_path: Path) -> None:
    """A code that a slow writer has sent has its result line before the next code comes, or the list ends."""
    with start_flagjob("-", cwd=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        events = map(json.loads, process.stdout)
        for code in ("BR", "CN"):
            process.stdin.write(f"{code}\n".encode())
            process.stdin.flush()
            result = next(event for event in events if event["event"] == "result")
            assert (result["code"], result["status"]) == (code, "ok")
        process.stdin.close()
        assert process.wait(TIMEOUT) == 0


@row(54)
def test_the_deadline_ends_the_run(tmp_path: Path) -> None:
    """The deadline ends the run with exit code 7; the next run downloads only the rest."""
    with ScriptedServer({"/br.gif": Answer(body=GIF), "/cn.gif": Stall()}) as server:
        settings = {"FLAGJOB_DEADLINE": "3", "FLAGJOB_SHUTDOWN_GRACE": "0.2", "FLAGJOB_URL": server.url("/{cc}.gif")}
        done = flagjob("BR", "CN", cwd=tmp_path, settings=settings)
    assert (done.code, done.summary["outcome"]) == (7, "deadline")
    assert {(line["code"], line["status"], line["reason"]) for line in done.events_named("result")} == {
        ("BR", "ok", None),
        ("CN", "cancelled", "deadline"),
    }


@pytest.mark.slow
@row(54)
@pytest.mark.parametrize(("said", "codes"), [(b"BR\n", ["BR"]), (b"BR C", ["BR"]), (b"", [])])
def test_the_deadline_holds_while_no_code_comes(tmp_path: Path, said: bytes, codes: list[str]) -> None:
    """A silent standard input cannot hold a run beyond its deadline; an incomplete code at that time is ignored."""
    with start_flagjob("-", "--deadline", "3", cwd=tmp_path) as process:
        assert process.stdin
        process.stdin.write(said)
        process.stdin.flush()
        assert process.stdout
        lines = list(map(json.loads, process.stdout))
        assert process.wait(TIMEOUT) == 7
    assert [line["code"] for line in lines if line["event"] == "result"] == codes
    assert lines[-1]["event"] == "run_finished"


@row(47)
@pytest.mark.parametrize("source", ["-", "pipe"])
def test_a_signal_before_the_first_code_is_no_usage_error(tmp_path: Path, source: str) -> None:
    """A run that waits for its list, also for a pipe that has no writer yet, is interrupted with 143, not 2."""
    os.mkfifo(tmp_path / "pipe")
    with start_flagjob("--codes-file", source, cwd=tmp_path) as process:
        wait_for_signal_handlers(process, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert json.loads(stdout.splitlines()[-1])["outcome"] == "sigterm"


@row(53)
@pytest.mark.slow
def test_each_code_of_a_list_that_is_still_read_has_its_line(tmp_path: Path) -> None:
    """After an origin was given up, each code that is still on standard input has its line, and none is incomplete."""
    codes = [f"C{number:05}" for number in range(20_000)]
    settings = {"FLAGJOB_URL": "http://127.0.0.1:1/{cc}.gif"}
    done = flagjob("-", cwd=tmp_path, stdin="\n".join(codes).encode(), settings=settings)
    assert (done.code, done.summary["codes"]) == (6, len(codes))
    assert sorted(line["code"] for line in done.events_named("result")) == codes


def test_a_list_that_cannot_be_read_on_ends_the_run_in_good_order(tmp_path: Path) -> None:
    """A terminal that is gone ends the run with exit code 5; each code that arrived has its line."""
    ours, theirs = os.openpty()
    os.write(theirs, b"BR\nCN\n")
    os.close(theirs)
    command = [sys.executable, "-m", "job", "-"]
    with os.fdopen(ours, "rb") as terminal:
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdin=terminal, capture_output=True, check=False, timeout=TIMEOUT
        )
    done = Done(ended.returncode, ended.stdout, ended.stderr.decode())
    assert (done.code, set(done.statuses), done.summary["outcome"]) == (5, {"BR", "CN"}, "storage")
    (line,) = done.events_named("storage_error")
    assert line["problem"] == "the rest of the list cannot be read: Input/output error"


def test_a_pipe_with_a_name_is_a_list(tmp_path: Path) -> None:
    """A named pipe is read as a list, even if its writer opens it later."""
    os.mkfifo(tmp_path / "pipe")
    with start_flagjob("--codes-file", "pipe", cwd=tmp_path) as process:
        (tmp_path / "pipe").write_text("BR CN")
        stdout, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, Done(0, stdout, "").statuses) == (0, {"BR": "ok", "CN": "ok"})


def test_a_dry_run_that_was_interrupted_is_no_success(tmp_path: Path) -> None:
    """An interrupted dry run has an incomplete plan and the exit code of the signal."""
    with start_flagjob("-", "--dry-run", cwd=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"BR\nC")
        process.stdin.flush()
        first = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, json.loads(first[1])["code"], stdout) == (143, "BR", b"")


def test_a_closed_standard_input_is_reported(monkeypatch: pytest.MonkeyPatch, capsysbinary: CaptureBytes) -> None:
    """`flagjob - <&-` has no standard input, and reports that."""
    monkeypatch.setattr(sys, "stdin", None)  # as Python starts without one
    assert main(["-"]) == 2
    assert json.loads(capsysbinary.readouterr().out)["message"] == "-: needs an open standard input"


def test_metrics_can_be_scraped_while_it_runs(tmp_path: Path) -> None:
    """During the run the endpoint has every series, with the active downloads."""
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ScriptedServer({"/br.gif": Hold(release, Answer(body=GIF))}) as server:
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_METRICS_ADDRESS": f":{port}"}
        with start_flagjob("BR", cwd=tmp_path, settings=settings) as process:
            server.wait_for(1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                scraped = answer.read().decode()
            release.set()
            assert process.wait(TIMEOUT) == 0
    for line in ("flagjob_active_downloads 1.0", "flagjob_workers 1.0", "flagjob_selected_codes 1.0"):
        assert f"\n{line}\n" in scraped
    assert 'flagjob_downloads_total{status="cancelled"} 0.0' in scraped
    assert "process_resident_memory_bytes" in scraped


@row(52)
def test_a_failed_metrics_target_changes_no_result(tmp_path: Path) -> None:
    """A taken port and a directory in the place of a file are one warning each; the exit code stays 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {
            "FLAGJOB_METRICS_ADDRESS": f"127.0.0.1:{taken.getsockname()[1]}",
            "FLAGJOB_METRICS_FILE": "/proc/flagjob.prom",
            "FLAGJOB_TERMINATION_LOG": "/proc/flagjob.json",
        }
        done = flagjob("BR", cwd=tmp_path, settings=settings)
    assert (done.code, done.statuses) == (0, {"BR": "ok"})
    assert [line["target"] for line in done.events_named("sink_failed")] == list(settings.values())


def test_the_termination_log_is_the_summary(tmp_path: Path) -> None:
    """The message that `kubectl describe` shows is the summary, as one JSON object."""
    done = flagjob("BR", "ZZ", cwd=tmp_path, settings={"FLAGJOB_TERMINATION_LOG": "message"})
    message = json.loads((tmp_path / "message").read_bytes())
    assert message.items() <= done.summary.items()
    assert (message["exit_code"], message["counts"]["not_found"]) == (4, 1)


@pytest.mark.parametrize(("which", "logged"), [("all", {"BR", "ZZ"}), ("changed", {"BR", "ZZ"}), ("problems", {"ZZ"})])
def test_result_lines_can_be_fewer(tmp_path: Path, which: str, logged: set[str]) -> None:
    """Result lines can be limited, because a kubelet does not keep a million; the counts stay complete."""
    done = flagjob("BR", "ZZ", cwd=tmp_path, settings={"FLAGJOB_LOG_RESULTS": which})
    assert set(done.statuses) == logged
    assert done.summary["codes"] == 2


def test_verbose_shows_the_states_of_the_futures(tmp_path: Path) -> None:
    """Verbose logs the states scheduled and done for each code, as the book prints them."""
    done = flagjob("-v", "BR", "CN", cwd=tmp_path)
    assert sorted(line["code"] for line in done.events_named("scheduled")) == ["BR", "CN"]
    assert {line["future"] for line in done.events_named("done")} == {"Future state=finished returned Result"}


@row(51)
def test_a_reader_that_leaves_ends_the_run(tmp_path: Path) -> None:
    """A closed pipe is no success and no traceback: exit 5, and no file is torn."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "job", "BR"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=write, stderr=subprocess.PIPE, check=False, timeout=TIMEOUT
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (5, b"flagjob: standard output cannot be written: Broken pipe\n")


def test_help_and_version(tmp_path: Path) -> None:
    """Both end with 0 and write no other output."""
    version, page = flagjob("--version", cwd=tmp_path), flagjob("run", "--help", cwd=tmp_path)
    assert (version.code, version.stdout.decode()) == (0, f"flagjob {__version__}\n")
    assert (page.code, page.stdout[:14]) == (0, b"usage: flagjob")


def test_run_is_implied(tmp_path: Path) -> None:
    """`flagjob run BR` and `flagjob BR` are the same."""
    assert (flagjob("run", "BR", cwd=tmp_path).statuses, flagjob("BR", cwd=tmp_path).statuses) == (
        {"BR": "ok"},
        {"BR": "unchanged"},
    )


def test_a_slow_faulty_origin_can_be_tried(tmp_path: Path) -> None:
    """The option -s error selects the book's faulty server; the requests that it refuses are retried."""
    done = flagjob("-s", "ERROR", "BR", "CN", cwd=tmp_path, settings={"FLAGJOB_MAX_ATTEMPTS": "50"})
    assert (done.code, done.statuses) == (0, {"BR": "ok", "CN": "ok"})


STUCK = """
import sys, threading, time
import job.run
from job import cli

class Run:
    abandoned = 1

    def __init__(self, *_, **__):
        threading.Thread(target=time.sleep, args=(600,)).start()

    def execute(self):
        return 6

job.run.Run = Run
sys.exit(cli.main(["BR"]))
"""


@row(14)
def test_a_thread_that_cannot_be_joined_does_not_hold_the_process(tmp_path: Path) -> None:
    """A run ends although one of its workers never returns, for example from a name look-up."""
    command = [sys.executable, "-c", STUCK]
    assert subprocess.run(command, cwd=tmp_path, env=environment(), check=False, timeout=TIMEOUT).returncode == 6


LEFT_BEHIND = """
import contextlib, sys, threading
import job.run
from job import cli
from job.errors import Cancelled
from job.log import RunLog

class Run:
    abandoned = 0

    def __init__(self, settings, cancellation, stdout, **_):
        self.log = RunLog(stdout)
        threading.Thread(target=self.work, args=[cancellation]).start()

    def work(self, cancellation):
        with contextlib.suppress(Cancelled):
            cancellation.sleep(600)

    def execute(self):
        raise ZeroDivisionError

job.run.Run = Run
sys.exit(cli.main(["BR"]))
"""


def test_a_bug_ends_the_threads_of_the_run(tmp_path: Path) -> None:
    """A run that ends by an exception is cancelled, so that its threads cannot hold the process."""
    command = [sys.executable, "-c", LEFT_BEHIND]
    assert subprocess.run(command, cwd=tmp_path, env=environment(), check=False, timeout=TIMEOUT).returncode == 1


EARLY = """
import os, signal, sys
import job.log
from job import cli

class Log(job.log.RunLog):
    def info(self, event, **facts):
        super().info(event, **facts)
        os.kill(os.getpid(), signal.SIGTERM)  # the server runs, but the main thread does not wait for a signal yet

job.log.RunLog = Log
sys.exit(cli.main(["serve", "--port=0"]))
"""


def test_a_signal_before_the_server_waits_for_it_is_not_lost(tmp_path: Path) -> None:
    """SIGTERM ends `flagjob serve` with 0 also between its log line and its wait, in whatever thread it arrives."""
    command = [sys.executable, "-c", EARLY]
    assert subprocess.run(command, cwd=tmp_path, env=environment(), check=False, timeout=TIMEOUT).returncode == 0


@row(56)
def test_a_bug_is_reported_as_one(tmp_path: Path) -> None:
    """An unexpected exception is exit code 1 and one log line with its traceback."""
    broken = STUCK.replace("threading.Thread(target=time.sleep, args=(600,)).start()", "raise ZeroDivisionError")
    done = subprocess.run(
        [sys.executable, "-c", broken],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    line = json.loads(done.stdout)
    assert (done.returncode, line["event"], line["exception"][0]["exc_type"]) == (1, "bug", "ZeroDivisionError")


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("can't start new thread")])
def test_a_machine_without_room_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: CaptureBytes, error: Exception
) -> None:
    """A lack of memory or threads that no code expects is exit code 5, with the missing resource in the log."""

    def fail(_run: Run) -> int:
        raise error

    monkeypatch.setattr(Run, "execute", fail)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = main(["BR"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    problem = json.loads(capsysbinary.readouterr().out)["problem"]
    assert (code, problem) == (5, f"this machine lacks a resource: {error!r}")


BROKEN = """
import sys
from job import validation, cli

validation.validate = lambda *_: 1 / 0
sys.exit(cli.main(["BR", "ZZ"]))
"""


@row(56)
def test_a_bug_in_one_item_costs_that_item(tmp_path: Path) -> None:
    """A bug in one item does not stop the others; its line has the traceback and the code, and the exit code is 1."""
    command = [sys.executable, "-c", BROKEN]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, check=False, timeout=TIMEOUT
    )
    done = Done(ended.returncode, ended.stdout, "")
    (bug,) = done.events_named("bug")
    assert (done.code, done.statuses) == (1, {"BR": "error", "ZZ": "not_found"})
    assert (bug["code"], bug["exception"][0]["exc_type"]) == ("BR", "ZeroDivisionError")


def test_a_list_that_cannot_be_read_on_is_reported(tmp_path: Path) -> None:
    """A disk that fails while the codes are read is exit code 5, with the error of the system."""
    done = flagjob("--codes-file", "/proc/self/mem", cwd=tmp_path)
    assert (done.code, "Input/output error" in done.events_named("storage_error")[0]["problem"]) == (5, True)


HEAVY = ["requests", "structlog", "prometheus_client", "tenacity", "pycurl", "http.server", "tqdm", "obstore"]
"""Libraries that take more time to import than a page of help does to print."""


@pytest.mark.parametrize(
    ("argv", "needed"),
    [(["--help"], []), (["--version"], []), (["verify", "--help"], []), (["verify"], ["structlog"])],
    ids=" ".join,
)
def test_a_command_imports_only_what_it_needs(tmp_path: Path, argv: list[str], needed: list[str]) -> None:
    """Pages of help import no library of a run, and verify none that sends requests."""
    program = f"import sys; from job.cli import main; main({argv}); print([m for m in {HEAVY} if m in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert ended.stdout.decode().splitlines()[-1] == str(needed)


def test_garbage_is_collected_but_not_among_modules(tmp_path: Path) -> None:
    """A run collects garbage as Python always does, except among what was imported before it."""
    program = (
        "import gc; from job.cli import main; main(['--dry-run']); print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, check=True, timeout=TIMEOUT
    )
    assert ended.stdout.decode().splitlines()[-1] == "True True"
