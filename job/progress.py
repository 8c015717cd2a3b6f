"""What people on a terminal see: the bar, and how the run ended."""

from typing import TYPE_CHECKING, NoReturn, TextIO

from job.model import Lines, Status, Summary

if TYPE_CHECKING:
    from tqdm import tqdm


def closing(summary: Summary) -> str:
    """Say in the seed's words how a run ended, on as many lines as there is something to say."""
    counts = summary.counts
    lines = [f"{_flags(counts[Status.OK])} downloaded."]
    lines += [f"{_flags(counts[Status.UNCHANGED])} unchanged."] if counts[Status.UNCHANGED] else []
    lines += [f"{counts[Status.NOT_FOUND]} not found."] if counts[Status.NOT_FOUND] else []
    lines += [f"{counts[Status.ERROR]} error{_plural(counts[Status.ERROR])}."] if counts[Status.ERROR] else []
    lines += [f"{counts[Status.CANCELLED]} cancelled."] if counts[Status.CANCELLED] else []
    return "\n".join([*lines, f"Elapsed time: {summary.duration_seconds:.2f}s"])


def _flags(count: int) -> str:
    return f"{count} flag{_plural(count)}"


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether somebody looks at it; standard error is None where whoever started the program closed it."""
    return stream is not None and stream.isatty()


class Bar:
    """tqdm's bar on a terminal, and the lines that are written above it. `tell` and `close` are for the main thread.

    `total` is None while nobody knows how many items there are.
    """

    def __init__(self, total: int | None, terminal: TextIO) -> None:
        self._bar = _tqdm()(total=total, file=terminal, unit="flag", dynamic_ncols=True)

    def tell(self) -> None:
        """Count one item."""
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is, and go to the next line."""
        self._bar.close()


class Above:
    """A stream whose lines appear above the bar of a terminal, never within it. Thread-safe by tqdm's lock."""

    def __init__(self, stream: Lines) -> None:
        self._stream = stream

    def write(self, data: bytes, /) -> int:
        """Clear the bar, write, and draw it again."""
        with _tqdm().external_write_mode():
            written = self._stream.write(data)
            self._stream.flush()
        return written

    def flush(self) -> None:
        """Do nothing: each write has flushed."""


def _tqdm() -> "type[tqdm[NoReturn]]":
    """Import tqdm where there is a terminal, and nowhere else: it takes a fifth of a run's start."""
    from tqdm import tqdm  # noqa: PLC0415  (see above)

    tqdm.monitor_interval = 0  # a bar that is told of each item needs no thread that watches it
    return tqdm
