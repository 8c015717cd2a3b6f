"""The log: one line for each event, as JSON or for a console, without any secret."""

import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, tzinfo
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.display import Colour, Line
from job.errors import Fault, HttpError, LogError
from job.log import RunLog, termination_message
from job.model import InvalidItem, Result, Status, Stored, Summary
from job.progress import summary_text
from job.resilience.retrying import RetryEvent

OK = Result(
    Status.OK,
    Stored("br.gif", 359, "7101", "image/gif"),
    "BR",
    url="https://example.org/br.gif",
    http_status=200,
    attempts=1,
    duration_seconds=0.1234567,
)
FAILED = Result(Status.ERROR, None, "IN", reason="http_503", http_status=503, attempts=4, error="HTTP error 503 - Busy")
COUNTS = {**dict.fromkeys(Status, 0), Status.OK: 20}
SUMMARY = Summary(COUNTS, received_bytes=7000, retries=1, duration_seconds=1.23456, exit_code=0, outcome="ok")


def lines(write: Callable[[RunLog], object], **settings: Any) -> list[str]:
    stream = io.BytesIO()
    write(RunLog(stream, **settings))
    return stream.getvalue().decode().removesuffix("\n").split("\n") if stream.getvalue() else []


def event(write: Callable[[RunLog], object], **settings: Any) -> dict[str, Any]:
    (line,) = lines(write, **settings)
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_result_line_has_the_facts_of_its_result() -> None:
    """It is one JSON object: time, level and event first, then the run's fields, then the result's."""
    found = event(lambda log: log.log_results([OK]), fields={"run_id": "r1"})
    assert list(found)[:4] == ["timestamp", "level", "event", "run_id"]
    assert (found["level"], found["event"], found["run_id"]) == ("info", "result", "r1")
    assert found["data"] == {"path": "br.gif", "bytes": 359, "sha256": "7101", "content_type": "image/gif"}
    assert (found["code"], found["status"], found["http_status"], found["attempts"]) == ("BR", "ok", 200, 1)
    assert (found["duration_s"], found["reason"], found["url"]) == (0.123457, None, "https://example.org/br.gif")
    assert "error" not in found


def test_times_are_utc_with_microseconds() -> None:
    """Times are ISO 8601, so that lines sort and every reader understands them."""
    for found in (event(lambda log: log.info("x")), event(lambda log: log.log_results([OK]))):
        stamp = found["timestamp"]
        assert (len(stamp), stamp[10], stamp[-1]) == (27, "T", "Z")


@pytest.mark.parametrize(
    ("status", "level"),
    [("ok", "info"), ("unchanged", "info"), ("not_found", "warning"), ("error", "error"), ("cancelled", "warning")],
)
def test_the_level_of_a_result_follows_its_status(status: str, level: str) -> None:
    """An operator can filter by level for results that need attention."""
    assert event(lambda log: log.log_results([Result(Status(status), None, "BR")]))["level"] == level


def test_a_retry_line_says_what_failed_and_how_long_it_waits() -> None:
    """A retry line has the attempt, the maximum of attempts, the wait, the reason and the HTTP status."""
    found = event(lambda log: log.log_retry("IN", RetryEvent(1, 4, 0.81234, HttpError(503, "busy"))))
    facts = {"code": "IN", "attempt": 1, "max_attempts": 4, "wait_s": 0.812, "reason": "http_503", "http_status": 503}
    assert facts.items() <= found.items()
    assert (found["event"], found["level"]) == ("retry", "warning")


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_run_that_succeeds_is_silent_above_info(level: str) -> None:
    """Above level info the start, the end and the good results of a run or of `verify` are not logged; a plan is."""

    def write(log: RunLog) -> None:
        log.log_run_started(codes=20)
        log.info("builtin_origin")
        log.log_results([OK])
        log.log_plan("item", code="BR")
        log.log_verify_finished(0, {"intact": 1})
        log.log_run_finished(SUMMARY, "20 flags downloaded.")

    assert [json.loads(line)["event"] for line in lines(write, level=level)] == ["item"]


