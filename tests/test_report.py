"""The page about a run: what it shows, where it is written, and that nothing from outside becomes a part of it."""

import re
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from itertools import count, pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from command import TIMEOUT, flagjob, start_flagjob
from hypothesis import given, settings
from hypothesis import strategies as st
from images import GIF, JPEG, PNG, WEBP, numbered_gif
from inprocess import run, run_here
from mirror import mirror
from pages import Page
from scripted import Answer, Hold, ScriptedServer, Step
from test_scripted_bucket import Bucket, variables

from job.advice import advice_for
from job.cancellation import Cancellation
from job.errors import AttemptError, HttpError, Reason, StorageError
from job.exit_code import ExitCode, outcome_name
from job.manifest import Change
from job.model import Cause, Result, Status, Stored, Summary, WorkItem
from job.redaction import visible
from job.report import AttemptRecorder, Collector, RunFacts
from job.report.collector import Intervals
from job.report.page import render
from job.report.pictures import MAX_PICTURE_BYTES, data_url, media_type, read_picture
from job.report.timeline import ticks
from job.report.view import command, duration_text, run_view
from job.resilience import ItemRequest, RetryEvent, ThrottleEvents
from job.settings import Settings, load, parse_arguments

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
AVIF = b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00"
NAME = "report.html"
FAILING = Answer(503, {"Retry-After": "0"})


def page_at(dest: Path) -> Page:
    """Return the page of a run into a directory."""
    return Page((dest / ".flagjob" / NAME).read_bytes())


def policy(page: Page) -> str:
    (meta,) = page.named("meta", http_equiv="Content-Security-Policy")
    return meta["content"]


def digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def test_a_run_leaves_a_page(tmp_path: Path, executor: str) -> None:
    """The page has outcome, exit code, cause, counts, failures with advice, bars, pictures, changes and settings."""
    del executor
    files: dict[str, bytes | Step] = {"br": GIF, "cn": numbered_gif(1), "de": Answer(404), "fr": Answer(403)}
    with mirror(files) as origin:
        done = run_here(*"BR CN DE FR".split(), dest=tmp_path, url=origin.url, report=NAME)
    page = page_at(tmp_path)
    said = " ".join(page.texts)
    assert done.code == 4
    assert "Failures that no later run heals" in page.texts
    assert {"4 permanent", done.summary["run_id"], advice_for("http_404"), advice_for("http_403")} <= set(page.texts)
    assert len(page.bars) == len(origin.server.requests)
    assert [len(page.named("li", data_mark=mark)) for mark in ("new", "not_found", "error")] == [2, 1, 1]
    assert {b64decode(image["src"].partition(",")[2]) for image in page.named("img") if "src" in image} == {
        GIF,
        numbered_gif(1),
    }
    assert f"--url {origin.url!r} --dest {tmp_path} --report report.html BR CN DE FR" in said
    assert {"FLAGJOB_URL", "FLAGJOB_REPORT"} <= set(page.texts)


@pytest.mark.parametrize("executor", ["threads", "greenlets", "sequential"])
def test_bars_are_the_attempts(tmp_path: Path, executor: str) -> None:
    """Each attempt is a bar on a slot that has one item at a time; retries, waits and pauses are those of the log."""
    files: dict[str, bytes | Step] = {f"c{number}": numbered_gif(number) for number in range(12)}
    script = {f"/{code}.gif": [Answer(body=data)] for code, data in files.items() if isinstance(data, bytes)}
    script["/c3.gif"].insert(0, Answer(500))
    script["/c5.gif"].insert(0, Answer(429, {"Retry-After": "0.01"}))
    with ScriptedServer(script) as origin:
        done = run_here(*files, dest=tmp_path, url=origin.url("/{id}.gif"), report=NAME, executor=executor, workers="4")
    page = page_at(tmp_path)
    assert (done.code, len(page.bars)) == (0, len(origin.requests))
    spans: dict[str, list[tuple[float, float]]] = {}
    for bar in page.bars:
        row = str(int(float(bar["y"]) / 10))
        spans.setdefault(row, []).append((float(bar["x"]), float(bar["x"]) + float(bar["width"])))
    assert len(spans) <= (1 if executor == "sequential" else 4)
    for row_spans in spans.values():
        ordered = sorted(row_spans)
        assert all(end <= start + 0.2 for (_, end), (start, _) in pairwise(ordered))
    retries = {event["code"]: event for event in done.events_named("retry")}
    titles = [text for text in page.texts if " · " in text]
    assert any(f"again after {retries['c3']['wait_s']:.3f} s" in title and "http_500" in title for title in titles)
    assert any("c5" in title and "http_429" in title for title in titles)


