"""What the Grafana dashboard shows: its charts, row by row."""  # noqa: INP001  (a part of a script, not a package)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LAST, LIVE = '{job="$job"}', '{job="${job}-live"}'
CRONJOB = '{namespace=~"$namespace", cronjob="$job"}'
CONTAINER = 'namespace=~"$namespace", container="flagjob"'
RATE = f"{LIVE}[$__rate_interval]"
GREEN: tuple[float | None, str] = (None, "green")
DAY = 86400.0
DEADLINE = 1200.0
"""The base's FLAGJOB_DEADLINE, in seconds."""


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
    kind: Literal["stat", "lines", "steps", "names"] = "lines"
    width: int = 8
    coded: bool = False
    """Its values are exit codes."""


def last(metric: str, labels: str = "") -> str:
    """Select pushed series of the shards that count: raw values, which are those of the last run."""
    return f'({metric}{{job="$job"{labels}}} and on (job, shard) job_shard:flagjob_shards:current{LAST})'


def of_jobs(metric: str) -> str:
    """Select a metric of the CronJob's Jobs, whose names only their owner tells."""
    owner = 'kube_job_owner{namespace=~"$namespace", owner_kind="CronJob", owner_name="$job"}'
    return f'({metric}{{namespace=~"$namespace"}} and on (namespace, job_name) {owner})'


ALL, ERRORS = last("flagjob_downloads_total"), last("flagjob_downloads_total", ', status="error"')
SECONDS, BUCKETS = last("flagjob_last_run_duration_seconds"), last("flagjob_download_duration_seconds_bucket")
LAST_RUN = [
    Chart(
        "Since the oldest success",
        "How long ago the shard succeeded that did so least recently.",
        "s",
        {"": f"time() - min({last('flagjob_last_success_timestamp_seconds')})"},
        (GREEN, (1.5 * DAY, "orange"), (2.5 * DAY, "red")),
        "flagjobnotsucceededrecently",
        "stat",
        width=4,
    ),
    Chart(
        "Exit codes",
        "How the last run of each shard ended. Each value links to its entry in the runbook.",
        "none",
        {"shard {{shard}}": f"max by (shard) ({last('flagjob_last_run_exit_code')})"},
        (GREEN, (1, "red")),
        "exit-code-${__value.raw}",
        "stat",
        coded=True,
    ),
    Chart(
        "Shards",
        "Those that reported since the number of shards was set, and that number.",
        "none",
        {
            "reported": f"count(job_shard:flagjob_shards:current{LAST})",
            "expected": f"max(job_shard:flagjob_shards:current{LAST})",
        },
        anchor="flagjobshardmissing",
        kind="stat",
        width=4,
    ),
    Chart(
        "Codes that failed",
        "Share of all codes of the last run whose status is error.",
        "percentunit",
        {"": f"sum({ERRORS}) / sum({ALL})"},
        (GREEN, (0.01, "orange"), (0.05, "red")),
        "flagjoberrorratiohigh",
        "stat",
        width=4,
    ),
    Chart(
        "Version",
        "What ran last; more than one while a new one is rolled out.",
        "none",
        {"{{version}} on Python {{python}}": f"count by (version, python) ({last('flagjob_build_info')})"},
        kind="names",
        width=4,
    ),
    Chart(
        "Codes by status",
        "Each code of the last run ended in one of these ways.",
        "short",
        {"{{status}}": f"sum by (status) ({ALL})"},
        anchor="flagjobnothingfound",
        kind="steps",
    ),
    Chart(
        "Requests by outcome",
        "All attempts of the last run, retries included.",
        "short",
        {"{{outcome}}": f"sum by (outcome) ({last('flagjob_http_requests_total')})"},
        anchor="flagjobthrottled",
        kind="steps",
    ),
    Chart(
        "Duration of the run",
        "Of each shard. At the red line FLAGJOB_DEADLINE ends the run.",
        "s",
        {"shard {{shard}}": f"max by (shard) ({SECONDS})"},
        (GREEN, (0.8 * DEADLINE, "orange"), (DEADLINE, "red")),
        "flagjobneardeadline",
        "steps",
    ),
    Chart(
        "Retries by reason",
        "Attempts of the last run that were tried again.",
        "short",
        {"{{reason}}": f"sum by (reason) ({last('flagjob_retries_total')})"},
        kind="steps",
        width=6,
    ),
    Chart(
        "Pauses before retries",
        "All workers' pauses of the last run, added up.",
        "s",
        {"{{reason}}": f"sum by (reason) ({last('flagjob_retry_wait_seconds_total')})"},
        kind="steps",
        width=6,
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
        width=6,
    ),
    Chart(
        "Throughput",
        "Bytes of all bodies of the last run, a second of its slowest shard.",
        "Bps",
        {"received": f"sum({last('flagjob_received_bytes_total')}) / max({SECONDS})"},
        kind="steps",
        width=6,
    ),
    Chart(
        "Runs in a day",
        "How often each shard pushed within 24 hours: retries and runs by hand count, too.",
        "short",
        {"shard {{shard}}": f"changes(flagjob_last_run_timestamp_seconds{LAST}[1d])"},
        width=12,
    ),
    Chart(
        "Since the last push",
        "Of each shard; and since the Pushgateway refused one, if it ever did.",
        "s",
        {
            "shard {{shard}}": f"time() - max by (shard) (push_time_seconds{LAST})",
            "refused, shard {{shard}}": f"time() - max by (shard) (push_failure_time_seconds{LAST} > 0)",
        },
        anchor="flagjobpushrejected",
        width=12,
    ),
]
LIVE_RUN = [
    Chart(
        "Codes a second",
        "By status, while a run goes on.",
        "cps",
        {"{{status}}": f"sum by (status) (rate(flagjob_downloads_total{RATE}))"},
    ),
    Chart(
        "Requests a second",
        "By outcome, retries included.",
        "reqps",
        {"{{outcome}}": f"sum by (outcome) (rate(flagjob_http_requests_total{RATE}))"},
        anchor="flagjobthrottled",
    ),
    Chart("Bytes a second", "Of bodies.", "Bps", {"received": f"sum(rate(flagjob_received_bytes_total{RATE}))"}),
    Chart(
        "Time of a request",
        "99th percentile.",
        "s",
        {"99 %": f"histogram_quantile(0.99, sum by (le) (rate(flagjob_http_request_duration_seconds_bucket{RATE})))"},
        (GREEN, (10, "orange"), (30, "red")),
    ),
    Chart(
        "Workers in use",
        "Share of all workers that download just now.",
        "percentunit",
        {"in use": f"sum(flagjob_active_downloads{LIVE}) / sum(flagjob_workers{LIVE})"},
    ),
    Chart(
        "Codes that wait",
        "For a worker; a long list is read as it is worked off.",
        "short",
        {"waiting": f"sum(flagjob_pending_downloads{LIVE})", "read": f"sum(flagjob_selected_codes{LIVE})"},
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
        {"{{job_name}}": f"sum by (namespace, job_name) ({of_jobs('kube_job_status_failed')})"},
        (GREEN, (1, "red")),
        "flagjobcronjobfailing",
        "stat",
        width=6,
    ),
    Chart(
        "Pods killed at their memory limit",
        "Of those that Kubernetes still keeps.",
        "short",
        {"killed": f'sum(kube_pod_container_status_terminated_reason{{{CONTAINER}, reason="OOMKilled"}})'},
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
    ),
]
OPTIONS = (("Last run", LAST_RUN), ("Live", LIVE_RUN), ("Kubernetes", KUBERNETES))
