"""Output for people: events and the summary of a run in words, tqdm's progress bar, and log lines above it."""

import errno
import os
import re
import shutil
import stat
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from job.advice import OUTCOME_ADVICE, advice_for, runbook_link
from job.display import Colour, Line, cut, number_text, painted, size_text
from job.model import Cause, LogStream, Result, Status, Summary
from job.template import NO_TEMPLATE

if TYPE_CHECKING:
    from tqdm import tqdm

_SHOWN_REASONS = 3
_HEADING = re.compile(r"^(?:usage:|\w[^\n]*:$)", re.MULTILINE)
_NAMES = re.compile(r"^(  )(-\S.*?|[a-z]+(?= {3})|CODE)(?=  |$)", re.MULTILINE)
"""What stands at the left of a page: options with their metavars, commands, positional arguments."""
_NARROWEST = 20
"""Columns that advice is wrapped to at least."""


def summary_text(summary: Summary, noun: str = "flag") -> str:
    """Return how a run ended, in lines.

    In the book's words, one for each status that occurred and the elapsed time; before that the cause and the reasons.
    """
    lines = [line.text for line in _count_lines(summary, noun)]
    if summary.cause:
        lines.append(_cause_text(summary.cause))
    if summary.reasons:
        lines.append(f"Reasons: {', '.join(f'{number} {reason}' for reason, number in summary.reasons.items())}.")
    lines.append(_elapsed_text(summary))
    return "\n".join(lines)


def closing_lines(summary: Summary, noun: str, columns: int | None = None) -> list[Line]:
    """Return how a run ended as a terminal of so many columns shows it; None is the terminal's own width.

    The book's counts and elapsed time, the speed, the three most frequent reasons with an example each, and, unless the
    exit code is 0, what to do about them. The examples must be masked already: they are cut to the columns. Only the
    cause is as long as it is.
    """
    columns = columns or shutil.get_terminal_size().columns
    lines = [*_count_lines(summary, noun), Line(_elapsed_text(summary))]
    speed = _speed_text(summary, noun)
    if speed:
        lines.append(Line(speed))
    if summary.cause:
        lines.append(Line(_cause_text(summary.cause), Colour.RED))
    reasons = dict(islice(summary.reasons.items(), _SHOWN_REASONS))
    if reasons:
        lines += [Line("Why, most frequent first:", Colour.BOLD), *_reason_lines(summary, reasons, columns)]
    if summary.exit_code:
        lines.append(Line("What to do:", Colour.BOLD))
        cause = [summary.cause.reason] if summary.cause else []
        lines += [Line(text) for text in advice_texts([*cause, *reasons], summary.outcome, summary.exit_code, columns)]
    return lines


def _count_lines(summary: Summary, noun: str) -> list[Line]:
    """Return a line for the downloaded files, and one for each other status that occurred."""
    counts = summary.counts
    ok = counts[Status.OK]
    lines = [Line(f"{_counted(ok, noun)} downloaded.", Colour.GREEN if ok else None)]
    if counts[Status.UNCHANGED]:
        lines.append(Line(f"{_counted(counts[Status.UNCHANGED], noun)} unchanged.", Colour.GREEN))
    if counts[Status.NOT_FOUND]:
        lines.append(Line(f"{counts[Status.NOT_FOUND]} not found.", Colour.YELLOW))
    if counts[Status.ERROR]:
        lines.append(Line(f"{_counted(counts[Status.ERROR], 'error')}.", Colour.RED))
    if counts[Status.CANCELLED]:
        lines.append(Line(f"{counts[Status.CANCELLED]} cancelled.", Colour.YELLOW))
    return lines


def _elapsed_text(summary: Summary) -> str:
    return f"Elapsed time: {summary.duration_seconds:.2f}s"


def _speed_text(summary: Summary, noun: str) -> str:
    """Return how many files a second the origin gave or confirmed, and how many bytes came; empty without any."""
    files = summary.counts[Status.OK] + summary.counts[Status.UNCHANGED]
    seconds = summary.duration_seconds
    if not files or seconds <= 0:
        return ""
    bytes_text = f", {size_text(summary.received_bytes / seconds)}/s" if summary.received_bytes else ""
    return f"Speed: {number_text(files / seconds)} {noun}s/s{bytes_text}"


def _reason_lines(summary: Summary, reasons: Mapping[str, int], columns: int) -> Iterator[Line]:
    """Yield a line for each reason: its number, its name, and the first item that has it."""
    digits = len(str(max(reasons.values())))
    for reason, number in reasons.items():
        example = f", such as {summary.examples[reason]}" if reason in summary.examples else ""
        yield Line(cut(f"  {number:>{digits}} {reason}{example}", columns))