def test_nothing_is_imported_without_a_report(tmp_path: Path) -> None:
    """A run without the setting imports neither Jinja2 nor the report."""
    code = """
import sys
from job.cli import main
main(sys.argv[1:])
print([name for name in sys.modules if name.startswith(("jinja2", "markupsafe", "job.report."))])
"""
    words = [sys.executable, "-c", code, "BR", "--server", "local", "--dest", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


def test_without_jinja2_a_report_is_a_usage_error(tmp_path: Path) -> None:
    """Where the extra is not installed, run and simulate end before anything, and name the command that installs it."""
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "jinja2" else find_spec(name, *rest)
from job.cli import main
sys.exit(main(sys.argv[1:]))
"""
    for words in (["BR", "--server=local", f"--dest={tmp_path}"], ["simulate"]):
        command_line = [sys.executable, "-c", code, *words, "--report", str(tmp_path / "x.html")]
        ended = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert ended.returncode == 2
        assert "needs Jinja2: pip install 'flagjob[report]'" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_path(tmp_path: Path) -> None:
    """A path with a slash is one of this machine; the page replaces an older one, and nothing else is left there."""
    path = tmp_path / "pages" / "night.html"
    path.parent.mkdir()
    path.write_text("old")
    with mirror({"br": GIF}) as origin:
        done = run_here("BR", dest=tmp_path / "flags", url=origin.url, report=str(path))
    assert (done.code, Page(path.read_bytes()).named("html")) == (0, [{"lang": "en"}])
    assert list(path.parent.iterdir()) == [path]


def test_a_name_is_below_the_destination(tmp_path: Path) -> None:
    """Verification does not take the page for a file; a shard's page has its shard in its name."""
    with mirror({"br": GIF}) as origin:
        run_here("BR", dest=tmp_path, url=origin.url, report=NAME, shard_index="0", shard_count="1")
        run_here("BR", dest=tmp_path / "s", url=origin.url, report=NAME, shard_index="1", shard_count="2", limit="1")
    verified = flagjob("verify", "--dest", str(tmp_path / "."), cwd=tmp_path)
    assert verified.code == 0
    assert not [event for event in verified.events_named("file") if NAME in event["file"]]
    assert (tmp_path / ".flagjob" / NAME).exists()


def test_sets_show_old_and_new(tmp_path: Path) -> None:
    """With sets a changed picture is shown as it was and as it is, also where the set is not published."""
    old, new = numbered_gif(1), numbered_gif(2)
    files: dict[str, bytes | Step] = {"br": old, "cn": GIF}
    settings_of_sets = {"report": NAME, "publish": "set", "keep": "1"}
    with mirror(files) as origin:
        run_here("BR", "CN", dest=tmp_path, url=origin.url, **settings_of_sets)
        files["br"] = new
        files["cn"] = Answer(404)
        done = run_here("BR", "CN", dest=tmp_path, url=origin.url, **settings_of_sets)
    page = page_at(tmp_path)
    assert (done.code, done.summary["published"]) == (4, False)
    (before,) = page.named("img", alt="BR before")
    (now,) = page.named("img", alt="BR now")
    assert (b64decode(before["src"].partition(",")[2]), b64decode(now["src"].partition(",")[2])) == (old, new)
    assert len(page.named("li", data_mark="gone")) == 1


def test_a_bucket_gets_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket the page is an object of type HTML, which says why there are no pictures in it."""
    bucket = Bucket()
    types: list[str] = []

    def note_type(request: Any) -> None:
        if request.method == "PUT" and request.target.endswith(NAME):
            types.append(request.headers["content-type"])

    bucket.refuse = note_type
    with ScriptedServer(bucket) as store, mirror({"br": GIF}) as origin:
        for name, value in variables(store.url()).items():
            monkeypatch.setenv(name, value)
        done = run(["BR"], Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url, report=NAME)
    assert (done.code, types) == (0, ["text/html; charset=utf-8"])
    page = Page(bucket.objects[f"p/.flagjob/{NAME}"])
    assert any("lie in a bucket" in text for text in page.texts)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    """A report that cannot be written is one warning, and the exit code stays."""
    with mirror({"br": GIF}) as origin:
        (tmp_path / ".flagjob" / NAME).mkdir(parents=True)
        done = run_here("BR", dest=tmp_path, url=origin.url, report=NAME)
    (warning,) = done.events_named("sink_failed")
    assert (done.code, warning["target"]) == (0, NAME)
    assert "directory" in warning["error"]


def test_a_page_after_a_signal(tmp_path: Path) -> None:
    """A run that SIGTERM ends writes its page, in which the rest is cancelled."""
    path = tmp_path / "report.html"
    never = Hold(Event(), Answer(body=GIF))
    with mirror({"br": GIF, "cn": never}) as origin:
        options = {
            "FLAGJOB_URL": origin.url,
            "FLAGJOB_REPORT": str(path),
            "FLAGJOB_DEST": str(tmp_path / "d"),
            "FLAGJOB_SHUTDOWN_GRACE": "2",
        }
        with start_flagjob("BR", "CN", cwd=tmp_path, settings=options) as process:
            origin.server.wait_for(2)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=TIMEOUT)
    assert process.returncode == 143
    assert {"Interrupted", "143 sigterm"} <= set(Page(path.read_bytes()).texts)


def test_a_page_that_takes_longer_than_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grace the page is given up with a warning, and the exit code stays."""
    may_end = Event()
    cancellation = Cancellation()
    monkeypatch.setattr("job.report.run_report.rendered", lambda _: may_end.wait(TIMEOUT))
    cancellation.request(Reason.SIGNAL, signal.SIGTERM)
    more = {"dest": str(tmp_path), "report": NAME, "server": "local", "shutdown_grace": "0.1"}
    try:
        done = run(["BR"], cancellation, BytesIO(), **more)
    finally:
        may_end.set()
    (warning,) = done.events_named("sink_failed")
    assert (done.code, warning["error"]) == (143, "it took longer than the grace")


def test_a_dead_destination_still_has_its_page(tmp_path: Path) -> None:
    """A run whose destination cannot be written has its page elsewhere."""
    (tmp_path / "file").write_text("")
    path = tmp_path / NAME
    with mirror({"br": GIF}) as origin:
        done = run_here("BR", dest=tmp_path / "file" / "d", url=origin.url, report=str(path))
    assert done.code == 5
    assert {"5 storage", advice_for(Reason.STORAGE)} <= set(Page(path.read_bytes()).texts)


def test_secrets_are_masked(tmp_path: Path) -> None:
    """Neither the query of the URL nor a secret header is anywhere in the page."""
    headers = tmp_path / "headers"
    headers.write_text("X-Token: open-sesame")
    answer = Answer(302, {"Location": "http://elsewhere.example/?key=open-sesame"})
    with ScriptedServer({"/br.gif": answer}) as origin:
        url = f"{origin.url('/{cc}.gif')}?token=swordfish"
        run_here("BR", dest=tmp_path, url=url, report=NAME, headers_file=str(headers))
    page = (tmp_path / ".flagjob" / NAME).read_text()
    assert not re.search("open-sesame|swordfish", page)
    assert "?***" in page


# The view, from made-up results.


def made(*words: str, **environ: str) -> Settings:
    variables_of_run = {"FLAGJOB_URL": "https://example.org/{id}", **environ}
    return load(parse_arguments(words), variables_of_run)


def failing(error: AttemptError) -> Callable[[ItemRequest], Any]:
    def get(_: ItemRequest) -> Any:
        raise error

    return get


class Source:
    """A source of attempts that fail as a function says."""

    def __init__(self, get: Callable[[ItemRequest], Any]) -> None:
        self.get = get


def attempted(recorder: AttemptRecorder, code: str, error: AttemptError | None = None) -> None:
    """Let an item have one attempt, which fails with an error if there is one."""

    def task(item: Any) -> Result:
        request = ItemRequest(item, http_status=200)
        source = recorder.observe_source(Source(failing(error) if error else lambda _: None))
        if error:
            with pytest.raises(type(error)):
                source.get(request)
        else:
            source.get(request)
        return Result(Status.OK, None, code)

    recorder.observe_task(task)(WorkItem(code, "", ""))


def facts(counts: dict[Status, int] | None = None, **more: Any) -> RunFacts:
    code = more.pop("code", 0)
    summary = Summary(
        {**dict.fromkeys(Status, 0), **(counts or {})},
        1500,
        0,
        more.pop("seconds", 1.0),
        code,
        outcome_name(code),
        changes=more.pop("changes", {}),
        cause=more.get("cause"),
    )
    given_facts = {"settings": made(), "cause": None, "url": "u", "workers": 1, "version": "0", "run_id": "0"}
    return RunFacts(summary=summary, **{**given_facts, "readable": True, **more})


def hostile_page(text: str, data: bytes) -> Page:
    """Return a page in which a text is everything that can come from outside."""
    seconds = count()
    recorder = AttemptRecorder(lambda: next(seconds) / 100)
    error = HttpError(503, text, retry_after=1.0)
    events = recorder.observe_throttle(ThrottleEvents())
    collector = Collector(recorder)
    events.paused(error, 1.0)
    for status in (Status.OK, Status.ERROR):
        attempted(recorder, text, error)
        stored = Stored(text, len(data), "0" * 64, text)
        result = Result(status, stored if status is Status.OK else None, text, reason=None, error=text, attempts=1)
        if status is Status.OK:
            collector.add_change(Change.NEW, text, stored, None)
        else:
            result.reason = "http_503"
        collector.add([result])
    for card in collector.came:
        card.picture = data
    cause = Cause("http_503", text, text)
    found = facts({Status.OK: 1, Status.ERROR: 1}, code=3, cause=cause, url=text, changes={"new": 1})
    return Page(render(run_view(found, collector, visible)))


MARKUP = st.lists(
    st.sampled_from(
        [
            "<script>",
            "</script>",
            "<!--",
            "-->",
            "</style>",
            '"',
            "'",
            "onload=x",
            "<img src=x>",
            "&lt;",
            "{{",
            "{%",
            "\n",
        ]
    )
    | st.text(max_size=8)
).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=MARKUP.filter(str.strip))
def test_no_text_becomes_a_part_of_the_page(text: str) -> None:
    """Whatever code, path, type, error, host and URL are, the page has the same elements, and shows them as texts."""
    harmless = hostile_page("x", GIF)
    hostile = hostile_page(text, GIF)
    assert hostile.shape == harmless.shape
    assert hostile.raw == harmless.raw
    assert policy(hostile) == policy(harmless)
    assert any(visible(text).strip() in found for found in hostile.texts)


