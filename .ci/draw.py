"""Draw rows of the dashboard as a picture, from what a Prometheus has: a look without a Grafana.

usage: .venv/bin/python .ci/draw.py PROMETHEUS_PORT FROM TO PICTURE [ROW ...]     FROM, TO: as 2026-11-08T00:00Z
It reads queries, colours, mappings, thresholds and units of flagjob-dashboard.json and draws stat, state timeline and
time series; everything else of Grafana, its fonts and controls, is not there. It needs requirements-e2e.lock.
"""  # noqa: INP001  (a script, not a package)

import json
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DASHBOARD = Path(__file__).parents[1] / "k8s" / "overlays" / "monitoring" / "flagjob-dashboard.json"
VARIABLES = {"$namespace": ".*", "${job}": "flagjob", "$job": "flagjob", "$__rate_interval": "10m"}
COLORS = {
    "green": "#73BF69",
    "dark-green": "#37872D",
    "red": "#F2495C",
    "dark-red": "#C4162A",
    "orange": "#FF9830",
    "dark-orange": "#FA6400",
    "yellow": "#FADE2A",
    "blue": "#5794F2",
    "purple": "#B877D9",
}
"""Grafana's palette, as far as the dashboard uses it."""
SHADES = ("#5794F2", "#3274D9", "#8AB8FF", "#1F60C4", "#C0D8FF")
"""Of blue, for what has no meaning."""
POINTS = 1344
"""Steps of a range: one each quarter of an hour of a fortnight."""
COLUMN_INCHES, LINE_INCHES, COLUMNS = 0.54, 0.37, 24
TITLE_LINES = 1.4
TEXT = {"fontsize": 8, "color": "#24292E"}
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

JsonObject = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
"""Times (Unix, in seconds) and values."""


@dataclass(frozen=True)
class Series:
    """A result of a query, with the name and the colour that the panel gives it."""

    name: str
    points: Points


@dataclass(frozen=True)
class Source:
    """A Prometheus on this machine, and the range that is looked at (Unix times, in seconds)."""

    port: int
    start: float
    end: float

    @property
    def step(self) -> float:
        """Return the seconds between two points."""
        return (self.end - self.start) / POINTS

    def series(self, panel: JsonObject) -> list[Series]:
        """Return what a panel's queries have, in order."""
        return [found for target in panel["targets"] for found in self._series_of(target)]

    def _series_of(self, target: JsonObject) -> Iterator[Series]:
        expression = target["expr"]
        for variable, text in VARIABLES.items():
            expression = expression.replace(variable, text)
        if target.get("instant"):
            answer = self._ask("query", query=expression, time=self.end)
        else:
            answer = self._ask("query_range", query=expression, start=self.start, end=self.end, step=self.step)
        for found in answer:
            labels = found["metric"]
            name = re.sub(
                r"\{\{(\w+)\}\}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"]
            )
            points = found.get("values") or [found["value"]]
            yield Series(name.replace("$job", "flagjob"), [(float(at), float(value)) for at, value in points])

    def _ask(self, path: str, **parameters: str | float) -> Sequence[JsonObject]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        result: Sequence[JsonObject] = answer["data"]["result"]
        return sorted(result, key=lambda found: json.dumps(found["metric"], sort_keys=True))


def panels(rows: Sequence[str]) -> list[JsonObject]:
    """Return the panels of these rows, from top to bottom, with places as if nothing stood above them."""
    found: list[JsonObject] = []
    row = ""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif row in rows:
            found.append(panel)
    top = min(panel["gridPos"]["y"] for panel in found)
    return [{**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] - top}} for panel in found]


def mapped(panel: JsonObject, value: float) -> JsonObject:
    """Return text and colour that a value is mapped to; nothing if it is not."""
    mappings = panel["fieldConfig"]["defaults"].get("mappings", [])
    options: JsonObject = mappings[0]["options"] if mappings else {}
    found: JsonObject = options.get(f"{value:g}", {})
    return found