def test_a_run_that_fails_says_so_at_every_level() -> None:
    """At level error a run logs its errors and its end, and nothing below."""
    failed = Summary(COUNTS, 0, 0, 1.0, exit_code=3, outcome="retryable")

    def write(log: RunLog) -> None:
        log.log_run_started(codes=20)
        log.warning("sink_failed")
        log.error("storage_error")
        log.log_verify_finished(4, {"missing": 1})
        log.log_run_finished(failed, "")

    events = [json.loads(line)["event"] for line in lines(write, level="error")]
    assert events == ["storage_error", "verify_finished", "run_finished"]


def test_the_summary_adds_up() -> None:
    """The last line and the termination message have the same fields, in less than 2 kB."""
    (line,) = lines(lambda log: log.log_run_finished(SUMMARY, "20 flags downloaded."))
    message = json.loads(termination_message(SUMMARY, "20 flags downloaded."))
    assert message.items() <= json.loads(line).items()
    assert sum(message["counts"].values()) == message["codes"] == 20
    assert (message["exit_code"], message["outcome"], message["duration_s"]) == (0, "ok", 1.235)
    assert len(line) < 2000


def test_a_time_has_all_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time whose microseconds are 0 is written with six zeros: readers rely on one format."""
    monkeypatch.setattr("structlog.processors.datetime.datetime", _OnTheSecond)
    assert event(lambda log: log.info("builtin_origin"))["timestamp"] == "2026-11-22T04:17:00.000000Z"


class _OnTheSecond(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(2026, 11, 22, 4, 17, tzinfo=tz)


def test_a_part_of_a_secret_is_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Console lines are redacted before they are cut to the terminal's width."""
    monkeypatch.setenv("COLUMNS", "40")
    said = [f"no way by http://user:{'pass' * 20}@proxy/", f"no Bearer {'token' * 20}"]

    def write(log: RunLog) -> None:
        for text in said:
            log.log_results([Result(Status.ERROR, None, "BR", error=text)])

    by_proxy, by_token = lines(write, for_people=True, secrets=("token" * 20,))
    assert (by_proxy, by_token) == ("*** Error for BR: no way by http://***@…", "*** Error for BR: no Bearer ***")


def test_a_failed_run_ends_with_an_error() -> None:
    """The level of the last line is error if the exit code is not 0."""
    failed = Summary(COUNTS, 0, 0, 1.0, exit_code=3, outcome="retryable")
    assert event(lambda log: log.log_run_finished(failed, ""))["level"] == "error"


def test_futures_are_shown_without_their_addresses() -> None:
    """At level debug the states of a future are logged as the book prints them."""

    def write(log: RunLog) -> None:
        future: Future[Result] = Future()
        log.log_scheduled(InvalidItem("BR"), future)
        future.set_result(OK)
        log.log_done(InvalidItem("BR"), future)

    first, second = map(json.loads, lines(write, level="debug"))
    assert (first["event"], first["future"]) == ("scheduled", "Future state=pending")
    assert (second["event"], second["future"]) == ("done", "Future state=finished returned Result")
    assert lines(write, level="info") == []


def test_faults_of_the_input_get_a_line_each() -> None:
    """Each line has the setting, its value, and what a valid value would be."""
    found = event(lambda log: log.log_usage_errors([Fault("FLAGJOB_WORKERS", "many", "must be a whole number")]))
    assert (found["setting"], found["value"], found["problem"]) == ("FLAGJOB_WORKERS", "many", "must be a whole number")
    assert (found["level"], found["message"]) == ("error", "FLAGJOB_WORKERS 'many': must be a whole number")


@pytest.mark.parametrize("console", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter2@example.org/x",
        "https://example.org/x?token=hunter2&y=1",
        "proxy http://me:hunter2@10.0.0.1:3128 refused",
        'header "Bearer hunter2hunter2"',
        "with url: /in.gif?sig=hunter2hunter2 (Caused by ...)",
    ],
)
def test_secrets_are_redacted_everywhere(text: str, *, console: bool) -> None:
    """User, password and query of every URL are masked, and every text that is known to be secret."""
    (line,) = lines(lambda log: log.warning("sink_failed", target=text), secrets=["hunter2hunter2"], for_people=console)
    assert "hunter2" not in line
    assert "***" in line


def test_secrets_that_json_escapes_are_redacted() -> None:
    """A quote or a backslash in a password does not let it through."""
    known = 'pass"word\\1'
    (line,) = lines(lambda log: log.warning("x", text=f"<{known}>"), secrets=[known])
    assert json.loads(line)["text"] == "<***>"