def test_an_svg_is_only_a_picture() -> None:
    """The bytes of a picture are in an `img` with one of our types, and nowhere else."""
    page = hostile_page("x", SVG)
    (image,) = [image for image in page.named("img") if image.get("src")]
    assert image["src"] == f"data:image/svg+xml;base64,{b64encode(SVG).decode()}"
    assert len(page.named("script")) == 1


def test_the_policy_allows_only_what_is_ours() -> None:
    """The policy has the digests of the one style and the one script; no element has a style or a handler."""
    page = hostile_page("x", GIF)
    said = policy(page)
    assert f"style-src 'sha256-{digest(page.raw['style'])}'" in said
    assert f"script-src 'sha256-{digest(page.raw['script'])}'" in said
    assert said.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in said
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert all(link.startswith("#") for link in links)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GIF, "image/gif"),
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (WEBP, "image/webp"),
        (AVIF, "image/avif"),
        (SVG, "image/svg+xml"),
        (b"<?xml version='1.0'?>\n" + SVG, "image/svg+xml"),
        (b"<html>", None),
        (b"\x1f\x8b\x08 <svg", None),
        (b"", None),
    ],
)
def test_pictures_are_known_by_their_bytes(data: bytes, expected: str | None, tmp_path: Path) -> None:
    """The type of a picture is one of a fixed list, by its bytes; other files and larger ones are none."""
    path = tmp_path / "x"
    path.write_bytes(data)
    assert media_type(data) == expected
    assert read_picture(path, 10**6) == (data if expected else None)
    assert read_picture(path, len(data) - 1) is None
    assert read_picture(tmp_path / "none", 10) is None
    if expected:
        assert data_url(data).startswith(f"data:{expected};base64,")