def color_of(panel: JsonObject, name: str, value: float) -> str:
    """Return the colour of a series: its own, that of its value, or a shade by its name."""
    defaults = panel["fieldConfig"]["defaults"]
    for override in panel["fieldConfig"].get("overrides", []):
        if override["matcher"]["options"] == name:
            return COLORS[override["properties"][0]["value"]["fixedColor"]]
    mode = defaults["color"]["mode"]
    if mode == "fixed":
        return COLORS[defaults["color"]["fixedColor"]]
    if mode == "shades":
        return SHADES[sum(name.encode()) % len(SHADES)]
    if "color" in mapped(panel, value):
        return COLORS[mapped(panel, value)["color"]]
    reached = [step for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    return COLORS[reached[-1]["color"]]


def seconds_text(seconds: float) -> str:
    """Return a duration in the unit that Grafana would take."""
    for size, unit in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "mins")):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def scaled_text(value: float) -> str:
    """Return a number with a suffix for thousands and millions."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g}"


def text_of(panel: JsonObject, value: float) -> str:
    """Return a value as text in the panel's unit."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if "text" in mapped(panel, value):
        return str(mapped(panel, value)["text"])
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return seconds_text(value)
    return scaled_text(value) + {"Bps": "B/s", "bytes": "B", "cps": "/s", "reqps": "/s"}.get(unit, "")


def draw_stat(axes: Axes, panel: JsonObject, found: Sequence[Series]) -> None:
    """Draw each value, or each name, in its colour, side by side."""
    axes.set_axis_off()
    is_name = panel["options"]["textMode"] == "name"
    if not found:
        axes.text(
            0.5, 0.5, panel["fieldConfig"]["defaults"].get("noValue", "No data"), ha="center", va="center", **TEXT
        )
    for place, series in enumerate(found):
        value = series.points[-1][1]
        x = (place + 0.5) / len(found)
        text = series.name if is_name else text_of(panel, value)
        shown = {"color": color_of(panel, series.name, value), "ha": "center", "va": "center", "weight": "bold"}
        axes.text(x, 0.5, text, fontsize=14 if is_name else 19, **shown)
        if not is_name:
            axes.text(x, 0.08, series.name, ha="center", va="center", **TEXT)


def spans(points: Points, step: float) -> Iterator[tuple[float, float, float]]:
    """Yield start, end and value of each stretch without a change or a gap."""
    began, last, value = points[0][0], *points[0]
    for at, new in points[1:]:
        if new != value or at - last > 1.5 * step:
            yield began, min(at, last + step), value
            began = at
            value = new
        last = at
    yield began, last + step, value


def draw_states(axes: Axes, panel: JsonObject, found: Sequence[Series], step: float) -> None:
    """Draw a line of coloured stretches for each series, with the text of the state where it fits."""
    axes.set_yticks(range(len(found)), [series.name for series in found], fontsize=8)
    axes.set_ylim(len(found) - 0.45, -0.55)
    for line, series in enumerate(found):
        for began, ended, value in spans(series.points, step):
            place = (moment(began), (ended - began) / DAY)
            axes.broken_barh([place], (line - 0.4, 0.8), color=color_of(panel, series.name, value), lw=0.8, ec="white")
            if ended - began > DAY / 2:
                shown = {"ha": "center", "va": "center", "clip_on": True}
                axes.text(place[0] + place[1] / 2, line, text_of(panel, value), **shown, **{**TEXT, "fontsize": 7})


