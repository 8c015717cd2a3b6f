"""The view of a run: every text and number that its page shows, in the order of the page."""

import shlex
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from job import display
from job.advice import advice_for
from job.exit_code import ExitCode
from job.model import Cause, Result, Status, Summary
from job.report.collector import Collector, ReasonGroup
from job.report.gallery import Clean, View, changes_view, counted, gallery_view
from job.report.recorder import Pause
from job.report.timeline import ROW_HEIGHT, Drawing, draw, throughput
from job.settings import OPTIONS, Settings, SimulateOptions

_OUTCOMES: Mapping[int, tuple[str, str]] = {
    ExitCode.OK: ("All is well", "t-ok"),
    ExitCode.BUG: ("A bug of flagjob", "t-bug"),
    ExitCode.RETRYABLE: ("Failures that a later run may heal", "t-retryable"),
    ExitCode.PERMANENT: ("Failures that no later run heals", "t-permanent"),
    ExitCode.STORAGE: ("The destination or this machine failed", "t-bug"),
    ExitCode.ORIGIN_DOWN: ("The origin is down", "t-down"),
    ExitCode.DEADLINE: ("The time for the run was over", "t-deadline"),
}
"""How a run ended, in words, and the class of its colour, which is that of the dashboard."""
_INTERRUPTED = ("Interrupted", "t-signal")
_STATUS_LABELS = {
    Status.OK: "downloaded",
    Status.UNCHANGED: "unchanged",
    Status.NOT_FOUND: "not found",
    Status.ERROR: "failed",
    Status.CANCELLED: "cancelled",
}
_LEGEND = {
    "ok": "ok",
    "unchanged": "not modified",
    "not_found": "not found",
    "throttled": "asked to wait",
    "error": "failed",
}
_SECTIONS = {
    "failures": "Failures",
    "drawing": "Timeline",
    "gallery": "Pictures",
    "changes": "Changes",
    "durations": "Durations",
    "command": "Settings",
}
_IDS = {"drawing": "timeline", "command": "settings"}
_MOST_GROUPS = 30
_MOST_TABLE_ROWS = 400
_SECOND = 1000
_EDGES = tuple(step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5))
"""Upper ends of the histogram's classes, in seconds."""
_ROW_PIXELS = ((12, 16), (32, 11), (64, 7))
"""How high a row of the timeline is drawn, for up to so many of them."""
_MEDIAN = 0.5
_NEARLY_ALL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a page says of a run beside what was collected of its results."""

    settings: Settings
    summary: Summary
    cause: Cause | None
    """As it may be shown."""
    url: str
    workers: int
    version: str
    run_id: str
    readable: bool
    """Whether files can be read back: not from a bucket."""


def run_view(facts: RunFacts, collector: Collector, clean: Clean) -> View:
    """Return what the page of a run shows."""
    summary = facts.summary
    groups = sorted(collector.reasons.items(), key=lambda group: -group[1].count)
    view: View = {
        "head": _head(facts, collector, clean),
        "counts": _counts(summary),
        "shares": _shares(summary),
        "failures": [_group_view(reason, group, clean) for reason, group in groups[:_MOST_GROUPS]],
        "more_reasons": _more_reasons(groups[_MOST_GROUPS:]),
        "drawing": timeline_view(collector, summary.duration_seconds, clean),
        "gallery": gallery_view(collector, clean, readable=facts.readable),
        "changes": changes_view(summary, collector, clean),
        "durations": durations_view(collector, clean),
        "command": clean(command(facts.settings)),
        "command_note": _command_note(facts.settings),
        "settings": [
            {"name": f"FLAGJOB_{name.upper()}", "text": clean(text)} for name, text in facts.settings.changed.items()
        ],
        "footer": f"flagjob {facts.version}. This page is one file, and loads nothing.",
    }
    return {**view, "sections": sections(view)}


def simulation_view(options: SimulateOptions, collector: Collector, expected: float, took: float) -> View:
    """Return what the page of a simulation shows: the same timeline, without files."""
    texts = {name: str(value) for name, value in vars(options).items() if value is not None}
    words = [word for name, text in texts.items() for word in (f"--{name}", text)]
    view: View = {
        "head": {
            "name": "flagjob simulate",
            "over": f"flagjob simulate · {time_text(collector.recorder.began_at)}",
            "title": f"{counted(options.tasks, 'task')} on {counted(options.workers, 'worker')}",
            "tone": "t-signal",
            "cause": "",
            "todo": "",
            "facts": [fact("Expected", duration_text(expected)), fact("Took", duration_text(took))],
            "where": [],
        },
        "counts": [],
        "shares": [],
        "failures": [],
        "more_reasons": "",
        "drawing": timeline_view(collector, took, str),
        "gallery": None,
        "changes": None,
        "durations": durations_view(collector, str),
        "command": shlex.join(["flagjob", "simulate", *words]),
        "command_note": "",
        "settings": [{"name": f"--{name}", "text": text} for name, text in texts.items()],
        "footer": "This page is one file, and loads nothing.",
    }
    return {**view, "sections": sections(view)}


def sections(view: View) -> list[View]:
    """Return the sections of a page that are there, for its navigation."""
    return [{"id": _IDS.get(key, key), "name": name} for key, name in _SECTIONS.items() if view[key]]


def fact(name: str, text: str) -> View:
    """Return a fact of a list of them."""
    return {"name": name, "text": text}


def time_text(time: datetime) -> str:
    """Return a time of day, in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def duration_text(seconds: float) -> str:
    """Return a duration; one of less than a second, as most attempts take, in milliseconds."""
    milliseconds = 1000 * seconds
    return f"{milliseconds:.3g} ms" if seconds > 0 and round(milliseconds) < _SECOND else display.duration_text(seconds)