def run_of(number: int, collector: Collector, tmp_path: Path, size: int = 0) -> None:
    """Let so many items come, each a picture of its own of this size."""
    for index in range(number):
        code = f"c{index:06}"
        attempted(collector.recorder, code, HttpError(500, "x") if index % 7 == 0 else None)
        data = numbered_gif(index, size)
        if index < 1000:
            (tmp_path / code).write_bytes(data)
        stored = Stored(code, len(data), sha256(data).hexdigest(), "image/gif")
        collector.add_change(Change.NEW, code, stored, None)
        collector.add([Result(Status.OK, stored, code, attempts=1, duration_seconds=index / 1000)])


@pytest.mark.slow
def test_a_long_run_is_aggregated(tmp_path: Path) -> None:
    """Of many items a part is drawn, shown and named, and the page says what is left out; it stays small."""
    collector = Collector(AttemptRecorder())
    run_of(20_000, collector, tmp_path, 2000)
    for index in range(2000):
        collector.add([Result(Status.ERROR, None, f"e{index}", reason=f"http_{500 + index % 40}", error="e")])
    collector.read_pictures(tmp_path)
    counts = {Status.OK: 20_000, Status.ERROR: 2000}
    page = render(run_view(facts(counts, code=3, changes={"new": 20_000}), collector, str))
    said = " ".join(Page(page).texts)
    assert len(page) < 3_000_000
    assert re.search(r"1\d,\d+ of 20,000 tries are left out", said)
    assert "of 20,000 files are embedded, up to 64 KiB each and 700 KiB together" in said
    assert "and 19,940 more, see changes.jsonl" in said
    assert "The first 10 of 50 items" in said
    assert "10 more reasons with 500 items." in said
    assert len(Page(page).named("li", data_mark="new")) <= 600