def draw_lines(axes: Axes, panel: JsonObject, found: Sequence[Series], step: float) -> None:
    """Draw a line for each series, steps where the panel has them, and the thresholds; a gap stays one."""
    defaults = panel["fieldConfig"]["defaults"]
    style = "steps-post" if defaults["custom"].get("lineInterpolation") == "stepAfter" else "default"
    for series in found:
        points = [point for pair in broken(series.points, step) for point in pair]
        color = color_of(panel, series.name, series.points[-1][1])
        times = [moment(at) for at, _ in points]
        values = [value for _, value in points]
        axes.plot(times, values, color=color, label=series.name, drawstyle=style, lw=1.8)
    highest = max([value for series in found for _, value in series.points] or [0.0])
    axes.set_ylim(0, 1.08 * max(highest, defaults["custom"].get("axisSoftMax", 0.0)) or 1.0)
    if defaults["custom"].get("thresholdsStyle", {}).get("mode") == "line":
        for limit in (limit for limit in defaults["thresholds"]["steps"] if limit["value"] is not None):
            axes.axhline(limit["value"], color=COLORS[limit["color"]], lw=1, ls="--")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: text_of(panel, value))
    axes.grid(visible=True, axis="y", color="#E5E5E5", lw=0.6)
    if found:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.13), ncols=4, frameon=False, fontsize=7, handlelength=1)


def broken(points: Points, step: float) -> Iterator[Points]:
    """Yield the points, with one that has no value where some are missing."""
    previous = points[0][0]
    for at, value in points:
        yield [(at, value)] if at - previous <= 1.5 * step else [(previous + step, float("nan")), (at, value)]
        previous = at


def moment(seconds: float) -> float:
    """Return a Unix time as matplotlib's number of a date."""
    return float(dates.date2num(datetime.fromtimestamp(seconds, UTC)))


def put_axes(figure: Figure, panel: JsonObject, lines: int) -> Axes:
    """Make the place of a panel, with its title and, for a range of time, the days."""
    place = panel["gridPos"]
    is_stat = panel["type"] == "stat"
    left, right = (0.3, 0.3) if is_stat else (1.9, 0.8)
    below = 0.4 if is_stat else 1.1 + 1.1 * (panel["type"] == "timeseries")
    top = place["y"] + TITLE_LINES
    height = place["h"] - TITLE_LINES - below
    width = (place["w"] - left - right) / COLUMNS
    axes = figure.add_axes(((place["x"] + left) / COLUMNS, 1 - (top + height) / lines, width, height / lines))
    title_x = (place["x"] + 0.3) / COLUMNS
    figure.text(title_x, 1 - (place["y"] + 0.9) / lines, panel["title"], fontsize=10, weight="bold", color="#24292E")
    return axes


def set_days(axes: Axes, source: Source, *, is_wide: bool) -> None:
    """Mark midnights; each date stands at the beginning of its day."""
    axes.set_xlim(moment(source.start), moment(source.end))
    axes.xaxis.set_major_locator(dates.DayLocator(interval=1 if is_wide else 3))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%a %d %b" if is_wide else "%d %b"))
    axes.tick_params(labelsize=7, colors="#24292E", length=3)
    axes.grid(visible=True, axis="x", color="#D0D0D0", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(source: Source, rows: Sequence[str], picture: Path) -> None:
    """Draw the panels of these rows into a PNG file."""
    chosen = panels(rows)
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in chosen)
    figure = Figure(figsize=(COLUMNS * COLUMN_INCHES, lines * LINE_INCHES), dpi=100, facecolor="white")
    for panel in chosen:
        axes = put_axes(figure, panel, lines)
        found = source.series(panel)
        if panel["type"] == "stat":
            draw_stat(axes, panel, found)
            continue
        if panel["type"] == "state-timeline":
            draw_states(axes, panel, found, source.step)
        else:
            draw_lines(axes, panel, found, source.step)
        set_days(axes, source, is_wide=panel["gridPos"]["w"] == COLUMNS)
    figure.savefig(picture, pil_kwargs={"optimize": True})


def main(port: str, start: str, end: str, picture: str, *rows: str) -> None:
    """Draw what the command line names; by default the first row."""
    first, last = (datetime.fromisoformat(text).timestamp() for text in (start, end))
    draw(Source(int(port), first, last), rows or ("Nights",), Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
