"""A body that is never written to disk, for tests of what comes before storage."""

from pathlib import Path

from job.body import Body


class MemoryBody(Body):
    """A body that stays in memory while it is small, and remembers whether it was closed."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(Path("/nonexistent"))
        self.closed = False
        if data:
            self.write(data)
            self.rewind()

    @property
    def data(self) -> bytes:
        """Everything that was written."""
        self.rewind()
        return self.read()

    def _roll_over(self) -> None:
        """Stay in memory."""

    def close(self) -> None:
        """Note it, and keep what was written."""
        self.closed = True