def test_250_pictures_are_complete(tmp_path: Path) -> None:
    """A page with 250 flags has them all, and less than 1.5 MB."""
    collector = Collector(AttemptRecorder())
    run_of(250, collector, tmp_path, 2800)
    collector.read_pictures(tmp_path)
    page = render(run_view(facts({Status.OK: 250}, changes={"new": 250}), collector, str))
    assert len([image for image in Page(page).named("img") if image.get("src")]) == 250
    assert len(page) < 1_500_000


def test_what_is_no_picture_has_no_card(tmp_path: Path) -> None:
    """A file that is none by name or bytes has no card; a picture that is too large has one that says so."""
    collector = Collector(AttemptRecorder())
    (tmp_path / "b.gif").write_bytes(b"no gif")
    for code, size, kind in (
        ("a.bin", 9, None),
        ("b.gif", 6, "image/gif"),
        ("c.gif", MAX_PICTURE_BYTES + 1, "image/gif"),
    ):
        collector.add([Result(Status.UNCHANGED, Stored(code, size, "0" * 64, kind), code)])
    collector.read_pictures(tmp_path)
    page = Page(render(run_view(facts({Status.UNCHANGED: 3}), collector, str)))
    assert [card["data-key"] for card in page.named("li", data_mark="unchanged")] == ["c.gif c.gif"]
    assert "too large to embed" in page.texts


def test_an_empty_run() -> None:
    """A run without an item has a page without timeline, pictures and durations."""
    page = Page(render(run_view(facts(seconds=0.0), Collector(AttemptRecorder()), str)))
    assert not [section for section in page.named("section") if section.get("id") not in {None, "settings"}]
    assert {"All is well", "nothing"} - set(page.texts) <= {"nothing"}


