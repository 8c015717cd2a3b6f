"""The dashboard's answers: fourteen nights that were pushed, drawn as pictures, and runs that were only scraped."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from monitoring import ROOT, panels
from scripted import Answer, Script, ScriptedServer

from e2e.flags import POP20, package_flags
from e2e.nginx import free_port
from e2e.nights import CAUSES, END, FIRST, NIGHTS, START, THROTTLED_NIGHT, open_metrics
from e2e.programs import flagjob, output
from e2e.prometheus import BOUND_SECONDS, Prometheus, Pushgateway, ask, prometheus, pushgateway, server, wait_until
from e2e.test_monitoring import settings, with_grafana_variables

pytestmark = pytest.mark.e2e
PICTURES = ROOT / "build"
KEPT_BYTES = 200_000
TIMELINE_Y = 75
TIMELINE_SHARES = (1.9 / 24, 23.2 / 24)
"""Where the first timeline is drawn: a line of pixels near its upper edge, and where its time begins and ends."""
COLORS = {0: "#73BF69", 3: "#FF9830", 4: "#FA6400", 6: "#F2495C", 7: "#B877D9"}
"""Green, orange, dark orange, red and purple as Grafana has them, by exit codes."""
GOOD: Script = {f"/{code.lower()}.gif": Answer(body=package_flags()[code.lower()]) for code in POP20}


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus that has the fourteen nights."""
    home = tmp_path_factory.mktemp("fortnight")
    for day in open_metrics():
        (home / "day.txt").write_text(day)
        output("promtool", "tsdb", "create-blocks-from", "openmetrics", str(home / "day.txt"), str(home / "data"))
    (home / "prometheus.yml").write_text("{}")
    port = free_port()
    options = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    options += ["--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}"]
    with server(port, "prometheus", *options):
        wait_until(lambda: ask(port, "GET", "/-/ready")[0] == 200)
        yield Prometheus(port)


def expressions(title: str) -> dict[str, str]:
    """Return the queries of a panel by their legends, as Grafana would send them."""
    (panel,) = (panel for row in panels().values() for panel in row if panel["title"] == title)
    return {target["legendFormat"]: with_grafana_variables(target["expr"]) for target in panel["targets"]}


def noon_after(number: int) -> float:
    """Return the noon after a night, counted from 1."""
    return (FIRST + timedelta(days=number - 1)).replace(hour=12, minute=0).timestamp()


def at(database: Prometheus, expression: str, moment: float) -> list[tuple[dict[str, str], float]]:
    """Return what a query has at a time."""
    result = database.api("query", query=expression, time=str(moment))["result"]
    return [(series["metric"], float(series["value"][1])) for series in result]


def value_of(database: Prometheus, title: str, moment: float) -> float:
    """Return the value of a panel that has one."""
    (expression,) = expressions(title).values()
    ((_, value),) = at(database, expression, moment)
    return value


def shown_cause(database: Prometheus, moment: float) -> str:
    """Return how the last run ended, as the dashboard says it."""
    (expression,) = expressions("Cause now").values()
    ((labels, _),) = at(database, expression, moment)
    return labels["cause"]


class Values(NamedTuple):
    """What the dashboard says of the last run in numbers."""

    failed: float
    new: float
    changed: float
    gone: float


def shown_values(database: Prometheus, moment: float) -> Values:
    """Return what the dashboard says of the last run in numbers."""
    (expression,) = expressions("What changed").values()
    changes = {labels["change"]: value for labels, value in at(database, expression, moment)}
    return Values(value_of(database, "Codes that failed", moment), **changes)


def test_every_bad_night_has_its_date_and_cause(fortnight: Prometheus) -> None:
    """The two timelines show date, exit code and cause of every bad night, and no good one as bad."""
    (codes,) = expressions("How each night went, from its run to the next").values()
    wrong = expressions("What was wrong, from that run to the next")
    for number in range(1, len(NIGHTS) + 1):
        expected = CAUSES.get(number)
        ((labels, code),) = at(fortnight, codes, noon_after(number))
        assert (labels["part"], code) == ("flagjob", expected[0] if expected else 0), number
        causes = [(found["reason"], value) for found, value in at(fortnight, wrong["{{reason}}"], noon_after(number))]
        assert causes == ([(expected[1], expected[0])] if expected else []), number
        throttled = [value for _, value in at(fortnight, wrong["throttled"], noon_after(number))]
        assert throttled == ([429] if number == THROTTLED_NIGHT else []), number


@pytest.mark.parametrize(
    ("number", "cause", "age_days", "expected"),
    [
        (1, "ok", 0.3, Values(0, 249, 0, 0)),
        (7, "ok", 0.3, Values(0, 2, 3, 0)),
        (10, "origin_down: connection", 3.3, Values(1, 0, 0, 0)),
        (12, "permanent: http_404", 1.3, Values(30 / 249, 0, 0, 30)),
    ],
)
def test_single_values(fortnight: Prometheus, number: int, cause: str, age_days: float, expected: Values) -> None:
    """Cause, age, share of failed codes and changes are those of the last run, and of the last success."""
    noon = noon_after(number)
    assert shown_cause(fortnight, noon) == cause
    assert round(value_of(fortnight, "Age of the files", noon) / 86400, 1) == age_days
    assert shown_values(fortnight, noon) == pytest.approx(expected)


def picture_of(database: Prometheus, name: str, *rows: str) -> Path:
    """Draw rows of the dashboard into a PNG file in build/."""
    PICTURES.mkdir(exist_ok=True)
    picture = PICTURES / name
    picture.unlink(missing_ok=True)
    times = [moment.isoformat() for moment in (START, END)]
    output(sys.executable, ".ci/draw.py", str(database.port), *times, str(picture), *rows)
    return picture


