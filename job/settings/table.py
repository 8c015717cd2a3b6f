"""The table of settings: each row's variable, flag, parser, default and meaning, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from job import __version__
from job.model import Budget, FileType, Refresh
from job.settings import mask, values
from job.settings.gateway import Gateway, gateway
from job.settings.row import rows_of, setting
from job.template import UrlTemplate


class Server(StrEnum):
    """The seed's labels for where flags come from: the first three are the built-in origin, with its faults."""

    LOCAL = "local"
    DELAY = "delay"
    ERROR = "error"
    REMOTE = "remote"


class Executor(StrEnum):
    """How many at a time: many on threads, or one after the other on one."""

    THREADS = "threads"
    SEQUENTIAL = "sequential"


class Order(StrEnum):
    """In which order results come: as futures complete, or as items were submitted."""

    COMPLETED = "completed"
    SUBMITTED = "submitted"


class Publish(StrEnum):
    """How files appear: each by itself, or all of a run together."""

    EACH = "each"
    SET = "set"


class NewOrigin(StrEnum):
    """What to do where a destination was filled from another origin."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class LogFormat(StrEnum):
    """How lines are written; auto is console on a terminal, else json."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least important lines that are still written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogResults(StrEnum):
    """Which items get a result line."""

    ALL = "all"
    CHANGED = "changed"
    PROBLEMS = "problems"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run was told, checked and frozen, so any thread may read it. Times in seconds, sizes in bytes."""

    arguments: tuple[str, ...]
    """Codes and names of sets from the command line; they win over the other sources."""
    dry_run: bool
    verbose: bool
    secret_headers: Mapping[str, str]
    """Read from `headers_file`."""
    sums: Mapping[str, str]
    """Read from `checksums`: the sha256 in hex that a file must have, by its path below the destination."""
    changed: Mapping[str, str]
    """The settings that differ from their defaults, by name, as text, secrets masked: for the log."""
    secrets: tuple[str, ...]
    """Texts that nothing that is printed may hold."""

    codes: str | None = setting(
        values.words, None, "codes and names of sets (POP20, ALL, EVERY)", metavar="CODES", must_not_be_empty=True
    )
    codes_file: str | None = setting(
        values.path, None, "file of codes, or - for standard input", metavar="PATH", must_not_be_empty=True
    )
    limit: int | None = setting(values.whole(1, 10**9), None, "at most this many codes", "-l", metavar="N")
    server: Server | None = setting(
        values.choice(Server),
        None,
        "built-in origin: local, delay (slow), error (faulty); or the book's site: remote",
        "-s",
        metavar="LABEL",
    )
    url: UrlTemplate | None = setting(
        UrlTemplate.parse,
        None,
        "URL template with {cc}, {CC} or {id} in its path or query",
        metavar="URL",
        secret=True,
        shown=mask.url,
        must_not_be_empty=True,
    )
    dest: str = setting(
        values.destination,
        "downloads",
        "directory, or s3://, gs://, az:// bucket and prefix",
        "-o",
        metavar="PATH",
        shown=mask.destination,
    )
    workers: int = setting(values.whole(1, 1000), "30", "downloads at the same time", "-m", "--max-req", metavar="N")
    executor: Executor = setting(
        values.choice(Executor), "threads", "threads, or sequential: one item at a time, in order", metavar="HOW"
    )
    order: Order = setting(values.choice(Order), "completed", "results as completed, or as submitted", metavar="ORDER")
    rate_limit: float = setting(values.rate, "0", "requests a second to the origin, 0 for no limit", metavar="N")
    max_attempts: int = setting(values.whole(1, 100), "4", "tries for an item", metavar="N")
    connect_timeout: float = setting(values.seconds(0.1, 3600), "5", "time for a connection", metavar="TIME")
    read_timeout: float = setting(
        values.seconds(1, 3600), "10", "silence that ends an attempt (up to 7 s late)", metavar="TIME"
    )
    attempt_timeout: float = setting(
        values.seconds(0.1, 86400), "30", "time for an attempt, name look-up to last byte", metavar="TIME"
    )
    item_timeout: float = setting(
        values.seconds(0.1, 86400), "90", "time for an item, retries included", metavar="TIME"
    )
    deadline: float = setting(values.seconds(1, 864000), "3600", "time for the run", metavar="TIME")
    shutdown_grace: float = setting(
        values.seconds(0.1, 3600), "8", "time for all that happens after a signal or the deadline", metavar="TIME"
    )
    origin_patience: float = setting(
        values.seconds(0, 86400), "0", "how long a dead origin is probed before the run ends", metavar="TIME"
    )
    max_bytes: int = setting(values.size, "5MiB", "largest file", metavar="SIZE")
    accept: tuple[FileType, ...] | None = setting(
        values.several(FileType),
        None,
        f"file types ({', '.join(FileType)}); what the URL's suffix names, else gif, png, jpeg and webp",
        metavar="TYPES",
    )
    redirect_hosts: tuple[str, ...] = setting(
        values.hosts, None, "other hosts that a redirect may lead to", metavar="HOSTS", empty=()
    )
    refresh: Refresh = setting(
        values.choice(Refresh),
        "conditional",
        "files that are there: conditional (ask whether they changed), missing (leave them), always (fetch again)",
        metavar="HOW",
    )
    not_found_ttl: float = setting(
        values.seconds(0, 31_536_000), "0", "how long a 404 is believed without asking again", metavar="TIME"
    )
    checksums: str | None = setting(
        values.path, None, "SHA256SUMS file with the digests that files must have", metavar="PATH"
    )
    publish: Publish = setting(
        values.choice(Publish), "each", "each file as it is accepted, or a set of all, as a whole", metavar="HOW"
    )
    keep: int = setting(values.whole(1, 1000), "3", "sets that stay for a rollback", metavar="N")
    new_origin: NewOrigin = setting(
        values.choice(NewOrigin), "refuse", "refuse or accept a destination that another origin filled", metavar="HOW"
    )
    shard_index: int = setting(
        values.whole(0, 99_999),
        "0",
        "which share of the codes is this run's, from 0; else as Kubernetes, Cloud Run or AWS Batch say",
        metavar="N",
        also=("JOB_COMPLETION_INDEX", "CLOUD_RUN_TASK_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"),
    )
    shard_count: int = setting(
        values.whole(1, 100_000),
        "1",
        "into how many shares the codes are divided",
        metavar="N",
        also=("CLOUD_RUN_TASK_COUNT", "AWS_BATCH_JOB_ARRAY_SIZE"),
    )
    max_changed: Budget = setting(
        values.budget, "100%", "changed files beyond which a set is not published, as 3 or 20%", metavar="N|N%"
    )
    max_errors: Budget = setting(values.budget, "0", "errors that keep exit code 0, as 3 or 5%", metavar="N|N%")
    max_not_found: Budget = setting(values.budget, "0", "not-founds that keep exit code 0, as 3 or 5%", metavar="N|N%")
    user_agent: str = setting(values.line, f"flagjob/{__version__}", "User-Agent sent with each request")
    headers_file: str | None = setting(
        values.path, None, "file of secret headers, one `Name: value` a line", metavar="PATH", shown=mask.path
    )
    ca_bundle: str | None = setting(
        values.path,
        None,
        "certificate authorities; REQUESTS_CA_BUNDLE, else SSL_CERT_FILE, else certifi's",
        metavar="PATH",
        also=("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    )
    metrics_address: values.Address | None = setting(
        values.address, None, "where to serve /metrics during the run, as :9464", metavar="[HOST]:PORT"
    )
    metrics_linger: float = setting(
        values.seconds(0, 3600),
        "0",
        "how long /metrics is served after the end, until one scrape came",
        metavar="TIME",
    )
    metrics_file: str | None = setting(
        values.path, None, "textfile for node_exporter, written at the end", metavar="PATH"
    )
    pushgateway_url: Gateway | None = setting(
        gateway,
        None,
        "Pushgateway that gets the metrics at the end, as http://localhost:9091",
        metavar="URL",
        secret=True,
        shown=mask.url,
    )
    log_format: LogFormat = setting(
        values.choice(LogFormat), "auto", "json, console, or auto: console on a terminal", metavar="FORMAT"
    )
    log_level: LogLevel = setting(values.choice(LogLevel), "info", f"one of {', '.join(LogLevel)}", metavar="LEVEL")
    log_results: LogResults = setting(
        values.choice(LogResults), "all", "result lines: all, changed (not the unchanged), problems", metavar="WHICH"
    )
    termination_log: str | None = setting(
        values.path, None, "file that gets the summary; /dev/termination-log where it exists", metavar="PATH"
    )


ROWS = rows_of(Settings)
"""The table, in the order that help and documentation show."""
