"""The page about a run in a real browser: complete, quiet, usable by keyboard and by all; its bars are the log's."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import Done, flagjob
from scripted import Answer, Script, ScriptedServer, Stall

from e2e.browser import DESKTOP, PHONE, Scheme, chromium, opened
from e2e.flags import package_flags, with_comment
from e2e.programs import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PICTURES = ROOT / "build"
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
SIZES = {"desktop": DESKTOP, "phone": PHONE}
BOUND_MS = 10.0
CODES = sorted(code for code in package_flags() if code not in {"eu", "xk"})
BAD = {"BR": Answer(404), "CN": Answer(403), "DE": Answer(body=b"<html>log in</html>")}
HOSTILE = '<img src=x onerror=alert(1)>"</script><script>alert(2)</script>'


def night(dest: Path, *more: str) -> Done:
    """Let one run fill a set, and a second one find changes, retries, pauses and failures; return the second one."""
    flags = package_flags()
    script: dict[str, object] = {f"/{code}.gif": [Answer(body=flags[code])] for code in CODES}
    for code in CODES[3:20]:
        script[f"/{code}.gif"] = [Answer(body=flags[code]), Answer(body=with_comment(flags[code], "new"))]
    for code in CODES[30:90:6]:
        script[f"/{code}.gif"] = [Answer(body=flags[code]), Answer(500), Answer(body=flags[code])]
    for code in (CODES[100], CODES[170]):
        script[f"/{code}.gif"] = [
            Answer(body=flags[code]),
            Answer(429, {"Retry-After": "1"}),
            Answer(body=flags[code]),
        ]
    for code, answer in BAD.items():
        script[f"/{code.lower()}.gif"] = [Answer(body=flags[code.lower()]), answer]
    settings = {"FLAGJOB_DEST": str(dest), "FLAGJOB_PUBLISH": "set", "FLAGJOB_REPORT": "report.html"}
    with ScriptedServer(script) as origin:  # type: ignore[arg-type]  # (a Mapping of sequences)
        words = ("-a", "--url", origin.url("/{cc}.gif"), "--workers=12", *more)
        first = flagjob(*words, cwd=dest.parent, settings=settings)
        assert first.code == 0, first.stdout[-500:]
        return flagjob(*words, "--rate-limit=150", cwd=dest.parent, settings=settings)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Yield a browser for all tests here."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """Return a run with all kinds of trouble, and its page."""
    home = tmp_path_factory.mktemp("night")
    done = night(home / "flags")
    return done, home / "flags" / ".flagjob" / "report.html"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_page_is_for_everybody(browser: "Browser", run: tuple[Done, Path], size: str, scheme: Scheme) -> None:
    """In each scheme and size there is no message and no request, every picture is there, and axe finds nothing."""
    done, file = run
    with opened(browser, file, SIZES[size], scheme) as watched:
        page = watched.page
        loaded = page.locator("#cards img").evaluate_all("all => all.filter(one => one.naturalWidth > 0).length")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"report-{size}-{scheme}.png", full_page=True)
        assert watched.violations() == []
        assert watched.complaints == []
    counts = done.summary["counts"]
    assert counts == {"ok": 17, "unchanged": 229, "not_found": 1, "error": 2, "cancelled": 0}
    assert loaded == counts["ok"] + counts["unchanged"] + done.summary["gone"]
    assert file.stat().st_size < 1_500_000


def test_filters_search_and_keyboard(browser: "Browser", run: tuple[Done, Path]) -> None:
    """Filter and search leave what they should; the gallery, the viewer and the timeline work without a mouse."""
    _, file = run
    with opened(browser, file) as watched:
        page = watched.page
        shown = page.locator("#cards > li:visible")
        page.get_by_role("button", name=re.compile("changed 17$")).press("Enter")
        assert shown.count() == 17
        page.get_by_role("searchbox").fill(CODES[5])
        assert shown.count() == 1
        page.get_by_role("searchbox").fill("")
        page.get_by_role("button", name=re.compile(r"^All \d")).press("Space")
        assert shown.count() == 249
        shown.first.locator("button").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator("#viewer-code").inner_text() == CODES[1].upper()
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-code").inner_text() == CODES[2].upper()
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.closest('li').dataset.key").startswith(CODES[2])
        page.locator("#bars").focus()
        page.keyboard.press("ArrowRight")
        assert " s to " in page.locator("#readout").inner_text()
        before = page.locator("svg.rows").get_attribute("viewBox")
        page.keyboard.press("+")
        assert page.locator("svg.rows").get_attribute("viewBox") != before
        page.keyboard.press("0")
        assert page.locator("svg.rows").get_attribute("viewBox") == before
        assert watched.complaints == []


def test_the_page_works_without_scripts_and_on_paper(browser: "Browser", run: tuple[Done, Path]) -> None:
    """Without scripts everything is there but what needs them; on paper neither buttons nor navigation are."""
    _, file = run
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#cards > li:visible").count() == 249
    assert page.locator("#search:visible, .zoom:visible, #copy:visible").count() == 0
    context.close()
    with opened(browser, file) as watched:
        watched.page.emulate_media(media="print")
        assert watched.page.locator("nav:visible, .filter:visible, #search:visible").count() == 0
        assert watched.page.locator("#cards img:visible").count() > 200


def seconds_of(event: dict[str, str], start: datetime) -> float:
    return (datetime.fromisoformat(event["timestamp"]) - start).total_seconds()


def test_bars_and_pauses_are_those_of_the_log(browser: "Browser", run: tuple[Done, Path]) -> None:
    """A failed try ends when its `retry` was logged, with the same wait and reason; pauses are as they were logged."""
    done, file = run
    with opened(browser, file) as watched:
        bars = watched.page.locator("svg.rows rect:has(title):not(.pause)").evaluate_all(
            "all => all.map(one => [one.getAttribute('class'), Number(one.getAttribute('x')),"
            " Number(one.getAttribute('width')), one.querySelector('title').textContent])"
        )
        pauses = watched.page.locator("svg.rows rect.pause").evaluate_all(
            "all => all.map(one => [Number(one.getAttribute('x')), Number(one.getAttribute('width'))])"
        )
    finished = done.events_named("run_finished")[0]
    retries = done.events_named("retry")
    results = {event["code"]: event for event in done.events_named("result")}
    assert len(bars) == sum(event["attempts"] for event in results.values()) + 1  # the witness of the refusal
    # The page's zero is a moment after run_started; every event has the same distance from its bar.
    zero = datetime.fromisoformat(done.events_named("run_started")[0]["timestamp"])
    offsets: list[float] = []
    for event in retries:
        what = f"{event['code']} · try {event['attempt']} of"
        wanted = re.compile(rf"{what} \d · {event['reason']} .*again after ([\d.]+) s")
        ((end, wait),) = [(x + width, found[1]) for _, x, width, title in bars if (found := wanted.match(title))]
        assert float(wait) == event["wait_s"]
        offsets.append(1000 * seconds_of(event, zero) - end)
    assert len(retries) >= 10
    assert max(offsets) - min(offsets) <= BOUND_MS
    zero_ms = min(offsets)
    logged = [
        (1000 * seconds_of(event, zero) - zero_ms, event) for event in done.events if event["event"].startswith("host_")
    ]
    begins = [time for time, event in logged if event["event"] == "host_paused"]
    resumed = [time for time, event in logged if event["event"] == "host_resumed"]
    assert len(pauses) == len(begins) == len(resumed) >= 1
    for (x, width), begin, end in zip(pauses, begins, resumed, strict=True):
        assert abs(x - begin) <= BOUND_MS
        assert abs(x + width - end) <= BOUND_MS
    assert finished["retries"] == sum(event["attempts"] - 1 for event in results.values())


def test_cancelled_items(browser: "Browser", tmp_path: Path) -> None:
    """A run that its deadline ends says what was cancelled, and shows the tries that it broke off."""
    script: Script = {"/br.gif": Answer(body=package_flags()["br"]), "/cn.gif": Stall(), "/de.gif": Stall()}
    with ScriptedServer(script) as origin:
        settings = {"FLAGJOB_DEADLINE": "2", "FLAGJOB_SHUTDOWN_GRACE": "1", "FLAGJOB_REPORT": "./r.html"}
        words = ("BR", "CN", "DE", "FR", "--workers=3", "--url", origin.url("/{cc}.gif"))
        done = flagjob(*words, cwd=tmp_path, settings=settings)
    with opened(browser, tmp_path / "r.html") as watched:
        page = watched.page
        assert page.locator("h1").inner_text() == "The time for the run was over"
        assert page.locator("svg.rows rect.error").count() == 2
        assert page.locator(".tiles li", has_text="cancelled").inner_text().split()[0] == str(
            done.summary["counts"]["cancelled"]
        )
        assert watched.complaints == []


def test_nothing_of_an_origin_runs(browser: "Browser", tmp_path: Path) -> None:
    """A hostile SVG, media type, redirect target and code are pictures and texts; nothing of them runs or loads."""
    inside = b'<script>alert(2)</script><image href="http://127.0.0.1:9/x"/>'
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">' + inside + b"</svg>"
    script: Script = {
        "/a": Answer(body=svg, headers={"Content-Type": HOSTILE}),
        "/b": Answer(302, {"Location": f"http://evil.example/{HOSTILE}"}),
        "/c": Answer(200, {"Content-Encoding": HOSTILE}, b"x"),
    }
    (tmp_path / "codes").write_text(f"a\nb\nc\n{HOSTILE}\n")
    with ScriptedServer(script) as origin:
        words = ("--codes-file=codes", "--accept=any", "--report=./r.html", "--url", origin.url("/{id}"))
        flagjob(*words, cwd=tmp_path)
    with opened(browser, tmp_path / "r.html") as watched:
        dialogs: list[str] = []
        watched.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        watched.page.wait_for_timeout(500)
        assert (dialogs, watched.complaints, watched.violations()) == ([], [], [])
        assert watched.page.locator("script").count() == 1


def test_a_simulation_in_the_browser(browser: "Browser", tmp_path: Path) -> None:
    """The page of a simulation is as quiet, and for all, as that of a run."""
    flagjob("simulate", "--tasks=12", "-m4", "--latency=100ms", "--rate=20", "--report=s.html", cwd=tmp_path)
    for scheme in SCHEMES:
        with opened(browser, tmp_path / "s.html", PHONE, scheme) as watched:
            assert (watched.violations(), watched.complaints) == ([], [])