def advice_texts(reasons: Iterable[str], outcome: str, exit_code: int, columns: int) -> Iterator[str]:
    """Yield what to do about each reason, each once, and what to do next, wrapped between words."""
    next_step = OUTCOME_ADVICE.get(outcome, "Start the run again.")
    sentences = [*(f"{reason}: {advice_for(reason)}" for reason in dict.fromkeys(reasons)), next_step]
    sentences.append(f"More: {runbook_link(exit_code)}")
    for sentence in sentences:
        yield from textwrap.wrap(
            sentence,
            max(columns, _NARROWEST),
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _cause_text(cause: Cause) -> str:
    place = f" at {cause.host}" if cause.host else ""
    error = f": {cause.error}" if cause.error else "."
    return f"Cause: {cause.reason}{place}{error}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def drop_lost_terminals() -> None:
    """Lead standard output and error to /dev/null where their terminal is gone.

    What their buffers still hold would else fail again when the interpreter flushes them at its exit.
    """
    for descriptor in (1, 2):
        with suppress(OSError):  # a descriptor that is closed
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if is_device and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)


class Terminal:
    """A stream to a terminal that may be hung up: `on_hangup` is called, and what is written after that is dropped.

    The kernel may close a terminal before it sends SIGHUP, and does not send it to every process. As thread-safe as the
    stream below it; `on_hangup` is called on the thread that writes, at least once.
    """

    def __init__(self, stream: LogStream, on_hangup: Callable[[], None]) -> None:
        self._stream = stream
        self._on_hangup = on_hangup

    def write(self, data: bytes, /) -> int:
        """Write to the terminal; return the number of bytes written or dropped."""
        try:
            return self._stream.write(data)
        except OSError as error:
            self._end(error)
        return len(data)

    def flush(self) -> None:
        """Write what is buffered to the terminal."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        """Drop the terminal if it is hung up; raise any other error."""
        if error.errno != errno.EIO:
            raise error
        drop_lost_terminals()
        self._on_hangup()


class Bar:
    """A progress bar on a terminal. For the main thread only.

    `total` is None as long as the number of items is unknown; `noun` is what an item is.
    """

    def __init__(self, total: int | None, terminal: TextIO, noun: str = "flag") -> None:
        self._bar = _import_tqdm()(total=total, file=terminal, unit=noun, dynamic_ncols=True)

    def advance(self, results: Sequence[Result]) -> None:
        """Count the results, and draw the bar at most ten times a second; raise what the terminal raises."""
        try:
            self._bar.update(len(results))
        except Exception:
            # tqdm takes its lock before it draws, and does not release it if drawing fails: a worker that writes a line
            # above the bar would then wait for the lock forever. A closed bar is not drawn again with those lines, and
            # takes no place on the terminal; it tries to draw itself once more, which fails in the same way.
            self._bar.get_lock().release()  # type: ignore[no-untyped-call]  # types-tqdm left it out
            with suppress(Exception):
                self._bar.close()
            raise

    def close(self) -> None:
        """Leave the bar as it is, and move to the next line."""
        self._bar.close()


class LinesAboveBar:
    """A stream that writes its lines above the progress bar. Thread-safe."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        """Clear the bar, write, and draw the bar again; return the number of bytes written."""
        # Workers write lines while the main thread draws the bar. `external_write_mode` holds tqdm's lock, which the
        # bar takes before it draws: without it a bar could be drawn into the middle of a line. The flush belongs
        # inside, or a buffered line would appear after the bar has been drawn again.
        with _import_tqdm().external_write_mode():
            written = self._stream.write(data)
            self._stream.flush()
        return written

    def flush(self) -> None:
        """Do nothing: each write has flushed."""


def _import_tqdm() -> "type[tqdm[NoReturn]]":
    """Import tqdm only if there is a terminal: the import takes a fifth of a run's start-up time."""
    from tqdm import tqdm  # noqa: PLC0415  (see above)

    # tqdm would start a thread that redraws bars without updates; a bar that advances with each item needs none.
    tqdm.monitor_interval = 0
    return tqdm


def painted_page(page: str, *, coloured: bool) -> str:
    """Return a page of help with its headings and the names of its options in colours, if there are any."""
    if not coloured:
        return page
    headings = _HEADING.sub(lambda found: painted(Line(found[0], Colour.BOLD), coloured=True), page)
    return _NAMES.sub(lambda found: found[1] + painted(Line(found[2], Colour.CYAN), coloured=True), headings)


