"""What the charts of the dashboard select: the series of the last run of each shard, or of a run that goes on."""  # noqa: INP001  (a part of a script, not a package)

NAMESPACE = 'namespace=~"$namespace"'
PUSHED = f'job="$job", instance="", {NAMESPACE}'
LIVE = f'job=~"$job(-live)?", instance!="", {NAMESPACE}'
"""What was scraped has the address that it came from; where runs are pushed as well, its job ends in -live."""
CRONJOB = f'{{{NAMESPACE}, cronjob="$job"}}'
CONTAINER = f'{NAMESPACE}, container="flagjob"'
CURRENT = "on (namespace, job, shard) job_shard:flagjob_shards:current"
RATE = f"{{{LIVE}}}[$__rate_interval]"
WINDOW = "3d"
"""How far back the last run may be that was only scraped. What was pushed stays until the next push."""
THROTTLED = 0.1
"""The share of answers 429 from which the alert FlagjobThrottled fires."""


def last(metric: str, labels: str = "", own: str = "") -> str:
    """Select the series of the last run of each shard that counts.

    What was pushed has raw values, which are those of the last run. A shard that pushed nothing has what was scraped of
    its newest run that ended, while it went on and lingered. `own` are the labels of the metric itself.
    """
    pushed = f"{metric}{{{PUSHED}{labels}}} and {CURRENT}"
    ignored = ", ".join(filter(None, [own, "outcome, reason"]))
    matched = "" if own == "outcome, reason" else f"ignoring ({ignored}) "
    scraped = f"last_over_time({metric}{{{LIVE}{labels}}}[{WINDOW}]) and {matched}{newest(LIVE, 'namespace, shard')}"
    return f"({pushed} or on (namespace, shard) ({scraped}))"


def newest(selected: str, by: str) -> str:
    """Select the newest of the runs that were scraped, by their ends: a run that goes on has none."""
    ended = f"max_over_time(flagjob_last_run_outcome_timestamp_seconds{{{selected}}}[{WINDOW}])"
    return f"topk by ({by}) (1, {ended})"


def named(expression: str) -> str:
    """Add what a series is called: its shard, or the job where that is not divided."""
    whole = f'label_replace({expression}, "part", "$job", "", "")'
    return f'label_replace({whole}, "part", "shard $1", "shard", "(.+)")'


def by_shard(metric: str) -> str:
    """Select a value of each shard, with its name."""
    return named(f"max by (namespace, shard) ({last(metric)})")


def every_exit_code() -> str:
    """Select the exit codes of every job's last run, with the names of job and shard."""
    code = "flagjob_last_run_exit_code"
    scraped_jobs = f'instance!="", {NAMESPACE}'
    pushed = f'{code}{{instance="", {NAMESPACE}}} and {CURRENT}'
    runs = newest(scraped_jobs, "namespace, job, shard")
    scraped = f"last_over_time({code}{{{scraped_jobs}}}[{WINDOW}]) and ignoring (outcome, reason) {runs}"
    unified = f'label_replace({scraped}, "job", "$1", "job", "(.+)-live")'
    codes = f"max by (namespace, job, shard) ({pushed} or on (namespace, job, shard) {unified})"
    joined = f'label_join({codes}, "part", " shard ", "job", "shard")'
    return f'label_replace({joined}, "part", "$1", "part", "(.+) shard ")'


def of_jobs(metric: str) -> str:
    """Select a metric of the CronJob's Jobs, whose names only their owner tells."""
    owner = f'kube_job_owner{{{NAMESPACE}, owner_kind="CronJob", owner_name="$job"}}'
    return f"({metric}{{{NAMESPACE}}} and on (namespace, job_name) {owner})"


def running(metric: str, own: str = "") -> str:
    """Select series of runs that go on: those that linger have an exit code."""
    matched = f"ignoring ({own}) " if own else ""
    return f"({metric}{{{LIVE}}} unless {matched}flagjob_last_run_exit_code{{{LIVE}}})"


CODES = last("flagjob_downloads_total", own="status")
GOOD = last("flagjob_downloads_total", ', status=~"ok|unchanged"', own="status")
FAILED = last("flagjob_downloads_total", ', status!~"ok|unchanged"', own="status")
REQUESTS = last("flagjob_http_requests_total", own="outcome")
TOO_MANY = last("flagjob_http_requests_total", ', outcome="429"', own="outcome")
SECONDS = last("flagjob_last_run_duration_seconds")
BUCKETS = last("flagjob_download_duration_seconds_bucket", own="le")
SUCCESS = "flagjob_last_success_timestamp_seconds"
SUCCEEDED = (
    f"({SUCCESS}{{{PUSHED}}} and {CURRENT} or on (namespace, shard)"
    f" max by (namespace, shard) (max_over_time({SUCCESS}{{{LIVE}}}[14d])))"
)
EXIT_CODES = f"max by (namespace, shard) ({last('flagjob_last_run_exit_code')})"
ENDINGS = f"{last('flagjob_last_run_info', own='outcome, reason')} * on (namespace, shard) group_left () {EXIT_CODES}"
"""The outcome and the cause of each shard's last run, with its exit code as value."""
CAUSES = (
    f"""{last("flagjob_last_run_info", ', reason!="none"', own="outcome, reason")}"""
    f" * on (namespace, shard) group_left () {EXIT_CODES}"
)
"""The same of runs that have a cause."""
DONE = f"sum({running('flagjob_downloads_total', 'status')})"
READ = f"sum({running('flagjob_selected_codes')})"
EXPECTED = f"(sum({CODES} and on (namespace, shard) {running('flagjob_workers')}) > {READ} or {READ})"
BEGUN = f"min({running('flagjob_last_run_start_timestamp_seconds')})"
