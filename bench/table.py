"""What was measured as text: medians, ratios, the table of a run, the line of a stage, the document that holds both."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Usage
from bench.rows import BASE, IMPORTS, Against, By

HEAD = """\
# Benchmark results

`make bench` writes this file; [CONTRIBUTING.md](../CONTRIBUTING.md) has its variables. nginx serves real flags on
loopback, with one worker process. Each client is a whole process, start-up included. Every file that a client leaves
is compared with its source by SHA-256; a wrong one fails the run. The clients of a row take turns, round after round.
Each figure is the median of the rounds; each ratio is the median of the ratios within a round. Absolute figures
differ from machine to machine and from hour to hour, so compare only figures of one run. Context switches are
voluntary and involuntary ones. Peak RSS of several processes is their sum; it cannot be told apart below 10 MB, which
the launcher has itself. flagjob writes its default log to a file, serves metrics and writes them at the end.
"""
LAST_RUN = "## The last run"
STAGES = "## Stages"
NOTHING_YET = "Nothing is recorded yet: run `make bench` on a quiet machine."
STAGES_HEAD = """\
`make bench STAGE=name` adds a line, or replaces the line of that name. Where several variants of flagjob were
measured, a cell has one value for each, in the order of the column "variants".
"""
_COLUMNS = (
    "row",
    "client",
    "files",
    "wall s",
    "files/s",
    "CPU-s per 1,000",
    "switches a file",
    "peak RSS MB",
    "ratios",
)
_MEGABYTE = 1_000_000
_THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one line of the table says: the usages of a client, or of a part of what it did, one a round.

    `fault` is why there is none for some round, or an empty text.
    """

    row: str
    client: str
    part: str
    usages: tuple[Usage, ...]
    against: tuple[Against, ...] = ()
    is_flagjob: bool = False
    fault: str = ""

    @property
    def name(self) -> str:
        """Return what the line is called."""
        return f"{self.client}, {self.part}" if self.part else self.client


def wall(usage: Usage) -> float:
    """Return seconds from the first start to the last end."""
    return usage.wall_seconds


def speed(usage: Usage) -> float:
    """Return files a second."""
    return usage.files / usage.wall_seconds


def cpu_per_thousand(usage: Usage) -> float:
    """Return seconds of processor time for 1,000 files."""
    return usage.cpu_seconds * _THOUSAND / usage.files


def switches_per_file(usage: Usage) -> float:
    """Return context switches for each file."""
    return usage.switches / usage.files


def megabytes(usage: Usage) -> float:
    """Return the peak memory in MB of a million bytes."""
    return usage.rss_bytes / _MEGABYTE


def middle(usages: Iterable[Usage], figure: Callable[[Usage], float]) -> float:
    """Return the median of a figure."""
    return median(figure(usage) for usage in usages)


def ratio(own: Sequence[Usage], reference: Sequence[Usage], by: By) -> float:
    """Return the median of the ratios within each round, as far as both were measured, from the first round on."""
    return median(_compared(ours, theirs, by) for ours, theirs in zip(own, reference, strict=False))


def _compared(ours: Usage, theirs: Usage, by: By) -> float:
    """Return one ratio, own by reference."""
    match by:
        case By.SPEED:
            return speed(ours) / speed(theirs)
        case By.WALL:
            return ours.wall_seconds / theirs.wall_seconds
        case By.TIME_PER_FILE:
            return speed(theirs) / speed(ours)
        case By.CPU:
            return ours.cpu_seconds / theirs.cpu_seconds
        case By.RSS:
            return ours.rss_bytes / theirs.rss_bytes


def number(value: float) -> str:
    """Return three significant digits, and all those before the point."""
    if abs(value) >= _THOUSAND:
        return f"{value:,.0f}"
    digits = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in digits else digits


def find_ratio(outcome: Outcome, against: Against, outcomes: Iterable[Outcome]) -> float | None:
    """Return a line's ratio to the line that `against` means, or None where there is no such other line."""
    client = against.client or outcome.client
    for other in outcomes:
        is_meant = (other.row, other.client, other.part) == (outcome.row, client, against.part)
        if is_meant and other is not outcome and other.usages and outcome.usages:
            return ratio(outcome.usages, other.usages, against.by)
    return None


