"""The timeline of a page: a row for each slot, a bar for each attempt, in milliseconds since the run began."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from job.model import Status
from job.report.collector import Collector, Intervals
from job.report.recorder import AttemptTimes, ItemTimes, Pause

ROW_HEIGHT = 10
"""Of a slot, in the units of the drawing."""
_MOST_ROWS = 64
_THIN = 1
_THROTTLING = {420, HTTPStatus.TOO_MANY_REQUESTS}
_MISSING = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_NOTICEABLE_SECONDS = 0.005
"""A shorter wait is not drawn."""
_TICKS = 8
_STEPS = (1, 2, 5)
_MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of a drawing: its place and size, its kind, and what it says."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis of time."""

    percent: float
    label: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """An attempt as a row of the table that says the same as the drawing."""

    code: str
    slot: int
    number: int
    began: str
    ended: str
    kind: str
    outcome: str
    wait: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The timeline of a run. Widths are milliseconds, heights have no unit."""

    width: float
    height: int
    rows: int
    waits: Sequence[Box]
    bars: Sequence[Box]
    pauses: Sequence[Box]
    ticks: Sequence[Tick]
    omitted: int
    """How many attempts are not drawn."""
    table: Sequence[TableRow]
    """The drawn attempts that failed, or came after one that did."""


def draw(collector: Collector, seconds: float, clean: Callable[[str], str]) -> Drawing:
    """Return the timeline of a run of so many seconds; `clean` makes a text from outside fit to be shown."""
    recorder = collector.recorder
    items = [times for times in collector.drawn.in_order() if times.slot < _MOST_ROWS]
    rows = min(max(recorder.slots, 1), _MOST_ROWS)
    height = rows * ROW_HEIGHT
    bars = [bar for times in items for bar in _bars(times, clean)]
    return Drawing(
        width=seconds * _MILLISECONDS,
        height=height,
        rows=rows,
        waits=[box for times in items for box in _wait(times)],
        bars=bars,
        pauses=[_pause(pause, seconds, height, clean) for pause in recorder.pauses],
        ticks=ticks(seconds),
        omitted=collector.drawn.attempts - len(bars),
        table=[row for times in items for row in _table_rows(times, clean)],
    )


def kind_of(attempt: AttemptTimes) -> str:
    """Return what came of an attempt, in one word, which is also the class of its bar."""
    if attempt.reason is None:
        return "unchanged" if attempt.http_status == HTTPStatus.NOT_MODIFIED else "ok"
    if attempt.retry_after or attempt.http_status in _THROTTLING:
        return "throttled"
    return "not_found" if attempt.http_status in _MISSING else "error"


def _bars(times: ItemTimes, clean: Callable[[str], str]) -> Iterable[Box]:
    total = len(times.attempts)
    for number, attempt in enumerate(times.attempts, 1):
        kind = kind_of(attempt)
        inset = 0 if attempt.reason else 1  # one that failed is higher, so that its colour is not all that shows it
        words = [
            clean(attempt.code),
            f"try {number} of {total}" if total > 1 else "",
            _outcome(attempt),
            f"{attempt.began:.3f} s to {attempt.ended:.3f} s",
            f"again after {attempt.wait:.3f} s" if attempt.wait is not None else "",
        ]
        yield Box(
            x=_milliseconds(attempt.began),
            y=times.slot * ROW_HEIGHT + 1 + inset,
            width=_milliseconds(attempt.ended - attempt.began),
            height=ROW_HEIGHT - 2 - 2 * inset,
            kind=kind,
            title=" · ".join(filter(None, words)),
        )


def _outcome(attempt: AttemptTimes) -> str:
    """Return status and reason of an attempt, and what the origin asked for."""
    asked = f", Retry-After {attempt.retry_after:g} s" if attempt.retry_after else ""
    if attempt.reason is None:
        return str(attempt.http_status or "done")
    return f"{attempt.reason}{asked}"


def _wait(times: ItemTimes) -> Iterable[Box]:
    """Yield the line on which the attempts of an item lie, if it waited between or before them."""
    busy = sum(attempt.ended - attempt.began for attempt in times.attempts)
    last = times.attempts[-1].ended
    if last - times.began - busy > _NOTICEABLE_SECONDS:
        y = times.slot * ROW_HEIGHT + (ROW_HEIGHT - _THIN) / 2
        yield Box(_milliseconds(times.began), y, _milliseconds(last - times.began), _THIN, "wait")


def _pause(pause: Pause, seconds: float, height: int, clean: Callable[[str], str]) -> Box:
    ended = seconds if pause.ended is None else pause.ended
    span = f"{pause.began:.3f} s to {ended:.3f} s"
    title = f"all requests waited, {span} (at most {pause.longest:.3f} s): {pause.reason}, {clean(pause.error)}"
    return Box(_milliseconds(pause.began), 0, _milliseconds(ended - pause.began), height, "pause", title)


def _table_rows(times: ItemTimes, clean: Callable[[str], str]) -> Iterable[TableRow]:
    if not any(attempt.reason for attempt in times.attempts):
        return
    for number, attempt in enumerate(times.attempts, 1):
        yield TableRow(
            code=clean(attempt.code),
            slot=times.slot + 1,
            number=number,
            began=f"{attempt.began:.3f}",
            ended=f"{attempt.ended:.3f}",
            kind=kind_of(attempt),
            outcome=_outcome(attempt),
            wait="" if attempt.wait is None else f"{attempt.wait:.3f}",
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * _MILLISECONDS, 1)


def ticks(seconds: float) -> list[Tick]:
    """Return up to eight marks at round times, without the one at 0."""
    if seconds <= 0:
        return []
    step = _round_up(seconds / _TICKS)
    count = int(seconds / step)
    return [Tick(100 * number * step / seconds, _time_label(number * step, step)) for number in range(1, count + 1)]


def _round_up(value: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is not less than a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in _STEPS if step * power >= value), 10 * power)


def _time_label(time: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step)))
    return f"{time:.{digits}f} s"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of columns, stacked by status. Widths are seconds, heights results a second."""

    width: float
    height: float
    columns: Sequence[Box]


STACKED = (Status.OK, Status.UNCHANGED, Status.NOT_FOUND, Status.ERROR, Status.CANCELLED)
"""The statuses of a column, from its foot to its top."""


def throughput(intervals: Intervals, seconds: float) -> Chart:
    """Return how many results came in a second, over the time of a run."""
    width = intervals.seconds
    rates = [{status: count / width for status, count in counts.items()} for counts in intervals.counts]
    top = max((sum(rate.values()) for rate in rates), default=0.0) or 1.0
    columns: list[Box] = []
    for number, rate in enumerate(rates):
        foot = top
        for status in STACKED:
            height = rate.get(status, 0.0)
            if height:
                foot -= height
                columns.append(Box(round(number * width, 4), round(foot, 4), width, round(height, 4), status))
    return Chart(max(seconds, width), top, columns)