@pytest.mark.parametrize("character", ["\\", '"', "\x7f", "\u2028", "\u00e9", *map(chr, range(0x20))])
def test_every_character_of_a_secret_is_redacted(character: str) -> None:
    """A secret is found in its JSON form whatever character it contains."""
    known = f"before{character}after"
    assert event(lambda log: log.info("x", text=f"<{known}>"), secrets=[known])["text"] == "<***>"


def test_a_secret_that_begins_with_another_secret_is_redacted_completely() -> None:
    """The longer secret is replaced first, so its end does not remain."""
    found = event(lambda log: log.info("x", text="<hunter2-and-more>"), secrets=["hunter2", "hunter2-and-more"])
    assert found["text"] == "<***>"


def test_short_and_numeric_secrets_leave_the_json_whole() -> None:
    """Texts such as 320320 or true are not masked, because that would break the line."""
    found = event(lambda log: log.info("x", bytes=320320, flag=True), secrets=["320320", "true", ""])
    assert (found["bytes"], found["flag"]) == (320320, True)


def test_a_code_is_shown_as_it_came() -> None:
    """A hostile code is logged unchanged, with query, quotes and control characters."""
    code = 'cn?x=1\x00\n\u2028"é'
    assert event(lambda log: log.log_results([Result(Status.ERROR, None, code)]))["code"] == code


@pytest.mark.parametrize("for_people", [False, True])
def test_text_that_is_no_utf_8_costs_no_line(*, for_people: bool) -> None:
    """A path that is not valid UTF-8 is logged with backslashes; the line is not lost."""
    (line,) = lines(lambda log: log.warning("sink_failed", target="/\udcff.prom", number=1), for_people=for_people)
    assert line.endswith(r"target=/\xff.prom number=1" if for_people else r'"target":"/\\xff.prom","number":1}')


INVISIBLE = ["\u200b", "\u00a0", "\ufeff", "\u202e", "\u2800", "\u3164", "\x7f", "\x1b", "\ufe0f", "\U000e0041"]


@pytest.mark.parametrize("character", INVISIBLE)
def test_what_cannot_be_seen_is_escaped(character: str) -> None:
    """JSON has its own escapes, which mean the same; a console line has Python's."""

    def write(log: RunLog) -> None:
        log.warning("sink_failed", target=f"/b{character}r é", path="s\u200bcret-1")

    (line,) = lines(write, secrets=["s\u200bcret-1"])
    assert json.loads(line)["target"] == f"/b{character}r é"
    assert character not in line
    assert "é" in line
    (shown,) = lines(write, for_people=True, secrets=["s\u200bcret-1"])
    escaped = character.encode("unicode_escape").decode()
    assert shown == f"sink failed target=/b{escaped}r é path=***"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_hides_in_a_line(text: str) -> None:
    """Whatever a text consists of, its JSON line has no character that is not printable, and says the same."""
    (line,) = lines(lambda log: log.info("x", text=text))
    assert line.isprintable()
    assert json.loads(line)["text"] == text


def test_json_stays_strict() -> None:
    """NaN, which JSON lacks, becomes null; a value of another type becomes text."""
    found = event(lambda log: log.info("x", number=math.nan, kind=Status))
    assert found["number"] is None
    assert found["kind"] == "<enum 'Status'>"


