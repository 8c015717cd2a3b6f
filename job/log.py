"""Structured log: renders a run's events as JSON or as console lines, and writes them through structlog."""

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from job.display import Colour, Line, cut, painted
from job.errors import Fault, LogError, map_exceptions
from job.model import Item, LogStream, Result, Status, Summary
from job.progress import event_text
from job.redaction import LineRedactor, printable, shortened_json, visible, visible_json

if TYPE_CHECKING:  # importing it brings requests, which verify and serve do not need
    from job.resilience import RetryEvent

_MAX_LINE_BYTES = 8192
"""What log collectors take as one line; some have no more."""
_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_RESULT_LEVELS = {
    Status.OK: logging.INFO,
    Status.UNCHANGED: logging.INFO,
    Status.NOT_FOUND: logging.WARNING,
    Status.CANCELLED: logging.WARNING,
    Status.ERROR: logging.ERROR,
}
_UNCUT_EVENTS = {
    "usage_error",
    "storage_error",
    "destination_limited",
    "host_paused",
    "concurrency_lowered",
    "origin_down",
    "uniform_refusal",
    "retry_budget_spent",
    "run_finished",
    "same_bytes",
}
"""These console lines may wrap: they end with the advice to the user."""
_LEVEL_COLOURS = {"error": Colour.RED, "warning": Colour.YELLOW}
_CLOSING = "closing"
"""The field of `run_finished` with its lines on a console."""


