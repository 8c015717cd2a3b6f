"""What the Grafana dashboard shows: its charts, row by row."""  # noqa: INP001  (a part of a script, not a package)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from selections import (
    BEGUN,
    BUCKETS,
    CAUSES,
    CODES,
    CONTAINER,
    CRONJOB,
    CURRENT,
    DONE,
    ENDINGS,
    EXPECTED,
    FAILED,
    GOOD,
    LIVE,
    PUSHED,
    RATE,
    REQUESTS,
    SECONDS,
    SUCCEEDED,
    THROTTLED,
    TOO_MANY,
    by_shard,
    every_exit_code,
    last,
    named,
    of_jobs,
)

GREEN: tuple[float | None, str] = (None, "green")
DAY = 86400.0
DEADLINE = 1200.0
"""The base's FLAGJOB_DEADLINE, in seconds."""
STATUSES = {"ok": "green", "unchanged": "dark-green", "failed": "red"}
OUTCOMES = {
    "2xx": "green",
    "304": "dark-green",
    "3xx": "blue",
    "429": "yellow",
    "4xx": "orange",
    "5xx": "red",
    "timeout": "purple",
    "connection": "dark-red",
    "invalid": "dark-orange",
}
CHANGES = {"new": "green", "changed": "blue", "gone": "orange"}
BLUE = {".*": "blue"}
BY_SHARD: dict[str, str] = {}
"""Shards have a shade each: none of them is better than another."""


