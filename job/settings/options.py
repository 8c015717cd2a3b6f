"""The table of settings: each option's variable, flags, parser, default and help text, declared once."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar, cast

from job import __version__, redaction
from job.errors import Fault
from job.model import Budget, FileType, Refresh
from job.settings import parsers
from job.settings.parsers import Pushgateway
from job.template import FileTemplate, UrlTemplate

T = TypeVar("T")
PREFIX = "FLAGJOB_"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as users see it: its names, its default and its help text."""

    name: str
    default: str | None
    """The default as text, parsed like a text that a user gives; None for no default."""
    parse: Callable[[str], object]
    """Returns the value of a text, or raises ValueError with a description of a valid text."""
    help: str
    flags: tuple[str, ...]
    """Further flags, such as `-m`, beside the long one that is made of the name."""
    metavar: str
    secret: bool
    """Whether the variable `NAME_FILE` may name a file that contains the text."""
    redact: Callable[[str], str]
    """Returns the part of a text that may be printed."""
    fallback_variables: tuple[str, ...]
    """Variables of other programs that may contain the text; the option's own variable wins."""
    must_not_be_empty: bool
    """Whether a variable that is set but empty is a fault: a text that went missing must not become a default."""
    absent_value: object
    """The value where there is neither a text nor a default."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The long flag."""
        return "--" + self.name.replace("_", "-")


def option(  # noqa: PLR0913  (a keyword for each attribute of a row)
    parse: Callable[[str], T],
    default: str | None,
    help_text: str,
    *flags: str,
    metavar: str = "TEXT",
    secret: bool = False,
    redact: Callable[[str], str] = redaction.plain,
    fallback_variables: tuple[str, ...] = (),
    must_not_be_empty: bool = False,
    absent_value: T | None = None,
) -> T:
    """Return the dataclass field of an option; its static type is the type that the parser returns."""
    row = Option(
        name="",  # options_of takes it from the field
        default=default,
        parse=parse,
        help=help_text,
        flags=flags,
        metavar=metavar,
        secret=secret,
        redact=redact,
        fallback_variables=fallback_variables,
        must_not_be_empty=must_not_be_empty,
        absent_value=absent_value,
    )
    return cast("T", dataclasses.field(metadata={"option": row}))


def options_of(table: type) -> tuple[Option, ...]:
    """Return the options of a dataclass whose fields `option` declared, in the order of the fields."""
    fields = [field for field in dataclasses.fields(table) if "option" in field.metadata]
    return tuple(dataclasses.replace(cast("Option", field.metadata["option"]), name=field.name) for field in fields)


class Server(StrEnum):
    """The labels of *Fluent Python* for the origin of the flags: the first three are the built-in demo server."""

    LOCAL = "local"
    DELAY = "delay"
    ERROR = "error"
    REMOTE = "remote"


class Executor(StrEnum):
    """How downloads run: many at a time, each on a thread or all driven by one, or one after the other."""

    THREADS = "threads"
    GREENLETS = "greenlets"
    SEQUENTIAL = "sequential"


EXECUTORS_HELP = "threads, greenlets (one thread), or sequential"


class Order(StrEnum):
    """The order of results: as futures complete, or as items were submitted."""

    COMPLETED = "completed"
    SUBMITTED = "submitted"


class Publish(StrEnum):
    """How files are published: each by itself, or all files of a run as one set."""

    EACH = "each"
    SET = "set"


class NewOrigin(StrEnum):
    """How a run treats a destination that was filled from another origin."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class LogFormat(StrEnum):
    """The format of log lines; auto is console on a terminal, else json; gcp is JSON with Google Cloud's fields."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"
    GCP = "gcp"