class RunLog:
    """The log of one run. A method `log_x` writes the event x; `info`, `warning` and `error` write any event.

    Thread-safe: each line, or batch of lines, is one write under structlog's lock for the stream. Lines below `level`
    are dropped, `secrets` are masked in every line, and `fields` are added to every line. `noun` is what words call an
    item's file; words may be `coloured` by their level, JSON never is. Every method raises LogError if the stream
    cannot be written: a reader that has gone away must not go unnoticed. What was written is flushed before a method
    returns, so it is not lost when the process is killed.
    """

    def __init__(  # noqa: PLR0913  (a keyword for each choice of how lines look)
        self,
        stream: LogStream,
        *,
        level: str = "info",
        for_people: bool = False,
        for_google: bool = False,
        coloured: bool = False,
        noun: str = "flag",
        secrets: Collection[str] = (),
        fields: Mapping[str, object] | None = None,
    ) -> None:
        self._redactor = LineRedactor(secrets)
        redact = self._redactor.redact
        if for_people:
            render = _console_renderer(redact, noun, coloured=coloured)
        else:
            render = _json_renderer(redact, partial(_google_fields, noun) if for_google else None)
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        self._time = structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True)  # "iso" leaves .000000 out
        processors: list[Processor] = [
            structlog.processors.add_log_level,
            self._time,
            structlog.processors.ExceptionRenderer(traceback),
            render,
        ]
        # A dict keeps the place of a key that is set again: these three are the first fields of every line.
        context = {"timestamp": None, "level": None, "event": None, **(fields or {})}

        def logger(output: WrappedLogger, processors: list[Processor], minimum: int) -> FilteringBoundLogger:
            lazy = structlog.wrap_logger(output, processors, structlog.make_filtering_bound_logger(minimum), dict)
            bound: FilteringBoundLogger = lazy.bind(**context)
            return bound

        # Workers and the main thread write lines of several loggers. structlog has one lock for each stream, so
        # everything must go through the same stream object: else a line could end within another one.
        self._output = structlog.BytesLogger(cast("BinaryIO", _CheckedStream(stream)))
        minimum = logging.getLevelNamesMapping()[level.upper()]
        self._log = logger(self._output, processors, minimum)
        self._always = logger(self._output, processors, logging.DEBUG)
        # This one returns a rendered line instead of writing it, or None if its level is dropped. It is for results,
        # which come with the time of their batch, and never with an exception.
        line_processors: list[Processor] = [_add_result_fields, structlog.processors.add_log_level, render]
        self._renderer = logger(structlog.ReturnLogger(), line_processors, minimum)

    def mask(self, secrets: Collection[str]) -> None:
        """Mask further secrets in every line from now on. Only one thread at a time may call it."""
        self._redactor.add(secrets)

    def masked(self, text: str) -> str:
        """Return a text for other places than the log: secrets are masked, and what cannot be seen is escaped."""
        # Secrets come first: an escaped secret would not be recognised.
        line = self._redactor.redact(text.encode("utf-8", "surrogatepass"))
        return visible(line.decode("utf-8", "surrogatepass"))

    def info(self, event: str, **fields: object) -> None:
        """Write an event that is good to know."""
        self._log.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write an event that the operator should know, and that changes no result."""
        self._log.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Write an event that makes the run fail."""
        self._log.error(event, **fields)

    def log_usage_errors(self, faults: Iterable[Fault]) -> None:
        """Write one line for each fault of the input, at every level."""
        for fault in faults:
            self._always.error(
                "usage_error", setting=fault.setting, value=fault.value, problem=fault.problem, message=str(fault)
            )

    def log_plan(self, event: str, **fields: object) -> None:
        """Write what a run would do, for a dry run, or what past runs did, at every level."""
        self._always.info(event, **fields)

    def log_run_started(self, **fields: object) -> None:
        """Write what the run is about to do."""
        self._log.info("run_started", **fields)

    def log_scheduled(self, item: Item, future: object) -> None:
        """Write that an item was submitted to the pool, with the state of its future."""
        self._log.debug("scheduled", code=item.code, future=_future_state(future))

    def log_done(self, item: Item, future: object) -> None:
        """Write the state in which an item's future ended."""
        self._log.debug("done", code=item.code, future=_future_state(future))

    def log_results(self, results: Iterable[Result]) -> None:
        """Write how items ended, a line each, in one write; the level follows the status.

        All lines have the time at which the batch is logged. Lines that workers write meanwhile come before or after
        the batch: they wait for its write only.
        """
        time = self._time(None, "", {})["timestamp"]
        lines: list[bytes] = []
        for result in results:
            level = _RESULT_LEVELS[result.status]
            line: bytes | None = self._renderer.log(level, "result", timestamp=time, result=result)
            if line is not None:
                lines.append(line)
        if lines:
            self._output.msg(b"\n".join(lines))

    def log_retry(self, code: str, retry: "RetryEvent") -> None:
        """Write that an attempt failed and how long the item waits for the next one.

        The level is debug if the failure is ignored, because the line of the origin's pause has said the same.
        """
        self._log.log(
            logging.DEBUG if retry.ignored else logging.WARNING,
            "retry",
            code=code,
            attempt=retry.attempt,
            max_attempts=retry.max_attempts,
            wait_s=round(retry.wait_seconds, 3),
            reason=retry.error.failure.reason,
            http_status=retry.error.failure.http_status,
            error=str(retry.error),
        )

    def log_storage_error(self, problem: str) -> None:
        """Write why the destination, or this machine, failed."""
        self._log.error("storage_error", problem=problem)

    def log_bug(self, error: BaseException, **fields: object) -> None:
        """Write an exception that the program did not expect, with its traceback but without local variables."""
        self._log.error("bug", exc_info=error, **fields)

    def log_file(self, file: str, finding: str, *, is_failure: bool) -> None:
        """Write what `flagjob verify` found about a file."""
        write = self._log.error if is_failure else self._log.warning
        write("file", file=file, finding=finding)

    def log_verify_finished(self, exit_code: int, counts: Mapping[str, int]) -> None:
        """Write the last line of `flagjob verify`, the number of files by finding: an error unless all is well."""
        write = self._log.info if exit_code == 0 else self._log.error
        write("verify_finished", exit_code=exit_code, counts=counts)

    def log_run_finished(self, summary: Summary, text: str, closing: Sequence[Line] = ()) -> None:
        """Write the last line of a run, an error unless it succeeded; `text` is the summary in words.

        A console shows the `closing` lines in place of the text, if there are any; JSON never has them.
        """
        write = self._log.info if summary.exit_code == 0 else self._log.error
        fields = {_CLOSING: closing} if closing else {}
        write("run_finished", **_summary_fields(summary, text), **fields)


def termination_message(summary: Summary, text: str) -> bytes:
    """Return a run's summary as one JSON object for `kubectl describe`, below the 4,096 bytes that Kubernetes keeps.

    The caller has masked and cut the error of its cause, which is the only text in it that others wrote.
    """
    return orjson.dumps(_summary_fields(summary, text))