@dataclass(frozen=True)
class Chart:
    """A panel: what it shows, where the value gets a colour, and its place in the runbook."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    """Expressions by what their series are called."""
    steps: Sequence[tuple[float | None, str]] = (GREEN,)
    anchor: str = ""
    kind: Literal["stat", "lines", "steps", "names", "states"] = "lines"
    width: int = 8
    height: int = 0
    """0: as its kind has it."""
    colors: Mapping[str, str] = field(default_factory=dict)
    """Fixed colours by what a series is called; `.*` is every other one."""
    coded: bool = False
    """Its values are exit codes."""
    empty: str = ""
    """What a stat says that has no value."""


NIGHTS = [
    Chart(
        "How each night went, from its run to the next",
        "Exit codes by job and shard. Each links to its entry in the runbook.",
        "none",
        {"{{part}}": every_exit_code()},
        (GREEN, (1, "red")),
        "exit-code-${__value.raw}",
        "states",
        width=24,
        height=5,
        coded=True,
    ),
    Chart(
        "What was wrong, from that run to the next",
        "The cause of each run that failed, with its exit code; and whether the origin asked for fewer requests.",
        "none",
        {
            "{{reason}}": f"max by (reason) ({CAUSES})",
            "throttled": f"0 * (sum({TOO_MANY}) / sum({REQUESTS}) > {THROTTLED}) + 429",
        },
        (GREEN, (1, "red")),
        "flagjoblastrunfailed",
        "states",
        width=24,
        height=6,
        coded=True,
    ),
    Chart(
        "Cause now",
        "How the last run ended, and why it failed if it did.",
        "none",
        {
            "{{cause}}": "label_replace(label_join(max by (outcome, reason) ("
            f'{ENDINGS}), "cause", ": ", "outcome", "reason"), "cause", "$1", "cause", "(.+): none")'
        },
        (GREEN, (1, "red")),
        "flagjoblastrunfailed",
        "names",
        width=6,
        empty="no run",
    ),
    Chart(
        "Age of the files",
        "How long ago the shard succeeded that did so least recently.",
        "s",
        {"": f"time() - min({SUCCEEDED})"},
        (GREEN, (1.5 * DAY, "orange"), (2.5 * DAY, "red")),
        "flagjobnotsucceededrecently",
        "stat",
        width=6,
        empty="no success",
    ),
    Chart(
        "Codes that failed",
        "Share of all codes of the last run that have no file from it: error, not found or cancelled.",
        "percentunit",
        {"": f"sum({FAILED}) / sum({CODES})"},
        (GREEN, (0.01, "orange"), (0.05, "red")),
        "flagjoberrorratiohigh",
        "stat",
        width=6,
    ),
    Chart(
        "What changed",
        "Files of the last run.",
        "short",
        {"{{change}}": f"sum by (change) ({last('flagjob_last_run_changes', own='change')})"},
        kind="stat",
        width=6,
        colors=CHANGES,
    ),
]
LAST_RUN = [
    Chart(
        "Codes by status",
        "How the codes of the last run ended. Failed are error, not found and cancelled together.",
        "short",
        {
            "{{status}}": f"sum by (status) ({GOOD})",
            "failed": f"sum({FAILED})",
        },
        anchor="flagjobnothingfound",
        kind="steps",
        colors=STATUSES,
    ),
    Chart(
        "Failed codes",
        "What became of those that failed.",
        "short",
        {"{{status}}": f"sum by (status) ({FAILED})"},
        anchor="flagjoberrorratiohigh",
        kind="steps",
        colors={"error": "red", "not_found": "orange", "cancelled": "purple"},
    ),
    Chart(
        "Requests by outcome",
        "All attempts of the last run, retries included.",
        "short",
        {"{{outcome}}": f"sum by (outcome) ({REQUESTS})"},
        anchor="flagjobthrottled",
        kind="steps",
        colors=OUTCOMES,
    ),
    Chart(
        "Files that changed",
        "New, changed and gone files of the last run.",
        "short",
        {"{{change}}": f"sum by (change) ({last('flagjob_last_run_changes', own='change')})"},
        kind="steps",
        colors=CHANGES,
    ),
    Chart(
        "Duration of the run",
        "Of each shard. At the red line FLAGJOB_DEADLINE ends the run.",
        "s",
        {"{{part}}": by_shard("flagjob_last_run_duration_seconds")},
        (GREEN, (0.8 * DEADLINE, "orange"), (DEADLINE, "red")),
        "flagjobneardeadline",
        "steps",
        colors=BY_SHARD,
    ),
    Chart(
        "Pauses before retries",
        "All workers' pauses of the last run, added up.",
        "s",
        {"{{reason}}": f"sum by (reason) ({last('flagjob_retry_wait_seconds_total', own='reason')})"},
        kind="steps",
        colors=OUTCOMES,
    ),
    Chart(
        "Retries by reason",
        "Attempts of the last run that were tried again.",
        "short",
        {"{{reason}}": f"sum by (reason) ({last('flagjob_retries_total', own='reason')})"},
        kind="steps",
        colors=OUTCOMES,
    ),
    Chart(
        "Time of a code",
        "Median and 95th percentile of the last run, retries included.",
        "s",
        {
            "median": f"histogram_quantile(0.5, sum by (le) ({BUCKETS}))",
            "95 %": f"histogram_quantile(0.95, sum by (le) ({BUCKETS}))",
        },
        kind="steps",
        colors={"median": "blue", "95 %": "purple"},
    ),
    Chart(
        "Throughput",
        "Bytes of all bodies of the last run, a second of its slowest shard.",
        "Bps",
        {"received": f"sum({last('flagjob_received_bytes_total')}) / max({SECONDS})"},
        kind="steps",
        colors=BLUE,
    ),
    Chart(
        "Version",
        "What ran last; more than one while a new one is rolled out.",
        "none",
        {
            "{{version}} on Python {{python}}": "count by (version, python) "
            f"({last('flagjob_build_info', own='version, revision, python')})"
        },
        kind="names",
        width=6,
        colors=BLUE,
    ),
    Chart(
        "Shards",
        "Those that reported since the number of shards was set, and that number.",
        "none",
        {"reported": f"count({last('flagjob_shards')})", "expected": f"max({last('flagjob_shards')})"},
        anchor="flagjobshardmissing",
        kind="stat",
        width=6,
        colors=BLUE,
    ),
    Chart(
        "Since the last push",
        "Of each shard; a run that is only scraped has none.",
        "s",
        {"{{part}}": named(f"(time() - max by (namespace, shard) (push_time_seconds{{{PUSHED}}} and {CURRENT}))")},
        (GREEN, (1.5 * DAY, "orange"), (2.5 * DAY, "red")),
        "flagjobpushrejected",
        "stat",
        width=6,
        empty="no push",
    ),
    Chart(
        "Pushes refused",
        "Shards whose last push the Pushgateway refused.",
        "short",
        {
            "refused": f"count(push_failure_time_seconds{{{PUSHED}}} > on (namespace, job, shard)"
            f" push_time_seconds{{{PUSHED}}}) or vector(0)"
        },
        (GREEN, (1, "red")),
        "flagjobpushrejected",
        "stat",
        width=6,
    ),
    Chart(
        "Runs in a day",
        "How often each shard ran within 24 hours: retries and runs by hand count, too.",
        "short",
        {
            "{{part}}": named(
                f"(max by (namespace, shard) (changes(flagjob_last_run_timestamp_seconds{{{PUSHED}}}[1d]))"
                f" or on (namespace, shard) sum by (namespace, shard)"
                f" (1 + changes(flagjob_last_run_timestamp_seconds{{{LIVE}}}[1d])))"
            )
        },
        kind="steps",
        width=24,
        height=6,
        colors=BY_SHARD,
    ),
]
LIVE_RUN = [
    Chart(
        "Progress",
        "Codes that are done, of as many as the last run had, or as were read so far if that is more.",
        "percentunit",
        {"": f"{DONE} / {EXPECTED}"},
        kind="stat",
        width=12,
        colors=BLUE,
        empty="no run goes on",
    ),
    Chart(
        "Expected end",
        "If the rest goes as fast as what is done.",
        "dateTimeFromNow",
        {"": f"1000 * ({BEGUN} + (time() - {BEGUN}) * {EXPECTED} / ({DONE} > 0))"},
        kind="stat",
        width=12,
        colors=BLUE,
        empty="no run goes on",
    ),
    Chart(
        "Codes a second",
        "By status, while a run goes on.",
        "cps",
        {"{{status}}": f"sum by (status) (rate(flagjob_downloads_total{RATE}))"},
        colors={**STATUSES, "error": "red", "not_found": "orange", "cancelled": "purple"},
    ),
    Chart(
        "Requests a second",
        "By outcome, retries included.",
        "reqps",
        {"{{outcome}}": f"sum by (outcome) (rate(flagjob_http_requests_total{RATE}))"},
        anchor="flagjobthrottled",
        colors=OUTCOMES,
    ),
    Chart(
        "Bytes a second",
        "Of bodies.",
        "Bps",
        {"received": f"sum(rate(flagjob_received_bytes_total{RATE}))"},
        colors=BLUE,
    ),
    Chart(
        "Time of a request",
        "99th percentile.",
        "s",
        {"99 %": f"histogram_quantile(0.99, sum by (le) (rate(flagjob_http_request_duration_seconds_bucket{RATE})))"},
        (GREEN, (10, "orange"), (30, "red")),
        colors=BLUE,
    ),
    Chart(
        "Workers in use",
        "Share of all workers that download just now.",
        "percentunit",
        {"in use": f"sum(flagjob_active_downloads{{{LIVE}}}) / sum(flagjob_workers{{{LIVE}}})"},
        colors=BLUE,
    ),
    Chart(
        "Codes that wait",
        "For a worker; a long list is read as it is worked off.",
        "short",
        {"waiting": f"sum(flagjob_pending_downloads{{{LIVE}}})", "read": f"sum(flagjob_selected_codes{{{LIVE}}})"},
        colors={"waiting": "orange", "read": "blue"},
    ),
]
KUBERNETES = [
    Chart(
        "Next start",
        "Red: it is more than an hour late.",
        "s",
        {"{{namespace}}": f"min by (namespace) (kube_cronjob_next_schedule_time{CRONJOB}) - time()"},
        ((None, "red"), (-3600, "orange"), (0, "green")),
        "flagjobschedulemissed",
        "stat",
        width=6,
    ),
    Chart(
        "Since the last successful Job",
        "As Kubernetes saw it.",
        "s",
        {"{{namespace}}": f"time() - max by (namespace) (kube_cronjob_status_last_successful_time{CRONJOB})"},
        (GREEN, (1.5 * DAY, "orange"), (2.5 * DAY, "red")),
        "flagjobcronjobfailing",
        "stat",
        width=6,
    ),
    Chart(
        "Pods that failed",
        "Of the Jobs that Kubernetes still keeps.",
        "short",
        {"failed": f"sum({of_jobs('kube_job_status_failed')}) or vector(0)"},
        (GREEN, (1, "red")),
        "flagjobcronjobfailing",
        "stat",
        width=6,
    ),
    Chart(
        "Pods killed at their memory limit",
        "Of those that Kubernetes still keeps.",
        "short",
        {"killed": f'sum(kube_pod_container_status_terminated_reason{{{CONTAINER}, reason="OOMKilled"}}) or vector(0)'},
        (GREEN, (1, "red")),
        "flagjoboutofmemory",
        "stat",
        width=6,
    ),
    Chart(
        "Duration of the Job",
        "All its pods, retries and the pauses between them.",
        "s",
        {
            "{{job_name}}": f"max by (namespace, job_name) ({of_jobs('kube_job_status_completion_time')}"
            f" - on (namespace, job_name) {of_jobs('kube_job_status_start_time')})"
        },
        kind="steps",
        width=12,
        colors=BLUE,
    ),
    Chart(
        "Memory",
        "Each pod's working set, and the limit at which it is killed.",
        "bytes",
        {
            "{{pod}}": f"max by (namespace, pod) (container_memory_working_set_bytes{{{CONTAINER}}})",
            "limit": f'max(kube_pod_container_resource_limits{{{CONTAINER}, resource="memory"}})',
        },
        anchor="flagjoboutofmemory",
        width=12,
        colors={"limit": "red", ".*": "blue"},
    ),
]
OPTIONS = (("Nights", NIGHTS), ("Last run", LAST_RUN), ("Live", LIVE_RUN), ("Kubernetes", KUBERNETES))