def _ratios(outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    """Return the ratios of a line of flagjob in words."""
    found = []
    for against in outcome.against if outcome.is_flagjob else ():
        value = find_ratio(outcome, against, outcomes)
        if value is not None:
            reference = against.part if against.client is None else against.client
            found.append(f"{against.by} {value:.2f} x {reference}")
    return "; ".join(found)


def cells(outcome: Outcome, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the cells of a line of the table."""
    usages = outcome.usages
    if not usages:
        return [outcome.row, outcome.name, *("-" * 6), outcome.fault]
    last = [_ratios(outcome, outcomes), usages[-1].note, outcome.fault]
    if usages[0].files:
        speeds = sorted(speed(usage) for usage in usages)
        counted = [
            f"{number(middle(usages, speed))} ({number(speeds[0])} to {number(speeds[-1])})",
            number(middle(usages, cpu_per_thousand)),
            number(middle(usages, switches_per_file)),
        ]
    else:
        counted = ["-", "-", "-"]
    return [
        *(outcome.row, outcome.name, f"{usages[0].files:,}", number(middle(usages, wall)), *counted),
        *(number(middle(usages, megabytes)), "; ".join(text for text in last if text)),
    ]


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") or "-" for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * lines[0].count(" | ") + "---|", *lines[1:]]) + "\n"


def results_table(outcomes: Sequence[Outcome]) -> str:
    """Return the whole table of a run."""
    return markdown([_COLUMNS, *(cells(outcome, outcomes) for outcome in outcomes)])


Figure = Callable[[Usage], float] | Against


@dataclass(frozen=True, slots=True)
class _StageColumn:
    """A column of the table of stages: a figure of one row of the benchmark."""

    head: str
    row: str
    figure: Figure
    part: str = ""


_STAGE_COLUMNS = (
    _StageColumn("no latency: x naive pool", "zero", Against(By.SPEED, "naive pool")),
    _StageColumn("x rclone", "zero", Against(By.SPEED, "rclone")),
    _StageColumn("x aria2c", "zero", Against(By.SPEED, "aria2c")),
    _StageColumn("CPU-s per 1,000", "zero", cpu_per_thousand),
    _StageColumn("switches a file", "zero", switches_per_file),
    _StageColumn("peak RSS MB", "zero", megabytes),
    _StageColumn("two shards: x rclone", "shards", Against(By.SPEED, "rclone")),
    _StageColumn("50 ms: wall x curl", "slow", Against(By.WALL, "curl -Z")),
    _StageColumn("the same, TLS", "slow-tls", Against(By.WALL, "curl -Z")),
    _StageColumn("the same, 200 workers", "slow-200", Against(By.WALL, "curl -Z")),
    _StageColumn("disk: x BASE", "disk", Against(By.SPEED, BASE)),
    _StageColumn("slow fsync: x BASE", "slow-fsync", Against(By.SPEED, BASE)),
    _StageColumn("second run: wall x first", "unchanged", Against(By.WALL, None, "first run"), "second run"),
    _StageColumn("--help: wall x imports", "start", Against(By.WALL, IMPORTS), "--help"),
    _StageColumn("twenty flags: wall x imports", "start", Against(By.WALL, IMPORTS), "twenty flags"),
    _StageColumn("a hundred times the codes: time a file", "million", Against(By.TIME_PER_FILE, None, "few"), "many"),
    _StageColumn("peak RSS", "million", Against(By.RSS, None, "few"), "many"),
)
_STAGE_HEAD = ("date", "stage", "revision", "variants", *(column.head for column in _STAGE_COLUMNS))


def stage_line(date: str, stage: str, revision: str, outcomes: Sequence[Outcome]) -> str:
    """Return the line of a stage: the main figures of flagjob, BASE left out."""
    own = [outcome for outcome in outcomes if outcome.is_flagjob and outcome.client != BASE]
    variants = list(dict.fromkeys(outcome.client for outcome in own))
    names = " / ".join(variant.removeprefix("flagjob ") for variant in variants)
    figures = [_stage_cell(column, variants, outcomes) for column in _STAGE_COLUMNS]
    return "| " + " | ".join([date, stage, revision, names or "-", *figures]) + " |"


def _stage_cell(column: _StageColumn, variants: Iterable[str], outcomes: Sequence[Outcome]) -> str:
    """Return a column's value for each variant, or a dash if none was measured."""
    values = [_stage_value(column, variant, outcomes) for variant in variants]
    return " / ".join(values) if set(values) - {"-"} else "-"


def _stage_value(column: _StageColumn, variant: str, outcomes: Sequence[Outcome]) -> str:
    """Return a column's value for one variant, or a dash."""
    for outcome in outcomes:
        if (outcome.row, outcome.client, outcome.part) == (column.row, variant, column.part) and outcome.usages:
            if not isinstance(column.figure, Against):
                return number(middle(outcome.usages, column.figure))
            value = find_ratio(outcome, column.figure, outcomes)
            return "-" if value is None else f"{value:.2f}"
    return "-"


def stage_lines(text: str) -> Iterator[str]:
    """Yield the lines of the table of stages in an earlier document."""
    table = text.partition(f"{STAGES}\n")[2]
    yield from re.findall(r"^\| \d{4}-.*$", table, re.MULTILINE)


def put_stage(lines: Iterable[str], line: str) -> list[str]:
    """Return the lines with one more, in the place of an earlier line of the same stage if there is one."""
    stage = line.split(" | ")[1]
    kept = list(lines)
    places = [place for place, old in enumerate(kept) if old.split(" | ")[1] == stage]
    if places:
        kept[places[0]] = line
        return kept
    return [*kept, line]


def document(last_run: str, stages: Sequence[str]) -> str:
    """Return the whole document: what it is, the last run, the stages."""
    head = markdown([_STAGE_HEAD])
    table = "\n".join([head.rstrip("\n"), *stages]) if stages else NOTHING_YET
    return f"{HEAD}\n{LAST_RUN}\n\n{last_run}\n{STAGES}\n\n{STAGES_HEAD}\n{table}\n"
