"""What a run says: structlog set up once, one line for each result, retry and run."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, cast

import orjson
import structlog
from structlog.typing import FilteringBoundLogger

from job.errors import Fault, LogError
from job.log.render import console, json, redactor
from job.model import Item, Lines, Result, Status, Summary
from job.resilience import RetryEvent

__all__ = ["RunLog", "termination_message"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LEVELS = {Status.NOT_FOUND: logging.WARNING, Status.CANCELLED: logging.WARNING, Status.ERROR: logging.ERROR}


class _Checked:
    """A stream whose failures are told from those of anything else."""

    def __init__(self, stream: Lines) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        with _told():
            return self._stream.write(data)

    def flush(self) -> None:
        with _told():
            self._stream.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        raise LogError(f"standard output cannot be written: {getattr(error, 'strerror', None) or error}") from error


class RunLog:
    """The log of one run. Thread-safe: every line is one write, under structlog's lock for the stream.

    `level` is the least that is written, `secrets` are texts that no line may show, `fields` stand on every line.
    Raises LogError where the stream takes no more: a reader that is gone must not go unnoticed.
    """

    def __init__(
        self,
        stream: Lines,
        *,
        level: str = "info",
        for_people: bool = False,
        secrets: Collection[str] = (),
        fields: Mapping[str, object] | None = None,
    ) -> None:
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        processors: list[structlog.typing.Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),  # "iso" leaves .000000 out
            structlog.processors.ExceptionRenderer(transformer),
            (console if for_people else json)(redactor(secrets)),
        ]

        out = _Checked(stream)

        def logger(minimum: int) -> FilteringBoundLogger:
            wrapper = structlog.make_filtering_bound_logger(minimum)
            lazy = structlog.wrap_logger(structlog.BytesLogger(cast("BinaryIO", out)), processors, wrapper, dict)
            bound: FilteringBoundLogger = lazy.bind(**(fields or {}))
            return bound

        self._log = logger(logging.getLevelNamesMapping()[level.upper()])
        self._always = logger(logging.DEBUG)

    def usage(self, faults: Iterable[Fault]) -> None:
        """Say what is wrong with the input, a line for each fault."""
        for fault in faults:
            self._always.error(
                "usage_error", setting=fault.setting, value=fault.value, problem=fault.problem, message=str(fault)
            )

    def started(self, **facts: object) -> None:
        """Say what the run is about to do; written at every level."""
        self._always.info("run_started", **facts)

    def plan(self, event: str, **facts: object) -> None:
        """Say what a dry run would do; written at every level."""
        self._always.info(event, **facts)

    def info(self, event: str, **facts: object) -> None:
        """Say something that is good to know."""
        self._log.info(event, **facts)

    def scheduled(self, item: Item, future: object) -> None:
        """Say that an item was handed to the pool, with the state of its future."""
        self._log.debug("scheduled", code=item.code, future=_state(future))

    def done(self, item: Item, future: object) -> None:
        """Say in which state an item's future ended."""
        self._log.debug("done", code=item.code, future=_state(future))

    def result(self, result: Result) -> None:
        """Say how an item ended."""
        data = result.data
        problem = {"error": result.error} if result.error else {}
        self._log.log(
            _LEVELS.get(result.status, logging.INFO),
            "result",
            code=result.code,
            status=result.status,
            data=data
            and {"path": data.path, "bytes": data.bytes, "sha256": data.sha256, "content_type": data.content_type},
            http_status=result.http_status,
            attempts=result.attempts,
            duration_s=round(result.duration_seconds, 6),
            reason=result.reason,
            url=result.url,
            **problem,
        )

    def retry(self, code: str, retry: RetryEvent) -> None:
        """Say that an attempt failed, and how long the next one waits; of an excused one the pause tells already."""
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

    def warning(self, event: str, **facts: object) -> None:
        """Say something that the operator should know, and that changes no result."""
        self._log.warning(event, **facts)

    def error(self, event: str, **facts: object) -> None:
        """Say what went wrong."""
        self._log.error(event, **facts)

    def storage_failed(self, problem: str) -> None:
        """Say what the destination refused."""
        self._log.error("storage_error", problem=problem)

    def bug(self, error: BaseException, **facts: object) -> None:
        """Say that something happened which nobody foresaw, with its traceback."""
        self._log.error("bug", exc_info=error, **facts)

    def finding(self, file: str, finding: str, *, is_failure: bool) -> None:
        """Say what `verify` found of a file."""
        (self._log.error if is_failure else self._log.warning)("file", file=file, finding=finding)

    def verified(self, exit_code: int, counts: Mapping[str, int]) -> None:
        """Say what `verify` found in all, as its last line; written at every level."""
        write = self._always.error if exit_code else self._always.info
        write("verify_finished", exit_code=exit_code, counts=counts)

    def finished(self, summary: Summary, text: str) -> None:
        """Say how the run ended, as its last line; written at every level. `text` says it to people."""
        write = self._always.info if summary.exit_code == 0 else self._always.error
        write("run_finished", **_facts(summary, text))


def termination_message(summary: Summary, text: str) -> bytes:
    """Render how a run ended as one JSON object, for `kubectl describe`; well under the 4 KiB that are kept."""
    return orjson.dumps(_facts(summary, text))


def _facts(summary: Summary, text: str) -> dict[str, object]:
    return {
        "outcome": summary.outcome,
        "exit_code": summary.exit_code,
        "codes": summary.items,
        "counts": {status.value: count for status, count in summary.counts.items()},
        **summary.changes,
        "published": summary.published,
        "bytes": summary.received_bytes,
        "retries": summary.retries,
        "duration_s": round(summary.duration_seconds, 3),
        "summary": text,
    }


def _state(future: object) -> str:
    """Describe a future as its repr does, without its address."""
    return _ADDRESS.sub("", repr(future).strip("<>"))