def test_a_traceback_shows_no_local_variables() -> None:
    """Local variables may hold secrets, so a traceback has only its frames."""

    def fail(password: str) -> float:
        return len(password) / 0

    def write(log: RunLog) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            fail("correct horse")
        log.log_bug(caught.value, code="BR")

    (line,) = lines(write)
    found = json.loads(line)
    assert found["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert "correct horse" not in line


def test_a_stream_that_cannot_be_written_is_a_log_error() -> None:
    """Writing to a closed stream raises LogError, not the ValueError of the stream."""
    closed = io.BytesIO()
    log = RunLog(closed)
    closed.close()
    with pytest.raises(LogError, match="standard output cannot be written: I/O operation on closed file"):
        log.info("x")
    with pytest.raises(LogError, match="standard output cannot be written: I/O operation on closed file"):
        log.log_results([OK])


def test_lines_of_many_threads_do_not_mix() -> None:
    """Long lines that ten threads write at the same time stay complete."""
    stream = io.BytesIO()
    ready = threading.Barrier(10)
    log = RunLog(stream)

    def write(number: int) -> None:
        ready.wait(10)
        for _ in range(50):
            log.info("x", number=number, text="y" * 5000)

    with ThreadPoolExecutor(10) as executor:
        list(executor.map(write, range(10)))
    numbers = [json.loads(line)["number"] for line in stream.getvalue().splitlines()]
    assert sorted(numbers) == sorted(list(range(10)) * 50)


class ExclusiveStream(io.BytesIO):
    """A stream that counts the writes which begin while another thread is still in a write."""

    def __init__(self) -> None:
        super().__init__()
        self.overlaps = 0
        self._is_free = threading.Lock()

    def write(self, data: Any, /) -> int:
        """Write slowly enough for another thread to come in."""
        if not self._is_free.acquire(blocking=False):
            self.overlaps += 1
            return 0
        try:
            threading.Event().wait(0.001)
            return super().write(data)
        finally:
            self._is_free.release()


def test_lines_of_every_kind_share_one_lock() -> None:
    """A line that is written at every level, or a batch, waits for the lines of other threads."""
    stream = ExclusiveStream()
    ready = threading.Barrier(6)
    log = RunLog(stream)
    kinds = [lambda: log.info("x"), lambda: log.log_plan("item"), lambda: log.log_results([OK, FAILED])]

    def write(number: int) -> None:
        ready.wait(10)
        for _ in range(20):
            kinds[number % 3]()

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(write, range(6)))
    assert (stream.overlaps, len(stream.getvalue().splitlines())) == (0, 160)