class LogLevel(StrEnum):
    """The lowest level of log lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogResults(StrEnum):
    """The items that get a result line."""

    ALL = "all"
    CHANGED = "changed"
    PROBLEMS = "problems"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, checked and frozen, so any thread may read them. Times in seconds, sizes in bytes."""

    arguments: tuple[str, ...]
    """Codes and names of sets from the command line; they win over all other sources of codes."""
    dry_run: bool
    verbose: bool
    secret_headers: Mapping[str, str]
    """Read from `headers_file`."""
    expected_digests: Mapping[str, str]
    """Read from `checksums`: the SHA-256 that a file must have, in hex, by the file's path below the destination."""
    unset_origin: Fault | None
    """What is wrong where neither the list nor a setting says where the files are: on a cluster, that nobody does."""
    changed: Mapping[str, str]
    """The texts of the settings that differ from their defaults, by name, with secrets redacted: for the log."""
    secrets: tuple[str, ...]
    """Texts that must not appear in any output."""

    codes: str | None = option(
        parsers.words, None, "codes and names of sets (POP20, ALL, EVERY)", metavar="CODES", must_not_be_empty=True
    )
    codes_file: str | None = option(
        parsers.path,
        None,
        "file with codes, or a table (.csv, .tsv, .jsonl), also with .gz; - for standard input",
        metavar="PATH",
        must_not_be_empty=True,
    )
    min_codes: int = option(
        parsers.whole(0, 10**9), "0", "a shorter list ends the run before the first request", metavar="N"
    )
    limit: int | None = option(parsers.whole(1, 10**9), None, "at most this many codes", "-l", metavar="N")
    server: Server | None = option(
        parsers.choice(Server),
        None,
        "built-in origin: local, delay (slow), error (faulty); or the book's site: remote",
        "-s",
        metavar="LABEL",
    )
    url: UrlTemplate | None = option(
        UrlTemplate.parse,
        None,
        "URL template with {cc}, {CC}, {id} or columns of a table in its path or query",
        metavar="URL",
        secret=True,
        redact=redaction.url,
        must_not_be_empty=True,
    )
    dest: str = option(
        parsers.destination,
        "downloads",
        "directory, or s3://, gs://, az:// bucket and prefix",
        "-o",
        metavar="PATH",
        redact=redaction.destination,
    )
    file: FileTemplate | None = option(
        parsers.file_template,
        None,
        "file names below the destination, such as {id:.2}/{id}.png; by default the code or ID with the URL's suffix",
        metavar="NAME",
    )
    workers: int = option(parsers.whole(1, 1000), "30", "downloads at the same time", "-m", "--max-req", metavar="N")
    executor: Executor = option(parsers.choice(Executor), "threads", EXECUTORS_HELP, metavar="HOW")
    order: Order = option(parsers.choice(Order), "completed", "results as completed, or as submitted", metavar="ORDER")
    rate_limit: float = option(parsers.rate, "0", "requests a second to the origin, 0 for no limit", metavar="N")
    max_attempts: int = option(parsers.whole(1, 100), "4", "tries for an item", metavar="N")
    connect_timeout: float = option(
        parsers.seconds(0.1, 3600), "5", "limit for a connection: name look-up, TCP and TLS", metavar="TIME"
    )
    read_timeout: float = option(
        parsers.seconds(1, 3600), "10", "abort after this long without data (enforced up to 7 s late)", metavar="TIME"
    )
    attempt_timeout: float = option(
        parsers.seconds(0.1, 86400), "30", "limit for an attempt, from name look-up to the last byte", metavar="TIME"
    )
    item_timeout: float = option(
        parsers.seconds(0.1, 86400), "90", "limit for an item, retries included", metavar="TIME"
    )
    deadline: float = option(parsers.seconds(1, 864000), "3600", "limit for the run", metavar="TIME")
    shutdown_grace: float = option(
        parsers.seconds(0.1, 3600), "8", "limit for everything after a signal or the deadline", metavar="TIME"
    )
    origin_patience: float | None = option(
        parsers.seconds(0, 86400),
        None,
        "how long to wait for an origin that is down; 5 s, or 30 s once it has answered",
        metavar="TIME",
    )
    max_bytes: int = option(parsers.size, "5MiB", "largest file", metavar="SIZE")
    accept: tuple[FileType, ...] | None = option(
        parsers.several(FileType),
        None,
        f"file types ({', '.join(FileType)}); by default that of the URL's suffix, else gif, png, jpeg or webp",
        metavar="TYPES",
    )
    redirect_hosts: tuple[str, ...] = option(
        parsers.hosts, None, "other hosts that a redirect may lead to", metavar="HOSTS", absent_value=()
    )
    url_ignore_query: tuple[str, ...] = option(
        parsers.parameters,
        None,
        "query parameters that sign a URL, beside those of S3, GCS, CloudFront and Azure",
        metavar="NAMES",
        absent_value=(),
    )
    refresh: Refresh = option(
        parsers.choice(Refresh),
        "conditional",
        "existing files: conditional (ask whether they changed), missing (leave them), always (download again)",
        metavar="HOW",
    )
    not_found_ttl: float = option(
        parsers.seconds(0, 31_536_000), "0", "how long a 404 counts without a new request", metavar="TIME"
    )
    recheck_after: float = option(
        parsers.seconds(0, 31_536_000),
        "0",
        "request each file once within this time, spread evenly, such as 7d; 0: in every run",
        metavar="TIME",
    )
    checksums: str | None = option(
        parsers.path, None, "SHA256SUMS file with the digests that files must have", metavar="PATH"
    )
    placeholders: tuple[str, ...] = option(
        parsers.digests,
        None,
        "sha256 of files that mean not found; the event same_bytes warns of them",
        metavar="DIGESTS",
        absent_value=(),
    )
    publish: Publish = option(
        parsers.choice(Publish),
        "each",
        "each (a file appears when it is accepted) or set (all files at once)",
        metavar="HOW",
    )
    keep: int = option(parsers.whole(1, 1000), "3", "sets to keep for a rollback", metavar="N")
    new_origin: NewOrigin = option(
        parsers.choice(NewOrigin), "refuse", "refuse or accept a destination that another origin filled", metavar="HOW"
    )
    shard_index: int = option(
        parsers.whole(0, 99_999),
        "0",
        "which share of the codes this run downloads, from 0; set by Kubernetes, Cloud Run and AWS Batch",
        metavar="N",
        fallback_variables=("JOB_COMPLETION_INDEX", "CLOUD_RUN_TASK_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"),
    )
    shard_count: int = option(
        parsers.whole(1, 100_000),
        "1",
        "into how many shares the codes are divided",
        metavar="N",
        fallback_variables=("CLOUD_RUN_TASK_COUNT", "AWS_BATCH_JOB_ARRAY_SIZE"),
    )
    max_changed: Budget = option(
        parsers.budget, "100%", "most changed files with which a set is published, such as 3 or 20%", metavar="N|N%"
    )
    max_errors: Budget = option(
        parsers.budget, "0", "failed items that do not change exit code 0, such as 3 or 5%", metavar="N|N%"
    )
    max_not_found: Budget = option(
        parsers.budget, "0", "missing files that do not change exit code 0, such as 3 or 5%", metavar="N|N%"
    )
    user_agent: str = option(parsers.line, f"flagjob/{__version__}", "User-Agent sent with each request")
    headers_file: str | None = option(
        parsers.path, None, "file of secret headers, one `Name: value` a line", metavar="PATH", redact=redaction.path
    )
    ca_bundle: str | None = option(
        parsers.path,
        None,
        "certificate authorities; REQUESTS_CA_BUNDLE, else SSL_CERT_FILE, else certifi's",
        metavar="PATH",
        fallback_variables=("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
    )
    client_cert: str | None = option(
        parsers.path,
        None,
        "client certificate with its key, one PEM file, for the URL's host",
        metavar="PATH",
        redact=redaction.path,
    )
    name: str = option(parsers.name, "flagjob", "the job's name in log lines and pushed metrics", metavar="NAME")
    metrics_address: parsers.Address | None = option(
        parsers.address, None, "address that serves /metrics during the run, such as :9464", metavar="[HOST]:PORT"
    )
    metrics_linger: float = option(
        parsers.seconds(0, 3600),
        "0",
        "serve /metrics after the end until one scrape, for at most this time",
        metavar="TIME",
    )
    metrics_file: str | None = option(
        parsers.path, None, "textfile for node_exporter, written at the end", metavar="PATH"
    )
    pushgateway_url: Pushgateway | None = option(
        parsers.pushgateway,
        None,
        "Pushgateway that gets the metrics at the end, such as http://localhost:9091",
        metavar="URL",
        secret=True,
        redact=redaction.url,
    )
    pushgateway_labels: tuple[tuple[str, str], ...] = option(
        parsers.labels,
        None,
        "more labels of the pushed group, such as team=maps,env=prod",
        metavar="LABELS",
        absent_value=(),
    )
    ping_url: str | None = option(
        parsers.ping_url,
        None,
        "URL to POST /start to, and /EXIT_CODE with the summary, such as https://hc-ping.com/UUID",
        metavar="URL",
        secret=True,
        redact=redaction.secret_url,
    )
    report: str | None = option(
        parsers.report,
        None,
        "HTML page about the run, written at its end: report.html below the destination, or a path with a /",
        metavar="PATH",
    )
    log_format: LogFormat = option(
        parsers.choice(LogFormat),
        "auto",
        "json, gcp (Google Cloud), console, or auto: console on a terminal",
        metavar="FORMAT",
    )
    log_level: LogLevel = option(parsers.choice(LogLevel), "info", f"one of {', '.join(LogLevel)}", metavar="LEVEL")
    log_results: LogResults = option(
        parsers.choice(LogResults), "all", "result lines: all, changed (not the unchanged), problems", metavar="WHICH"
    )
    termination_log: str | None = option(
        parsers.path, None, "file that gets the summary; /dev/termination-log if it exists", metavar="PATH"
    )


OPTIONS = options_of(Settings)
"""The options of the job, in the order of the help page and the documentation."""
