"""Why a run failed: the cause in the summary, in the closing words, in the termination message and as a metric."""

import json
import socket
from io import BytesIO
from pathlib import Path

import pytest
from command import flagjob
from hypothesis import given
from hypothesis import strategies as st
from images import GIF, HTML
from inprocess import run_here
from rows import row
from scripted import Answer, ScriptedServer

from job.cancellation import Cancellation
from job.errors import TOO_MANY_CHANGED, Reason
from job.exit_code import ExitCode, Totals, find_cause
from job.log import termination_message
from job.metrics import Metrics
from job.model import Cause, Result, Status, Summary
from job.progress import summary_text
from job.reporting import Reporting
from job.settings import load, parse_arguments

KEPT_LOG_BYTES = 10 * 1024 * 1024
"""What a kubelet keeps of a container's log (containerLogMaxSize)."""
KEPT_MESSAGE_BYTES = 4096
"""What it keeps of a termination message."""
OK = Result(Status.OK, None, "CN", attempts=1, answered=True)
BUSY = Result(Status.ERROR, None, "CN", reason="http_503", retryable=True, attempts=1, answered=True, error="busy 1")
BUSY_AGAIN = Result(Status.ERROR, None, "CN", reason="http_503", retryable=True, attempts=1, error="busy 2")
REFUSED = Result(Status.ERROR, None, "CN", reason=Reason.CONNECTION, retryable=True, attempts=1, error="refused")
MISSING = Result(Status.NOT_FOUND, None, "CN", reason="http_404", attempts=1, answered=True, error="404")
GUESSED = Result(Status.NOT_FOUND, None, "CN", reason="http_404", speculative=True, attempts=1, answered=True)
BUG = Result(Status.ERROR, None, "CN", reason=Reason.INTERNAL, error="ValueError: x")
NOT_BEGUN = Result(Status.CANCELLED, None, "CN", reason=Reason.DEADLINE)
WAITED = Result(Status.CANCELLED, None, "CN", reason=Reason.DEADLINE, error="timed out")
UNKNOWN = Result(Status.ERROR, None, "CN", reason=Reason.DNS, error="no such name 1")
DOWN = Cause(Reason.DNS, "no such name 9")
FULL = Cause(Reason.STORAGE, "disk full")


def totals(*results: Result) -> Totals:
    counted = Totals()
    for result in results:
        counted.add(result)
    return counted