def _head(facts: RunFacts, collector: Collector, clean: Clean) -> View:
    settings = facts.settings
    summary = facts.summary
    title, tone = _OUTCOMES.get(summary.exit_code, _INTERRUPTED)
    if summary.exit_code == ExitCode.OK and (summary.counts[Status.NOT_FOUND] or summary.counts[Status.ERROR]):
        title = "Well, within the budgets"
    shard = f", shard {settings.shard_index} of {settings.shard_count}" if settings.shard_count > 1 else ""
    rate = summary.items / summary.duration_seconds if summary.duration_seconds else 0.0
    return {
        "name": clean(settings.name),
        "over": f"{clean(settings.name)}{shard} · {time_text(collector.recorder.began_at)}",
        "title": title,
        "tone": tone,
        "cause": _cause_text(facts.cause, clean),
        "todo": advice_for(facts.cause.reason) if facts.cause else "",
        "facts": [
            fact("Exit code", f"{summary.exit_code} {summary.outcome}"),
            fact("Items", f"{summary.items:,}"),
            fact("Duration", duration_text(summary.duration_seconds)),
            fact("Throughput", f"{rate:,.3g} items/s"),
            fact("Received", display.size_text(summary.received_bytes)),
            fact("Retries", f"{summary.retries:,}"),
            fact("Workers", f"{facts.workers:,}"),
            fact("Something new is published", "yes" if summary.published else "no"),
        ],
        "where": [
            fact("From", clean(facts.url)),
            fact("To", clean(settings.changed.get("dest", settings.dest))),
            fact("Run", facts.run_id),
        ],
    }


def _cause_text(cause: Cause | None, clean: Clean) -> str:
    if cause is None:
        return ""
    place = f" at {clean(cause.host)}" if cause.host else ""
    return f"{cause.reason}{place}: {clean(cause.error)}" if cause.error else f"{cause.reason}{place}"


def _counts(summary: Summary) -> list[View]:
    return [
        {"kind": status.value, "label": label, "number": summary.counts[status], "text": f"{summary.counts[status]:,}"}
        for status, label in _STATUS_LABELS.items()
    ]


def _shares(summary: Summary) -> list[View]:
    """Return the parts of the bar that shows the statuses, in per cent of all items."""
    shares: list[View] = []
    x = 0.0
    for status in _STATUS_LABELS:
        width = 100 * summary.counts[status] / max(summary.items, 1)
        if width:
            shares.append({"kind": status.value, "x": round(x, 3), "width": round(width, 3)})
        x += width
    return shares


def _group_view(reason: str, group: ReasonGroup, clean: Clean) -> View:
    shown = len(group.examples)
    return {
        "reason": reason,
        "kind": group.examples[0].status.value,
        "count": f"{group.count:,}",
        "advice": advice_for(reason),
        "summary": counted(shown, "item") if shown == group.count else f"The first {shown} of {group.count:,} items",
        "examples": [
            {"code": clean(result.code), "attempts": result.attempts, "error": clean(result.error or "")}
            for result in group.examples
        ],
    }


def _more_reasons(groups: Sequence[tuple[str, ReasonGroup]]) -> str:
    if not groups:
        return ""
    return f"{counted(len(groups), 'more reason')} with {counted(sum(group.count for _, group in groups), 'item')}."


def timeline_view(collector: Collector, seconds: float, clean: Clean) -> View | None:
    """Return the timeline, with the throughput below it and its table; None if nothing was attempted."""
    drawn = collector.drawn
    if not drawn.attempts:
        return None
    drawing = draw(collector, seconds, clean)
    chart = throughput(collector.intervals, seconds)
    pauses = collector.recorder.pauses
    return {
        "view": drawing,
        "seconds": seconds,
        "row_height": ROW_HEIGHT,
        "stripes": [number * ROW_HEIGHT for number in range(0, drawing.rows, 2)],
        "pixels": drawing.rows * next(height for rows, height in _ROW_PIXELS if drawing.rows <= rows),
        "legend": _legend(drawing),
        "note": _timeline_note(drawing, collector),
        "label": f"Timeline of {counted(drawn.attempts, 'try', 'tries')} on {counted(drawing.rows, 'slot')} in "
        f"{duration_text(seconds)}, {counted(len(pauses), 'pause')}. The table below says the same.",
        "chart": chart,
        "chart_label": f"Results a second, {chart.height:.3g} at most",
        "table": drawing.table[:_MOST_TABLE_ROWS],
        "table_summary": _table_summary(drawing),
        "pauses": [_pause_view(pause, seconds, clean) for pause in pauses],
    }


