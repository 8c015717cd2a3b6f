"""Runs the job in the process of the test, with its real wiring, sockets and files, to save the start of a process."""

import random
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from command import Done, defaults

from job.cancellation import Cancellation
from job.errors import Reason
from job.run import Run
from job.settings import load, parse_arguments

_SHORT_WAITS = 742738
"""A seed of `random` whose first seven draws are below an eighth: the back-off of a test stays short."""


class WatchedLog(BytesIO):
    """A log that calls a function with each line after it was written; lines come from any thread."""

    def __init__(self, on_line: Callable[[bytes], object]) -> None:
        super().__init__()
        self._on_line = on_line

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # (the log writes nothing but bytes)
        """Append a line and report it."""
        written = super().write(data)
        self._on_line(data)
        return written


def run_here(*words: str, dest: Path, **settings: str) -> Done:
    """Run the job and return its output; `settings` are variables, in lower case and without their `FLAGJOB_`."""
    return run(words, Cancellation(), BytesIO(), dest=str(dest), **settings)


def run(words: Sequence[str], cancellation: Cancellation, log: BytesIO, **settings: str) -> Done:
    """Run the job with a cancellation and a log that the test provides, and return its output.

    The parts of the command line are missing: signal handlers, and exit codes for exceptions.
    """
    environ = {**defaults, **{f"FLAGJOB_{name.upper()}": text for name, text in settings.items()}}
    random.seed(_SHORT_WAITS)
    job = Run(load(parse_arguments(words), environ), cancellation, log, terminal=False)
    try:
        code = job.execute()
    finally:
        cancellation.request(Reason.INTERNAL)  # as in job.cli: workers must end after an exception, too
    return Done(code, log.getvalue(), "")


def files_in(dest: Path) -> dict[str, bytes]:
    """Return the files of a destination by path, without flagjob's own; assert that no temporary file is left."""
    assert list((dest / ".flagjob" / "tmp").iterdir()) == []
    found = (path for path in sorted(dest.rglob("*")) if path.is_file() and ".flagjob" not in path.parts)
    return {str(path.relative_to(dest)): path.read_bytes() for path in found if path.name != "SHA256SUMS"}
