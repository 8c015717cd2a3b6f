"""A body that is never written to disk, for tests without storage."""

from job.body import Body


class MemoryBody(Body):
    """A body that stays in memory, whatever its size, and records whether it was closed."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__("/nonexistent")
        self.closed = False
        if data:
            self.write(data)
            self.rewind()

    @property
    def data(self) -> bytes:
        """All bytes that were written."""
        self.rewind()
        return self.read()

    def _roll_over(self) -> None:
        """Stay in memory."""

    def close(self) -> None:
        """Record the call, and keep the bytes."""
        self.closed = True