@pytest.mark.parametrize("code", [*ExitCode, 131])
def test_every_exit_code_has_words(code: int) -> None:
    """Each exit code has a title and a colour."""
    page = Page(render(run_view(facts(code=code), Collector(AttemptRecorder()), str)))
    (header,) = page.named("header")
    assert re.fullmatch(r"top t-\w+", header["class"])


def test_failures_within_the_budgets_are_said() -> None:
    """Exit code 0 with failures is not called all well."""
    texts = Page(render(run_view(facts({Status.NOT_FOUND: 1}), Collector(AttemptRecorder()), str))).texts
    assert "Well, within the budgets" in texts


# The recorder.


def test_times_are_those_of_the_clock() -> None:
    """Slots are the lowest that are free; times, waits and pauses are those of the clock when they were reported."""
    clock = iter(range(100))
    recorder = AttemptRecorder(lambda: next(clock))
    reported: list[object] = []
    events = recorder.observe_throttle(
        ThrottleEvents(paused=lambda *found: reported.append(found), resumed=reported.append)
    )
    on_retry = recorder.observe_retries(lambda *found: reported.append(found))
    error = HttpError(429, "busy", retry_after=2.0)
    retry = RetryEvent(1, 4, 2.5, error)

    def task(item: Any) -> Result | None:
        with pytest.raises(HttpError):
            recorder.observe_source(Source(failing(error))).get(ItemRequest(item))
        on_retry("a", retry)
        return recorder.observe_task(lambda _: Result(Status.OK, None, "b"))(WorkItem("b", "", ""))

    recorder.observe_task(task)(WorkItem("a", "", ""))
    events.paused(error, 2.0)
    events.paused(error, 3.0)
    events.resumed(5.0)
    events.paused(error, 1.0)
    times, inner = recorder.take("a"), recorder.take("b")
    assert times is not None
    assert inner is not None
    (attempt,) = times.attempts
    assert (times.slot, inner.slot, recorder.slots, recorder.take("a")) == (0, 1, 2, None)
    assert (times.began, attempt.began, attempt.ended, times.ended) == (1, 2, 3, 6)
    assert (attempt.http_status, attempt.reason, attempt.retry_after, attempt.wait) == (429, "http_429", 2.0, 2.5)
    assert [(pause.began, pause.longest, pause.ended) for pause in recorder.pauses] == [
        (7, 2, 9),
        (8, 3, 9),
        (10, 1, None),
    ]
    assert len(reported) == 5


@pytest.mark.parametrize(("error", "reason"), [(StorageError("full"), "storage"), (ValueError("bug"), "internal")])
def test_attempts_that_this_machine_ended(error: Exception, reason: str) -> None:
    """An attempt that a full disk or a bug ended has the reason for it, and no status."""
    recorder = AttemptRecorder()

    def get(_: ItemRequest) -> Any:
        raise error

    def task(item: Any) -> Result:
        with pytest.raises(type(error)):
            recorder.observe_source(Source(get)).get(ItemRequest(item, http_status=200))
        return Result(Status.ERROR, None, "a")

    recorder.observe_task(task)(WorkItem("a", "", ""))
    times = recorder.take("a")
    assert times is not None
    assert [(attempt.reason, attempt.http_status) for attempt in times.attempts] == [(reason, None)]


def test_pauses_have_a_limit() -> None:
    """Of very many pauses the first 500 are kept, and the page says how many are not."""
    recorder = AttemptRecorder()
    collector = Collector(recorder)
    events = recorder.observe_throttle(ThrottleEvents())
    for _ in range(503):
        events.paused(HttpError(429, "busy"), 1.0)
    attempted(recorder, "a")
    collector.add([Result(Status.OK, None, "a", attempts=1)])
    said = " ".join(Page(render(run_view(facts({Status.OK: 1}), collector, str))).texts)
    assert "3 further pauses are left out." in said


# Words.