def closed_url() -> str:
    """Return the template of an origin on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/{{cc}}.gif"


@pytest.mark.parametrize(
    ("code", "results", "ending", "cause"),
    [
        (0, [OK, GUESSED], None, None),
        (3, [OK, REFUSED, BUSY, BUSY_AGAIN, *[GUESSED] * 9, *[NOT_BEGUN] * 9], None, Cause("http_503", "busy 1")),
        (4, [OK, MISSING], None, Cause("http_404", "404")),
        (1, [BUSY, BUSY, BUG], None, Cause("internal", "ValueError: x")),
        (5, [BUSY, Result(Status.CANCELLED, None, "CN", reason="storage", error="busy")], FULL, FULL),
        (6, [NOT_BEGUN], DOWN, DOWN),
        (6, [UNKNOWN], DOWN, Cause("dns", "no such name 1")),
        (6, [REFUSED, NOT_BEGUN, NOT_BEGUN], None, Cause("connection", "refused")),
        (6, [NOT_BEGUN, WAITED], None, Cause("deadline", "timed out")),
        (6, [], None, Cause("origin_down")),
        (7, [BUSY, NOT_BEGUN], None, Cause("deadline")),
        (7, [BUSY, NOT_BEGUN, WAITED], None, Cause("deadline", "timed out")),
        (129, [BUSY], None, Cause("signal")),
        (143, [], None, Cause("signal")),
    ],
)
def test_the_cause_is_that_of_the_exit_code(
    code: int, results: list[Result], ending: Cause | None, cause: Cause | None
) -> None:
    """What ended the run is its cause, else the most frequent failure; the error is the first of its kind."""
    endings = {code: ending} if ending else {}
    assert find_cause(code, totals(*results), endings, is_over_budget=True) == cause


def test_a_set_that_changed_too_much_has_that_cause() -> None:
    """Failures within their budgets are not why a set was not published."""
    assert find_cause(4, totals(OK, MISSING), {}, is_over_budget=False) == Cause(TOO_MANY_CHANGED)


def test_a_uniform_failure_is_the_cause() -> None:
    """The failure that all items had in common is the cause, however few they were."""
    counted = totals(MISSING, *[BUSY] * 3)
    counted.uniform_failure = MISSING
    assert find_cause(4, counted, {}, is_over_budget=True) == Cause("http_404", "404")


def test_the_five_most_frequent_reasons_are_counted() -> None:
    """They come in the order of their numbers; items that are well have no reason."""
    numbers = {"dns": 1, "tls": 3, "timeout": 2, "empty": 7, "http_500": 5, "http_404": 6}
    results = [Result(Status.ERROR, None, "CN", reason=name) for name, number in numbers.items() for _ in range(number)]
    assert list(totals(OK, *results).most_frequent_reasons.items()) == [
        ("empty", 7),
        ("http_404", 6),
        ("http_500", 5),
        ("tls", 3),
        ("timeout", 2),
    ]


def test_each_reason_has_its_first_item_as_an_example() -> None:
    """The example is the code of the first item with that reason, and its error if it has one."""
    other = Result(Status.ERROR, None, "US", reason="http_503", error="busy 3")
    assert totals(OK, BUSY, other, MISSING, NOT_BEGUN).examples == {
        "http_503": "CN: busy 1",
        "http_404": "CN: 404",
        "deadline": "CN",
    }


def test_the_closing_words_have_the_cause() -> None:
    """The cause with its host and error, and the reasons, stand before the elapsed time."""
    cause = Cause("connection", "refused", "https://example.org")
    counts = dict.fromkeys(Status, 0) | {Status.ERROR: 30, Status.CANCELLED: 70}
    summary = Summary(counts, 0, 0, 1.5, 6, "x", cause=cause, reasons={"origin_down": 70, "connection": 30})
    assert summary_text(summary).split("\n")[3:] == [
        "Cause: connection at https://example.org: refused",
        "Reasons: 70 origin_down, 30 connection.",
        "Elapsed time: 1.50s",
    ]
    assert "\nCause: signal.\n" in summary_text(Summary(counts, 0, 0, 1.5, 143, "x", cause=Cause("signal")))


def reported(cause: Cause, *words: str, **settings: str) -> tuple[dict[str, object], bytes]:
    """Report an end with this cause; return the last line and the log."""
    stdout = BytesIO()
    environ = {f"FLAGJOB_{name.upper()}": text for name, text in settings.items()}
    reporting = Reporting(load(parse_arguments(["BR", *words]), environ), Cancellation(), stdout, terminal=False)
    reporting.report_end(Summary(dict.fromkeys(Status, 10**9), 10**15, 10**9, 1e6, 6, "origin_down", cause=cause))
    line: dict[str, object] = json.loads(stdout.getvalue().splitlines()[-1])
    return line, stdout.getvalue()


def test_the_cause_shows_no_secret_and_no_control_character(tmp_path: Path) -> None:
    """The error is masked and made visible before it is cut, wherever it goes."""
    message = tmp_path / "message"
    error = f"\x1b[2J{'x' * 480} http://me:hunter2@host/?k=hunter2 Bearer hunter2hunter2"
    (tmp_path / "headers").write_text("Authorization: Bearer hunter2hunter2")
    settings = {"headers_file": str(tmp_path / "headers"), "termination_log": str(message)}
    line, log = reported(Cause("connection", error), **settings)
    for output in (log, message.read_bytes()):
        assert b"hunter2" not in output
        assert b"\\u001b" not in output
    assert json.loads(message.read_bytes())["cause"] == line["cause"]


@given(st.text(st.characters(), min_size=400, max_size=2000))
def test_the_termination_message_is_never_cut(text: str) -> None:
    """Whatever an error consists of, all of the message fits into what Kubernetes keeps."""
    stdout = BytesIO()
    reporting = Reporting(load(parse_arguments(["BR"]), {}), Cancellation(), stdout, terminal=False)
    cause = reporting.shown_cause(Cause("too_many_redirects", text))
    assert cause is not None
    longest = Cause(cause.reason, cause.error, f"https://{'h' * 253}:65535")
    reasons = dict.fromkeys([f"unexpected_encoding_{number}" for number in range(5)], 10**9)
    counts = dict.fromkeys(Status, 10**9)
    summary = Summary(counts, 10**15, 10**9, 1e6, 143, "origin_down", cause=longest, reasons=reasons)
    assert len(termination_message(summary, summary_text(summary))) <= KEPT_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("cause", "label"),
    [
        (None, "none"),
        (Cause("dns"), "dns"),
        (Cause("http_403"), "http_403"),
        (Cause("http_999"), "http_other"),
        (Cause(TOO_MANY_CHANGED), TOO_MANY_CHANGED),
    ],
)
def test_the_metric_has_one_series_of_a_closed_list(cause: Cause | None, label: str) -> None:
    """A run has one series of `flagjob_last_run_info`, so that a push replaces the one before."""
    metrics = Metrics("1", "r")
    metrics.record_end(Summary(dict.fromkeys(Status, 0), 0, 0, 1.0, 0, "ok", cause=cause), 1.0)
    (family,) = [family for family in metrics.registry.collect() if family.name == "flagjob_last_run_info"]
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"outcome": "ok", "reason": label}, 1)]


@row(53)
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_cause_outlives_the_log(tmp_path: Path) -> None:
    """Of 100,000 codes of a dead origin the last 10 MiB of the log, and the message, have host, reason and error."""
    (tmp_path / "codes").write_text("\n".join(f"c{number}" for number in range(100_000)))
    url = closed_url()
    settings = {"FLAGJOB_URL": url, "FLAGJOB_CODES_FILE": "codes", "FLAGJOB_TERMINATION_LOG": "message"}
    done = flagjob(cwd=tmp_path, settings={**settings, "FLAGJOB_METRICS_FILE": "run.prom"}, timeout=200)
    first = next(line for line in done.events if line["event"] in {"host_paused", "retry", "result"})
    assert first["reason"] == "connection"
    kept = done.stdout[-KEPT_LOG_BYTES:]
    assert len(done.stdout) > 2 * KEPT_LOG_BYTES
    assert b'"reason":"connection"' not in kept.rpartition(b"\n{")[0]
    last = json.loads(kept.splitlines()[-1])
    message = json.loads((tmp_path / "message").read_bytes())
    assert message.items() <= last.items()
    assert (tmp_path / "message").stat().st_size <= KEPT_MESSAGE_BYTES
    host = url.removesuffix("/{cc}.gif")
    assert (done.code, last["published"]) == (6, False)
    assert last["cause"] == {"reason": "connection", "error": first["error"], "host": host}
    assert sum(last["reasons"].values()) == last["codes"] == 100_000
    assert f"Cause: connection at {host}: {first['error']}" in last["summary"]
    labels = 'outcome="origin_down",reason="connection"'
    assert f"flagjob_last_run_info{{{labels}}} 1.0\n" in (tmp_path / "run.prom").read_text()


@row(42)
def test_a_failed_destination_is_reported_after_the_start(tmp_path: Path) -> None:
    """The first line says what was about to be done, the second why it is not; the cause is the same."""
    (tmp_path / "file").touch()
    done = run_here("cn", dest=tmp_path / "file", url="http://127.0.0.1:1/{cc}.gif")
    started, failed, *_ = done.events
    assert (started["event"], failed["event"]) == ("run_started", "storage_error")
    assert done.summary["cause"] == {"reason": "storage", "error": failed["problem"], "host": None}
    assert done.summary["published"] is False


def test_cancelled_items_are_counted_and_not_listed_among_problems(tmp_path: Path) -> None:
    """At `problems` a dead origin leaves the lines of the items that failed, and the number of the others."""
    codes = [f"c{number}" for number in range(300)]
    done = run_here(*codes, dest=tmp_path, url=closed_url(), log_results="problems", origin_patience="0")
    assert {line["status"] for line in done.events_named("result")} <= {"error"}
    assert done.summary["counts"]["cancelled"] >= 200
    assert done.summary["reasons"]["origin_down"] == done.summary["counts"]["cancelled"]


def test_a_run_that_refuses_one_page_for_everything_has_its_cause(tmp_path: Path) -> None:
    """The uniform failure is the cause, with the host of the origin."""
    codes = [f"c{number}" for number in range(130)]
    with ScriptedServer({f"/{code}.gif": Answer(body=HTML) for code in codes}) as server:
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1")
        host = server.url("").rstrip("/")
    cause = done.summary["cause"]
    assert (done.code, cause["reason"], cause["host"]) == (ExitCode.RETRYABLE, "bad_content", host)


def test_only_what_came_is_published(tmp_path: Path) -> None:
    """A run publishes something if a file came, or a set; one that finds everything unchanged publishes nothing."""
    with ScriptedServer({"/cn.gif": Answer(headers={"ETag": '"1"'}, body=GIF)}) as server:
        url = server.url("/{cc}.gif")
        runs = [run_here("cn", url=url, dest=tmp_path / "each") for _ in range(2)]
        sets = [run_here("cn", url=url, dest=tmp_path / "set", publish="set") for _ in range(2)]
        none = run_here("zz", url=url, dest=tmp_path / "each")
    assert [done.summary["published"] for done in (*runs, *sets, none)] == [True, False, True, True, False]
    assert (runs[0].summary["cause"], runs[0].summary["reasons"]) == (None, {})