def color_at_noon(picture: Path, number: int) -> str:
    """Return the colour of the picture's first timeline at the noon after a night, in hex and above the text."""
    from matplotlib import colors, image  # noqa: PLC0415  (other tests are collected without it)

    pixels = image.imread(picture)
    left, right = (share * pixels.shape[1] for share in TIMELINE_SHARES)
    share = (noon_after(number) - START.timestamp()) / (END - START).total_seconds()
    return str(colors.to_hex(pixels[TIMELINE_Y, round(left + share * (right - left))][:3])).upper()


def test_a_picture_of_the_nights(fortnight: Prometheus) -> None:
    """The first row is drawn small enough for the documents; each night has the colour of how it ended."""
    picture = picture_of(fortnight, "dashboard-nights.png", "Nights")
    assert picture.stat().st_size < KEPT_BYTES
    assert [color_at_noon(picture, number + 1) for number in range(len(NIGHTS))] == [
        COLORS[night.exit_code] for night in NIGHTS
    ]


def test_a_picture_of_all_that_was_pushed(fortnight: Prometheus) -> None:
    """Stats, timelines and lines of both rows about the last run are drawn."""
    picture = picture_of(fortnight, "dashboard.png", "Nights", "Last run")
    header = picture.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[20:], "big") > 1000  # its height


def test_the_picture_of_the_documents() -> None:
    """The picture that is kept is small, and its caption says what drew it."""
    text = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    assert (ROOT / "docs" / "dashboard.png").stat().st_size < KEPT_BYTES
    _, _, caption = text.partition("](dashboard.png)")
    assert ".ci/draw.py" in caption.strip().split("\n\n")[0]


def test_names_of_jobs_and_shards(tmp_path: Path) -> None:
    """The first timeline has every job and shard by name; the word shard stands only where there are some."""
    ended = "flagjob_shards {shards}\nflagjob_last_run_timestamp_seconds 1e9\nflagjob_last_run_exit_code {code}\n"
    ended += "flagjob_last_run_duration_seconds 5\n"
    groups = {"flagjob/shard/0": (2, 0), "flagjob/shard/1": (2, 6), "maps": (1, 4)}
    (codes,) = expressions("How each night went, from its run to the next").values()
    (seconds,) = expressions("Duration of the run").values()
    with pushgateway() as gateway, prometheus(tmp_path, gateway) as database:
        for group, (shards, code) in groups.items():
            assert gateway.push(f"job/{group}", ended.format(shards=shards, code=code)) == 200
        wait_until(lambda: len(database.query(codes)) == len(groups))
        found = {labels["part"]: value for labels, value in at(database, codes, time.time())}
        divided = {labels["part"] for labels, _ in at(database, seconds, time.time())}
        whole = {labels["part"] for labels, _ in at(database, seconds.replace('flagjob"', 'maps"'), time.time())}
    assert found == {"flagjob shard 0": 0, "flagjob shard 1": 6, "maps": 4}
    assert (divided, whole) == ({"shard 0", "shard 1"}, {"maps"})


@pytest.mark.parametrize("job", ["flagjob", "flagjob-live"])
def test_without_a_pushgateway(tmp_path: Path, job: str) -> None:
    """After each of three runs that were only scraped the status panels show how it ended, also while a fourth goes on.

    All have the same address, as with `docker run -p 9464:9464`, and each ends as soon as its last values were scraped.
    """
    port = free_port()
    gone: Script = {**GOOD, "/cn.gif": Answer(404), "/br.gif": GOOD["/us.gif"]}
    dead: Script = {path: Answer(503) for path in GOOD}
    expected = [
        (0, "ok", Values(0, 20, 0, 0)),
        (4, "permanent: http_404", Values(0.05, 0, 1, 1)),
        (6, "origin_down: http_503", Values(1, 0, 0, 0)),
    ]

    def rename(scraped: dict[str, Any]) -> None:
        scraped["job_name"] = scraped["job_name"].replace("flagjob-live", job)

    with prometheus(tmp_path, Pushgateway(free_port()), [port], change=rename) as database:
        scraped = {"metrics_address": f"127.0.0.1:{port}", "metrics_linger": "60", "new_origin": "accept"}
        for number, script in enumerate((GOOD, gone, dead)):
            with ScriptedServer(script) as origin:
                done = flagjob(settings(tmp_path / "out", "", url=origin.url("/{cc}.gif"), **scraped))
            wait_until(lambda: not database.query("flagjob_workers"))
            now = time.time()
            assert (done.returncode, shown_cause(database, now), shown_values(database, now)) == expected[number]
            assert value_of(database, "How each night went, from its run to the next", now) == expected[number][0]
            assert value_of(database, "Age of the files", now) < BOUND_SECONDS * (number + 1)
        with ScriptedServer(GOOD) as origin:
            slow = settings(tmp_path / "out", "", url=origin.url("/{cc}.gif"), rate_limit="1", **scraped)
            with subprocess.Popen([sys.executable, "-m", "job"], cwd=ROOT, env=slow, stdout=subprocess.PIPE) as process:
                wait_until(lambda: database.query('flagjob_downloads_total{status!="error"} > 0'))
                assert value_of(database, "How each night went, from its run to the next", time.time()) == 6
                assert shown_cause(database, time.time()) == "origin_down: http_503"
                assert 0 < value_of(database, "Progress", time.time()) <= 1
                assert value_of(database, "Expected end", time.time()) > 1000 * time.time()
                process.terminate()
                process.communicate()