def event_text(event: Mapping[str, Any], noun: str) -> str:
    """Return an event of the log in words, in one line or several; `noun` is what they call an item's file."""
    return _CONSOLE_TEXTS.get(event["event"], _default_text)({**event, "noun": noun})


def _default_text(event: Mapping[str, Any]) -> str:
    hidden = {"event", "timestamp", "level", "job", "run_id", "shard", "shards", "exception", "noun"}
    fields = [f"{name}={value}" for name, value in event.items() if name not in hidden]
    return " ".join([event["event"].replace("_", " "), *fields])


def _result_text(event: Mapping[str, Any]) -> str:
    if event["status"] == "error":
        return f"*** Error for {event['code']}: {event.get('error') or event['reason']}"
    return f"{event['code']} {event['status'].replace('_', ' ')}"


def _retry_text(event: Mapping[str, Any]) -> str:
    return f"{event['code']} again in {event['wait_s']:.1f}s: {event['error']}"


def _run_started_text(event: Mapping[str, Any]) -> str:
    """Return the book's initial report: server, codes, number of concurrent connections."""
    label = f"{event['server'].upper()} site" if event["server"] else "Site"
    searched = f"{event['noun']}s"
    if event["codes"] is not None:
        searched = f"{_counted(event['codes'], event['noun'])}: from {event['first']} to {event['last']}"
    connections = _counted(event["workers"], "concurrent connection")
    url = "as the list says" if event["url"] == NO_TEMPLATE.text else event["url"]
    return f"{label}: {url}\nSearching for {searched}\n{connections} will be used."


def _concurrency_lowered_text(event: Mapping[str, Any]) -> str:
    requests = _counted(event["requests"], "request")
    return f"{event['host']} is overloaded: {requests} at the same time for now: {event['error']}"


def _host_paused_text(event: Mapping[str, Any]) -> str:
    return f"Waiting for {event['host']}, {event['until_s']:.1f}s at most: {event['error']}"


def _repeated_failure_text(event: Mapping[str, Any]) -> str:
    return f"*** {event['reason']} for each of {_counted(event['outcomes'], 'item')}, the run ends: {event['hint']}"


def _origin_down_text(event: Mapping[str, Any]) -> str:
    end = "its files are left out" if event.get("run_goes_on") else "the run ends"
    return f"*** {event['host']} is down, {end}: {event['error']}"


def _interrupted_text(event: Mapping[str, Any]) -> str:
    cause = event["signal"] or "The time is up"
    return f"{cause}: {_counted(event['in_flight'], 'download')} may still end."


def _request_text(event: Mapping[str, Any]) -> str:
    fault = f" ({event['fault']})" if event["fault"] else ""
    return f"{event['method']} {event['path']} {event['status']}{fault}"


_CONSOLE_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "builtin_origin": lambda _: "These are the built-in origin's flags; FLAGJOB_URL names a real one.",
    "concurrency_lowered": _concurrency_lowered_text,
    "done": lambda event: f"<{event['future']}> for {event['code']}",
    "file": lambda event: f"{event['file']}: {event['finding']}",
    "host_paused": _host_paused_text,
    "host_resumed": lambda event: f"Continuing with {event['requests_per_s']:g} requests a second at first.",
    "interrupted": _interrupted_text,
    "past_run": lambda event: f"{event['ended_at']} {event['outcome']}",
    "origin_back": lambda event: f"{event['host']} is back.",
    "origin_down": _origin_down_text,
    "request": _request_text,
    "result": _result_text,
    "retry": _retry_text,
    "retry_budget_spent": lambda event: f"No retries are left: {event['hint']}",
    "rolled_back": lambda event: f"Readers see {event['generation']} now.",
    "run_finished": lambda event: str(event["summary"]),
    "run_started": _run_started_text,
    "scheduled": lambda event: f"Scheduled for {event['code']}: <{event['future']}>",
    "serving": lambda event: f"Serving {event['url']}",
    "status": lambda event: f"{event['runs']} runs, {event['files']} files",
    "uniform_refusal": _repeated_failure_text,
    "usage_error": lambda event: f"flagjob: {event['message']}",
    "verify_finished": lambda event: ", ".join(f"{count} {name}" for name, count in event["counts"].items()),
}
"""How each event reads on a console; an event without an entry is shown as its name and its fields."""