def test_the_command_is_quoted_and_masked() -> None:
    """The command has each setting as an option, quoted for a shell, with secrets masked."""
    found = made("-v", "--dest=my flags", "--", "-x", "b", FLAGJOB_URL="https://example.org/{id}?key=swordfish")
    assert command(found) == ("flagjob --url 'https://example.org/{id}?***' --dest 'my flags' --verbose -- -x b")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (0.9996, "1.0 s"), (1.26, "1.3 s"), (59.97, "1 min"), (3700, "1 h 1 min"), (0, "0 s")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """A duration has the unit that fits."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("seconds", "labels"), [(0, []), (0.9, ["0.2 s", "0.4 s", "0.6 s", "0.8 s"]), (95, ["20 s"])])
def test_marks_are_at_round_times(seconds: float, labels: list[str]) -> None:
    """The axis has up to eight marks, at 1, 2 or 5 times a power of ten."""
    assert [tick.label for tick in ticks(seconds)][: len(labels)] == labels
    assert len(ticks(seconds)) <= 8


# The simulation.


@pytest.mark.parametrize("executor", ["threads", "greenlets"])
def test_a_simulation_has_its_page(tmp_path: Path, executor: str) -> None:
    """`flagjob simulate --report` draws the same timeline: a bar for each task, on as many rows as workers."""
    done = flagjob(
        "simulate", "--tasks=6", "-m3", "--latency=20ms", f"--executor={executor}", "--report=s.html", cwd=tmp_path
    )
    page = Page((tmp_path / "s.html").read_bytes())
    assert (done.code, len(page.bars)) == (0, 6)
    assert len({bar["y"] for bar in page.bars}) == 3
    assert "6 tasks on 3 workers" in page.texts


def test_a_simulation_whose_page_cannot_be_written(tmp_path: Path) -> None:
    """A path that cannot be had is a usage error; a page that cannot be written is exit code 5."""
    refused = flagjob("simulate", "--tasks=1", "--report=none/s.html", cwd=tmp_path)
    too_long = flagjob("simulate", "--tasks=1", f"--report={'x' * 300}.html", cwd=tmp_path)
    long = flagjob(
        "simulate", "--tasks=1", f"--report={'x' * 245}.html", cwd=tmp_path
    )  # its temporary file's is longer
    assert (refused.code, too_long.code, long.code) == (2, 2, 5)
    assert long.events_named("storage_error")


# Numbers with limits.


def test_intervals_become_longer() -> None:
    """Results are counted by time in at most 240 intervals, which double, and none is lost."""
    intervals = Intervals()
    for second in range(100):
        intervals.add(second, Status.OK)
    intervals.add(1.0, Status.ERROR)
    assert (intervals.seconds, len(intervals.counts)) == (0.8, 124)
    assert sum(counts.get(Status.OK, 0) for counts in intervals.counts) == 100
    assert intervals.counts[1] == {Status.OK: 1, Status.ERROR: 1}


def test_old_pictures_have_a_limit(tmp_path: Path) -> None:
    """Without a set before, or where old pictures are many, none is read."""
    stored = Stored("a.gif", 120 * 1024, "0" * 64, "image/gif")
    (tmp_path / "a.gif").write_bytes(numbered_gif(1, 60 * 1024))
    collector = Collector(AttemptRecorder(), lambda: tmp_path)
    for old in (Stored("a.gif", 60 * 1024, "0" * 64, None), stored, None):
        collector.add_change(Change.CHANGED, "a", stored, old)
    assert [bool(file.old_picture) for file in collector.changes[Change.CHANGED]] == [True, False, False]


def test_a_second_pause_ends_by_itself() -> None:
    """What ends a pause does not move the end of an earlier one."""
    clock = iter(range(100))
    recorder = AttemptRecorder(lambda: next(clock))
    events = recorder.observe_throttle(ThrottleEvents())
    for _ in range(2):
        events.paused(HttpError(429, "busy"), 1.0)
        events.resumed(1.0)
    assert [(pause.began, pause.ended) for pause in recorder.pauses] == [(1, 2), (3, 4)]


def test_codes_from_standard_input_are_said() -> None:
    """The page says that the codes came from standard input, as no command can repeat that."""
    texts = Page(render(run_view(facts(settings=made("-")), Collector(AttemptRecorder()), str))).texts
    assert any("The codes came from standard input." in text for text in texts)
