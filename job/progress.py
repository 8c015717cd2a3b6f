"""Terminal output for people: tqdm's progress bar, log lines above it, and the summary of a run in words."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from job.model import LogStream, Result, Status, Summary

if TYPE_CHECKING:
    from tqdm import tqdm


def summary_text(summary: Summary) -> str:
    """Return how a run ended in the book's words: one line for each status that occurred, then the elapsed time."""
    counts = summary.counts
    lines = [f"{_counted(counts[Status.OK], 'flag')} downloaded."]
    if counts[Status.UNCHANGED]:
        lines.append(f"{_counted(counts[Status.UNCHANGED], 'flag')} unchanged.")
    if counts[Status.NOT_FOUND]:
        lines.append(f"{counts[Status.NOT_FOUND]} not found.")
    if counts[Status.ERROR]:
        lines.append(f"{_counted(counts[Status.ERROR], 'error')}.")
    if counts[Status.CANCELLED]:
        lines.append(f"{counts[Status.CANCELLED]} cancelled.")
    lines.append(f"Elapsed time: {summary.duration_seconds:.2f}s")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal. Standard error is None if the parent process closed it."""
    return stream is not None and stream.isatty()


class Bar:
    """A progress bar on a terminal. For the main thread only.

    `total` is None as long as the number of items is unknown.
    """

    def __init__(self, total: int | None, terminal: TextIO) -> None:
        self._bar = _import_tqdm()(total=total, file=terminal, unit="flag", dynamic_ncols=True)

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