class _CheckedStream:
    """A stream that writes everything, or raises LogError. As thread-safe as the stream below it."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        rest = data
        with map_exceptions(_WRITE_ERRORS):
            # With PYTHONUNBUFFERED the stream is a bare file, which may take a part only: when a signal interrupts a
            # write to a full pipe, or a disk becomes full. It takes nothing, and returns None, if it must not block.
            while rest:
                written = self._stream.write(rest)
                if not written:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                rest = rest[written:]
        return len(data)

    def flush(self) -> None:
        with map_exceptions(_WRITE_ERRORS):
            self._stream.flush()


def _system_error(error: OSError) -> LogError:
    return LogError(f"standard output cannot be written: {error.strerror or error}")


def _closed_stream_error(error: ValueError) -> LogError:
    return LogError(f"standard output cannot be written: {error}")


_WRITE_ERRORS: Mapping[type[BaseException], Callable[[Any], LogError]] = {
    OSError: _system_error,
    ValueError: _closed_stream_error,
}


def _summary_fields(summary: Summary, text: str) -> dict[str, object]:
    return {
        "outcome": summary.outcome,
        "exit_code": summary.exit_code,
        "cause": asdict(summary.cause) if summary.cause else None,
        "reasons": dict(summary.reasons),
        "codes": summary.items,
        "counts": {status.value: count for status, count in summary.counts.items()},
        **summary.changes,
        "published": summary.published,
        "bytes": summary.received_bytes,
        "retries": summary.retries,
        "duration_s": round(summary.duration_seconds, 3),
        "summary": text,
    }


def _add_result_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an event's result by the fields of its line. A processor of structlog."""
    result: Result = event.pop("result")
    stored = result.data
    data = None
    if stored is not None:
        data = {
            "path": stored.path,
            "bytes": stored.bytes,
            "sha256": stored.sha256,
            "content_type": stored.content_type,
        }
    event["code"] = result.code
    event["status"] = result.status
    event["data"] = data
    event["http_status"] = result.http_status
    event["attempts"] = result.attempts
    event["duration_s"] = round(result.duration_seconds, 6)
    event["reason"] = result.reason
    event["url"] = result.url
    if result.error:
        event["error"] = result.error
    return event


def _future_state(future: object) -> str:
    """Return a future's repr without its memory address and angle brackets."""
    return _MEMORY_ADDRESS.sub("", repr(future).strip("<>"))


def _json_renderer(
    redact: Callable[[bytes], bytes], arrange: Callable[[EventDict], dict[str, object]] | None
) -> Processor:
    """Return a processor that renders one strict JSON object (NaN becomes null) in one line of at most 8 KiB.

    `arrange` returns the fields of an event as they are written; None is all as they are.
    """

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        arranged = arrange(event) if arrange else event
        try:
            line = orjson.dumps(arranged, default=str)
        except TypeError:  # text that is not UTF-8 (PEP 383), such as a path: its bytes are shown with backslashes
            encodable = {name: _encodable(value) for name, value in arranged.items()}
            line = orjson.dumps(encodable, default=str)
        line = visible_json(redact(line))
        return line if len(line) <= _MAX_LINE_BYTES else shortened_json(line, _MAX_LINE_BYTES)

    return render


def _google_fields(noun: str, event: EventDict) -> dict[str, object]:
    """Return an event as Google Cloud reads it: with severity and time, and the event in words as its message."""
    fields = dict(event)
    severity = str(fields.pop("level")).upper()
    return {"severity": severity, "time": fields.pop("timestamp"), **fields, "message": event_text(event, noun)}


def _encodable(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _console_renderer(redact: Callable[[bytes], bytes], noun: str, *, coloured: bool) -> Processor:
    """Return a processor that renders an event in the book's words, on lines that fit the terminal."""

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        lines = event.pop(_CLOSING, None) or _event_lines(event, noun)
        columns = None if event["event"] in _UNCUT_EVENTS else shutil.get_terminal_size().columns
        shown: list[str] = []
        for line in lines:
            # Secrets are masked before characters are escaped and lines are cut: an escaped or a cut secret would not
            # be recognised, and a part of it would show. Colours come last, or they would be escaped, too.
            masked = redact(line.text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
            text = visible(masked)
            fitting = text if columns is None else cut(text, columns)
            shown.append(painted(Line(fitting, line.colour), coloured=coloured))
        return "\n".join(shown).encode()

    return render


def _event_lines(event: Mapping[str, Any], noun: str) -> list[Line]:
    """Return an event in words, in the colour of its level."""
    colour = _LEVEL_COLOURS.get(event["level"])
    return [Line(text, colour) for text in event_text(event, noun).split("\n")]