class CountingStream(io.BytesIO):
    """A stream that counts its writes and flushes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, data: Any, /) -> int:
        """Count a write."""
        self.calls.append("write")
        return super().write(data)

    def flush(self) -> None:
        """Count a flush."""
        self.calls.append("flush")


def test_a_batch_of_results_is_one_write() -> None:
    """Each result has a line of its own, in the order of the batch; all have one time and are written together."""
    stream = CountingStream()
    RunLog(stream).log_results([OK, FAILED] * 32)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ([line["code"] for line in found], stream.calls) == (["BR", "IN"] * 32, ["write", "flush"])
    assert len({line["timestamp"] for line in found}) == 1


def test_the_level_drops_lines_of_a_batch() -> None:
    """A batch of which the level drops every line writes nothing, not even an empty line."""
    stream = CountingStream()
    log = RunLog(stream, level="error")
    log.log_results([OK, FAILED, OK])
    log.log_results([OK, OK])
    assert (json.loads(stream.getvalue())["code"], stream.calls) == ("IN", ["write", "flush"])


def test_a_batch_holds_no_line_of_a_worker_back() -> None:
    """A line of another thread is written while a batch is rendered, before the batch."""
    stream = io.BytesIO()
    log = RunLog(stream)
    meanwhile: list[bytes] = []

    def results() -> Iterator[Result]:
        yield OK
        executor.submit(log.info, "x").result(10)
        meanwhile.extend(stream.getvalue().splitlines())
        yield FAILED

    with ThreadPoolExecutor(1) as executor:
        log.log_results(results())
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert ([json.loads(line)["event"] for line in meanwhile], events) == (["x"], ["x", "result", "result"])


class ShortStream(io.BytesIO):
    """A stream that takes at most 100 bytes at once, as a bare file may, and nothing once it is full."""

    is_full = False

    def write(self, data: Any, /) -> int:
        """Write a part."""
        return 0 if self.is_full else super().write(data[:100])


def test_a_short_write_tears_no_line() -> None:
    """What the stream did not take at once is written next; a stream that takes nothing any more is an error."""
    stream = ShortStream()
    log = RunLog(stream)
    log.log_results([OK, FAILED] * 5)
    stream.is_full = True
    with pytest.raises(LogError, match="standard output cannot be written: Resource temporarily unavailable"):
        log.log_results([OK])
    assert [json.loads(line)["code"] for line in stream.getvalue().splitlines()] == ["BR", "IN"] * 5


def test_console_lines_use_the_words_of_the_book() -> None:
    """On a console a result is a word or two, and an error shows its message."""

    def write(log: RunLog) -> None:
        log.log_run_started(codes=20, server="local", url="http://localhost/{cc}.gif", first="BD", last="VN", workers=1)
        log.info("builtin_origin", hint="...")
        log.info("request", method="GET", path="/br.gif", status=503, fault="error")
        log.info("request", method="GET", path="/br.gif", status=200, fault=None)
        log.info("serving", url="http://localhost/{cc}.gif")
        log.log_results([OK, Result(Status.NOT_FOUND, None, "ZZ"), FAILED])
        log.log_results([Result(Status.ERROR, None, "c\x1bn", reason="invalid_code")])
        log.log_retry("IN", RetryEvent(1, 4, 0.8, HttpError(503, "HTTP error 503 - Busy")))
        log.log_scheduled(InvalidItem("BR"), Future())
        log.log_done(InvalidItem("BR"), Future())
        log.log_usage_errors([Fault("--workers", "many", "must be a whole number")])
        log.warning("sink_failed", target="/metrics", error="gone")
        log.log_run_finished(SUMMARY, "20 flags downloaded.\nElapsed time: 1.23s")

    assert lines(write, for_people=True, level="debug") == [
        "LOCAL site: http://localhost/{cc}.gif",
        "Searching for 20 flags: from BD to VN",
        "1 concurrent connection will be used.",
        "These are the built-in origin's flags; FLAGJOB_URL names a real one.",
        "GET /br.gif 503 (error)",
        "GET /br.gif 200",
        "Serving http://localhost/{cc}.gif",
        "BR ok",
        "ZZ not found",
        "*** Error for IN: HTTP error 503 - Busy",
        r"*** Error for c\x1bn: invalid_code",
        "IN again in 0.8s: HTTP error 503 - Busy",
        "Scheduled for BR: <Future state=pending>",
        "<Future state=pending> for BR",
        "flagjob: --workers 'many': must be a whole number",
        "sink failed target=/metrics error=gone",
        "20 flags downloaded.",
        "Elapsed time: 1.23s",
    ]


def test_console_lines_have_the_colour_of_their_level() -> None:
    """Errors are red and warnings yellow; colours come after masking and escaping, and JSON has none."""

    def write(log: RunLog) -> None:
        log.log_results([OK, Result(Status.NOT_FOUND, None, "Z\x1bZ"), FAILED])
        log.error("origin_down", host="h", reason="dns", error="hunter2hunter2\nmore")
        log.log_run_finished(SUMMARY, "20 flags downloaded.", [Line("20 flags downloaded.", Colour.GREEN), Line("x")])

    assert lines(write, for_people=True, coloured=True, secrets=["hunter2hunter2"]) == [
        "BR ok",
        "\x1b[33mZ\\x1bZ not found\x1b[0m",
        "\x1b[31m*** Error for IN: HTTP error 503 - Busy\x1b[0m",
        "\x1b[31m*** h is down, the run ends: ***\x1b[0m",
        "\x1b[31mmore\x1b[0m",
        "\x1b[32m20 flags downloaded.\x1b[0m",
        "x",
    ]
    for for_google in (False, True):
        finished = lambda log: log.log_run_finished(SUMMARY, "x", [Line("y", Colour.RED)])  # noqa: E731  (one call)
        (line,) = lines(finished, coloured=True, for_google=for_google)
        assert "\\u001b" not in line


def test_an_unknown_number_of_codes_is_left_out() -> None:
    """The first report has no number if the codes come from a file, whose length is unknown before its end."""
    found = lines(lambda log: log.log_run_started(codes=None, server=None, url="u", workers=30), for_people=True)
    assert found == ["Site: u", "Searching for flags", "30 concurrent connections will be used."]


def test_a_list_of_urls_is_of_no_one_site() -> None:
    """The first report names no placeholder of ours where each row has its own URL."""
    found = lines(lambda log: log.log_run_started(codes=None, server=None, url="{url}", workers=30), for_people=True)
    assert found[0] == "Site: as the list says"


def test_console_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is wider than the terminal is cut, unless it ends with advice to the user."""
    monkeypatch.setenv("COLUMNS", "40")  # sets the width without a terminal
    failed = Result(Status.ERROR, None, "IN", error="x" * 100)
    (line,) = lines(lambda log: log.log_results([failed]), for_people=True)
    (whole,) = lines(
        lambda log: log.log_usage_errors([Fault("--workers", "many", "must be " + "x" * 100)]), for_people=True
    )
    assert (len(line), line[-1]) == (40, "…")
    assert whole.endswith("x" * 100)