def _legend(drawing: Drawing) -> list[View]:
    kinds = {bar.kind for bar in drawing.bars}
    legend: list[View] = [{"kind": kind, "label": label} for kind, label in _LEGEND.items() if kind in kinds]
    legend += [{"kind": "wait", "label": "an item waits"}] if drawing.waits else []
    return legend + ([{"kind": "pause", "label": "all requests wait"}] if drawing.pauses else [])


def _table_summary(drawing: Drawing) -> str:
    """Return what the table holds that says the same as the timeline."""
    if not drawing.table and not drawing.pauses:
        return "nothing failed, nothing was paused"
    shown = min(len(drawing.table), _MOST_TABLE_ROWS)
    more = f" of {len(drawing.table):,}" if shown < len(drawing.table) else ""
    return f"{counted(len(drawing.pauses), 'pause')}, {counted(shown, 'try', 'tries')}{more} of items with a failed one"


def _pause_view(pause: Pause, seconds: float, clean: Clean) -> View:
    return {
        "began": f"{pause.began:.3f}",
        "ended": f"{seconds if pause.ended is None else pause.ended:.3f}",
        "reason": pause.reason,
        "error": clean(pause.error),
    }


def _timeline_note(drawing: Drawing, collector: Collector) -> str:
    """Return what the timeline shows, and what it leaves out."""
    words = [f"A row is one of {counted(collector.recorder.slots, 'slot')} for items in flight, a bar is one try."]
    if drawing.omitted:
        words.append(
            f"{drawing.omitted:,} of {counted(collector.drawn.attempts, 'try', 'tries')} are left out: of items whose "
            f"tries all succeeded one in {collector.drawn.stride} is drawn, in the first {drawing.rows} rows."
        )
    if collector.recorder.omitted_pauses:
        words.append(f"{counted(collector.recorder.omitted_pauses, 'further pause')} are left out.")
    return " ".join(words)


def durations_view(collector: Collector, clean: Clean) -> View | None:
    """Return how long items took; None if none was attempted."""
    seconds = sorted(collector.seconds)
    if not seconds:
        return None
    shares = {"Median": _MEDIAN, "95 %": _NEARLY_ALL, "Longest": 1.0}
    return {
        "facts": [fact(name, duration_text(_quantile(seconds, share))) for name, share in shares.items()],
        "histogram": list(_histogram(seconds)),
        "slowest": [_slow_view(time, result, clean) for time, result in collector.slowest],
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of all is not above."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _histogram(ordered: Sequence[float]) -> Iterable[View]:
    """Yield the classes of the histogram, from the first that is not empty to the last."""
    edges = [*_EDGES, max(ordered[-1], _EDGES[-1])]
    numbers = [bisect_left(ordered, edge * (1 + 1e-9)) for edge in edges]
    counts = [high - low for low, high in zip([0, *numbers], numbers, strict=False)]
    filled = [index for index, count in enumerate(counts) if count]
    for index in range(filled[0], filled[-1] + 1):
        percent = round(100 * counts[index] / max(counts), 2)
        yield {"label": duration_text(edges[index]), "count": f"{counts[index]:,}", "percent": percent}


def _slow_view(seconds: float, result: Result, clean: Clean) -> View:
    return {
        "code": clean(result.code),
        "time": duration_text(seconds),
        "attempts": result.attempts,
        "kind": result.status.value,
        "outcome": result.reason or str(result.status),
    }


def command(settings: Settings) -> str:
    """Return the command that repeats a run, quoted for a shell; secrets are masked in it."""
    words = ["flagjob"]
    for option in OPTIONS:
        if option.name in settings.changed:
            words += [option.flag, settings.changed[option.name]]
    if settings.verbose:
        words.append("--verbose")
    codes = [*(["--"] if any(code.startswith("-") for code in settings.arguments) else []), *settings.arguments]
    return shlex.join([*words, *codes])


def _command_note(settings: Settings) -> str:
    words = ["In the same directory, with the same proxies and credentials in the environment."]
    if any("***" in text or text.endswith("...") for text in settings.changed.values()):
        words.append("Replace *** by the secrets that are masked, and ... by what is cut.")
    if settings.codes_file == "-":
        words.append("The codes came from standard input.")
    return " ".join(words)
