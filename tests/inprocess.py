"""Runs the job in the test's own process: wired as it always is, on real sockets and files, and started at once."""

import random
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from command import Done

from job.cancellation import Cancellation
from job.errors import Reason
from job.run import Run
from job.settings import load, parse_arguments

_SHORT_WAITS = 742738
"""A seed whose first seven draws are below an eighth: waits are drawn, and nobody learns from long ones."""


class Watched(BytesIO):
    """A log that tells of each line as it was written; lines come from any thread."""

    def __init__(self, tell: Callable[[bytes], object]) -> None:
        super().__init__()
        self._tell = tell

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # (the log writes nothing but bytes)
        """Take a line."""
        written = super().write(data)
        self._tell(data)
        return written


def here(*words: str, dest: Path, **settings: str) -> Done:
    """Run the job with `FLAGJOB_` settings, given by the rest of their names in lower case; give how it ended."""
    return run(words, Cancellation(), BytesIO(), dest=str(dest), **settings)


def run(words: Sequence[str], cancellation: Cancellation, log: BytesIO, **settings: str) -> Done:
    """Do that with a stop and a log of the test's own.

    What the command line adds is left out: signals, and the exit codes of what comes out as an exception.
    """
    environ = {f"FLAGJOB_{name.upper()}": text for name, text in settings.items()}
    random.seed(_SHORT_WAITS)
    job = Run(load(parse_arguments(words), environ), cancellation, log, terminal=False)
    try:
        code = job.execute()
    finally:
        cancellation.request(Reason.INTERNAL)  # whatever ended the run, its workers end too
    return Done(code, log.getvalue(), "")


def left_in(dest: Path) -> dict[str, bytes]:
    """Give every file of a destination but the notes of flagjob, of which there may be no draft."""
    assert list((dest / ".flagjob" / "tmp").iterdir()) == []
    found = (path for path in sorted(dest.rglob("*")) if path.is_file() and ".flagjob" not in path.parts)
    return {str(path.relative_to(dest)): path.read_bytes() for path in found if path.name != "SHA256SUMS"}