def test_console_lines_say_why_a_run_waits_or_ends() -> None:
    """Lines about the whole run are in words, and are not cut."""
    host = "http://localhost:8080"
    error = "ConnectionError: " + "no " * 99

    def write(log: RunLog) -> None:
        log.warning("host_paused", host=host, until_s=30.0, reason="connection", error=error)
        log.warning("concurrency_lowered", host=host, requests=1, reason="connection", error=error)
        log.info("host_resumed", host=host, requests_per_s=12.5)
        log.info("origin_back", host=host)
        log.error("origin_down", host=host, reason="connection", error=error)
        log.error("origin_down", host=host, reason="connection", error=error, run_goes_on=True)
        log.warning("retry_budget_spent", host=host, hint="too much fails")
        log.error("uniform_refusal", reason="http_404", outcomes=100, hint="look at the URL")
        log.warning("interrupted", reason="signal", signal="SIGTERM", in_flight=1, cancelled=3)
        log.warning("interrupted", reason="deadline", signal=None, in_flight=30, cancelled=30)

    assert lines(write, for_people=True) == [
        f"Waiting for {host}, 30.0s at most: {error}",
        f"{host} is overloaded: 1 request at the same time for now: {error}",
        "Continuing with 12.5 requests a second at first.",
        f"{host} is back.",
        f"*** {host} is down, the run ends: {error}",
        f"*** {host} is down, its files are left out: {error}",
        "No retries are left: too much fails",
        "*** http_404 for each of 100 items, the run ends: look at the URL",
        "SIGTERM: 1 download may still end.",
        "The time is up: 30 downloads may still end.",
    ]


@pytest.mark.parametrize("for_google", [False, True])
def test_a_long_line_is_cut_and_stays_json(*, for_google: bool) -> None:
    """A line has at most 8 KiB: its longest texts are cut, with all fields kept, and nothing secret shows."""

    def write(log: RunLog) -> None:
        log.warning("sink_failed", target="\u3164" * 5000, error=f"{'x' * 8000} hunter2hunter2 {'y' * 8000}", code="BR")
        log.log_bug(chained(40), code="BR")
        log.info("settings", **{f"option_{number}": "z" * 200 for number in range(55)})

    found = lines(write, for_google=for_google, secrets=["hunter2hunter2"])
    assert max(len(line.encode()) for line in found) <= 8192
    failed, bug, settings = map(json.loads, found)
    assert (failed["event"], failed["code"], failed["error"][-3:]) == ("sink_failed", "BR", "...")
    assert (bug["event"], bug["exception"][0]["exc_type"]) == ("bug", "ValueError")
    assert len([name for name in settings if name.startswith("option_")]) == 55
    assert "hunter2" not in "".join(found)


def chained(depth: int) -> BaseException:
    """Return an exception with many causes."""
    with pytest.raises(ValueError, match="x") as caught:
        fail(depth)
    return caught.value


def fail(depth: int) -> None:
    """Raise an exception with so many causes."""
    if not depth:
        raise ValueError("x" * 500)
    try:
        fail(depth - 1)
    except ValueError as error:
        raise ValueError("x" * 500) from error


def test_google_cloud_reads_severity_time_and_message() -> None:
    """With its names for level and time, and the event in words, every line has its place in Google Cloud."""
    found = event(lambda log: log.log_results([FAILED]), for_google=True, fields={"job": "maps"})
    assert list(found)[:4] == ["severity", "time", "event", "job"]
    assert (found["severity"], found["time"][-1]) == ("ERROR", "Z")
    assert found["message"] == "*** Error for IN: HTTP error 503 - Busy"
    assert {"level", "timestamp"} & set(found) == set()
    assert (found["code"], found["reason"]) == ("IN", "http_503")


def test_words_name_what_the_items_are() -> None:
    """Where the items are no flags, words speak of files."""
    start = {"codes": 2, "server": None, "url": "u", "workers": 3, "first": "A", "last": "B"}
    found = lines(lambda log: log.log_run_started(**start), for_people=True, noun="file")
    assert found[1] == "Searching for 2 files: from A to B"
    assert summary_text(SUMMARY, "file").startswith("20 files downloaded.\n")
