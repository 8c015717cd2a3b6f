"""A body that lives in memory, for tests of what comes before the disk."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path


class MemoryBody:
    """The smallest `model.Body`; remembers whether it was closed."""

    def __init__(self, data: bytes = b"") -> None:
        self.size = 0
        self.head = b""
        self.closed = False
        self._file = BytesIO()
        if data:
            self.write(data)
            self.rewind()

    @property
    def sha256(self) -> str:
        return sha256(self.data).hexdigest()

    @property
    def data(self) -> bytes:
        return self._file.getvalue()

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        self.head = (self.head + data)[:512]
        return self._file.write(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def rewind(self) -> None:
        self._file.seek(0)

    def move_to(self, final: Path) -> str:
        final.write_bytes(self.data)
        return "1"

    def close(self) -> None:
        self.closed = True
