"""Fourteen nights of a mirror, as a Prometheus would have them that scrapes a Pushgateway."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from job.errors import HttpError, Outcome
from job.exit_code import outcome_name
from job.metrics import Metrics
from job.model import Cause, Result, Status, Summary
from job.resilience import RetryEvent

CODES = 249
FIRST = datetime(2026, 11, 8, 4, 17, tzinfo=UTC)
"""When the first run begins; the others do at the same time of the days after it."""
START, END = datetime(2026, 11, 8, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)
SCRAPE_SECONDS = 240
"""Less than the 5 minutes for which Prometheus believes a sample."""


DAY_SECONDS = 86400


@dataclass(frozen=True)
class Night:
    """A run: how it ended, and what it did."""

    exit_code: int = 0
    reason: str = ""
    failed: Mapping[Status, int] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[Outcome, int] = field(default_factory=dict)
    """Those beyond one answer 304 for each code that is well."""
    seconds: float = 21.0


GOOD = Night()
DEAD = Night(6, "connection", {Status.ERROR: 3, Status.CANCELLED: 246}, attempts={Outcome.CONNECTION: 31}, seconds=605)
NIGHTS = [
    Night(changes={"new": 249}, seconds=34),
    GOOD,
    Night(changes={"changed": 5}),
    Night(3, "http_503", {Status.ERROR: 42}, attempts={Outcome.SERVER_ERROR: 168}, seconds=95),
    GOOD,
    Night(attempts={Outcome.TOO_MANY_REQUESTS: 188}, seconds=890),
    Night(changes={"new": 2, "changed": 3}),
    DEAD,
    DEAD,
    DEAD,
    GOOD,
    Night(4, "http_404", {Status.NOT_FOUND: 30}, {"gone": 30}, {Outcome.CLIENT_ERROR: 30}),
    Night(7, "deadline", {Status.CANCELLED: 103}, attempts={Outcome.TIMEOUT: 60}, seconds=1200),
    Night(changes={"new": 30, "changed": 1}),
]
CAUSES = {4: (3, "http_503"), 8: (6, "connection"), 9: (6, "connection"), 10: (6, "connection")} | {
    12: (4, "http_404"),
    13: (7, "deadline"),
}
"""Exit code and reason of each night that failed, by its number from 1."""
THROTTLED_NIGHT = 6
RETRIED = {408: Outcome.TIMEOUT, 429: Outcome.TOO_MANY_REQUESTS, 503: Outcome.SERVER_ERROR}
"""The attempts of which three in four were tried again, by the status of such an answer."""


def results(night: Night) -> Iterator[Result]:
    """Yield how each code of a night ended."""
    well = CODES - sum(night.failed.values())
    new = sum(number for change, number in night.changes.items() if change != "gone")
    counts = {Status.OK: min(new, well), Status.UNCHANGED: well - min(new, well), **night.failed}
    for status, number in counts.items():
        yield from [Result(status, None, "br", attempts=1, duration_seconds=night.seconds / CODES)] * number


def metrics_of(night: Night, ended_at: float) -> Metrics:
    """Return the metrics that a run of that night pushes."""
    metrics = Metrics("0.1.0", "abc")
    ended = list(results(night))
    metrics.record_start(ended_at - night.seconds, 30, active=lambda: 0, pending=lambda: 0)
    metrics.selected = CODES
    counts = {status: sum(result.status is status for result in ended) for status in Status}
    answers = {Outcome.OK: counts[Status.OK], Outcome.NOT_MODIFIED: counts[Status.UNCHANGED], **night.attempts}
    for outcome, number in answers.items():
        for _ in range(number):
            metrics.count_attempt(outcome, 0.2, 400 if outcome is Outcome.OK else 0)
    for status, outcome in RETRIED.items():
        for _ in range(night.attempts.get(outcome, 0) * 3 // 4):
            metrics.count_retry(RetryEvent(1, 4, 1.5, HttpError(status, "busy")))
    metrics.count_results(ended)
    cause = Cause(night.reason) if night.reason else None
    outcome_word = outcome_name(night.exit_code)
    summary = Summary(counts, 0, 0, night.seconds, night.exit_code, outcome_word, night.changes, cause=cause)
    metrics.record_end(summary, ended_at)
    return metrics


def samples(night: Night, ended_at: float) -> dict[str, float]:
    """Return the series that a Pushgateway shows after a night, as text with their labels."""
    found = {
        series_text(sample.name, sample.labels): sample.value
        for family in metrics_of(night, ended_at).registry.collect()
        for sample in family.samples
    }
    pushed = {"push_time_seconds": ended_at, "push_failure_time_seconds": 0, "job_shard:flagjob_shards:current": 1}
    return found | {series_text(name, {}): value for name, value in pushed.items()}


def series_text(name: str, labels: Mapping[str, str]) -> str:
    """Return a series as the text format has it."""
    pairs = ",".join(f'{key}="{value}"' for key, value in {"job": "flagjob", **labels}.items())
    return f"{name}{{{pairs}}}"


def open_metrics() -> Iterator[str]:
    """Yield all nights in OpenMetrics' text format, a day at a time: promtool reads a text for every 2 hours.

    Each value lasts from a run's end to the end of the next.
    """
    ends = [FIRST + timedelta(days=number, seconds=night.seconds) for number, night in enumerate(NIGHTS)]
    days: dict[int, dict[str, list[str]]] = {}
    success: dict[str, float] = {}
    for night, (began, ended) in zip(NIGHTS, pairwise([*ends, END + timedelta(seconds=1)]), strict=True):
        found = samples(night, began.timestamp())
        # The push of a run that failed leaves the time of the last success as it is.
        success = {series: value for series, value in found.items() if "last_success" in series} or success
        for at in range(int(began.timestamp()), int(ended.timestamp()), SCRAPE_SECONDS):
            for series, value in (found | success).items():
                days.setdefault(at // DAY_SECONDS, {}).setdefault(series, []).append(f"{series} {value} {at}")
    for day in days.values():
        yield "\n".join([*(line for lines in day.values() for line in lines), "# EOF\n"])
