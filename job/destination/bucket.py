"""A destination in a bucket, where nothing can be appended to."""

import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import monotonic

from job.atomic_write import map_os_errors
from job.destination.face import Scope, manifest_for
from job.layout import CHECKSUMS, OWN_DIRECTORY
from job.model import Stored
from job.storage import BucketStorage, Storage

_PUSHED_RESULTS = 1000
_PUSHED_SECONDS = 10.0
"""How much a killed run may have to ask for again."""
_PART_BYTES = 8 * 1024 * 1024
_MOST_PARTS = 20
_CHANGES_KEPT = 10


class BucketDestination:
    """Objects in a bucket; what is remembered is kept there as parts, and worked on in a local copy.

    A part holds whole lines, after a header of its own; the parts of a shard, in the order of their names, are its
    manifest. A killed run loses what it learned in the last 1,000 results or 10 seconds: it is asked for anew.
    """

    def __init__(
        self,
        url: str,
        scratch: Path,
        scope: Scope,
        ca_bundle: str | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Take the URL, a local directory of its own, and a clock that counts seconds."""
        self._objects = BucketStorage(url, scratch / "drafts", ca_bundle=Path(ca_bundle) if ca_bundle else None)
        self.storage: Storage = self._objects
        self.manifest = manifest_for(scratch / OWN_DIRECTORY, scratch / CHECKSUMS, scope)
        self._scratch = scratch
        self._prefix = f"manifest/{scope.shard.index}-of-{scope.shard.count}/"
        self._local = scratch / OWN_DIRECTORY / _file_of(self._prefix)
        self._parts: list[str] = []
        self._pushed_bytes = 0
        self._results = 0
        self._clock = clock
        self._pushed_at = clock()
        self._refused = False

    def open(self, *, accept_new_origin: bool) -> None:
        """Fetch what is remembered; of another number of shards only where this one remembers nothing."""
        self.storage.open()
        self._fetch()
        fetched = self._header()
        self.manifest.open(accept_new_origin=accept_new_origin)
        self._pushed_bytes = self._size if self._parts else 0
        if self._parts and self._header() != fetched:
            self._merge()  # the parts name the origin before, and would be refused the next time

    def told(self) -> Callable[[], None] | None:
        """Return, now and then, what pushes what was learned; not after a failure: each result would wait for one."""
        self._results += 1
        due = self._results >= _PUSHED_RESULTS or self._clock() - self._pushed_at >= _PUSHED_SECONDS
        return self._push_due if due and not self._refused else None

    def close(self, *, publish: bool) -> bool:
        """Push the rest, and merge the parts where there are many, or lines that count no more."""
        del publish
        self._push()
        size = self._size
        self.manifest.close()
        if self._size < size or len(self._parts) > _MOST_PARTS + size // _PART_BYTES:
            self._merge()
        self._tell_changes()
        self._tell_sums()
        return True

    def _push_due(self) -> None:
        self._refused = True
        self._push()
        self._refused = False

    @property
    def _size(self) -> int:
        return self._local.stat().st_size

    def _header(self) -> bytes:
        with map_os_errors(self._local), suppress(FileNotFoundError), self._local.open("rb") as file:
            return file.readline()
        return b""

    def _fetch(self) -> None:
        """Copy every part; what another pod merges and deletes meanwhile is found in a further look."""
        with map_os_errors(self._local.parent):
            self._local.parent.mkdir(parents=True)
        seen: list[str] = []
        while new := [name for name in self._names() if name not in seen]:
            for name in new:
                local = self._local.parent / _file_of(name)
                with map_os_errors(local), local.open("ab") as file:
                    file.writelines(self._objects.parts.read(name))
            seen += new
        self._parts = [name for name in seen if name.startswith(self._prefix)]

    def _names(self) -> list[str]:
        names = self._objects.parts.names("manifest")
        return [name for name in names if name.startswith(self._prefix)] or names

    def _push(self) -> None:
        """Write what the local copy has beyond the parts, in pieces of whole lines."""
        with map_os_errors(self._local), self._local.open("rb") as file:
            header = file.readline()
            file.seek(max(self._pushed_bytes, len(header)))
            while lines := file.readlines(_PART_BYTES):
                name = f"{self._prefix}{_now()}-{token_hex(4)}"
                self._objects.parts.write(name, header + b"".join(lines))
                self._parts.append(name)
                self._pushed_bytes = file.tell()
        self._results, self._pushed_at = 0, self._clock()

    def _merge(self) -> None:
        """Push all of the local copy, then delete what that replaces; a crash in between leaves lines twice."""
        old, self._parts, self._pushed_bytes = self._parts, [], 0
        self._push()
        self._objects.parts.delete(old)

    def _tell_changes(self) -> None:
        """Put this run's changes beside those of nine runs before."""
        parts = self._objects.parts
        for path in self._local.parent.glob("changes*.jsonl"):
            with map_os_errors(path):
                parts.write(f"changes/{path.stem}-{_now()}.jsonl", path.read_bytes())
            told = [name for name in parts.names("changes") if name.rpartition("-")[0] == f"changes/{path.stem}"]
            parts.delete(told[:-_CHANGES_KEPT])

    def _tell_sums(self) -> None:
        """Put the sums beside the objects, unless the same lines, in whatever order, are there as this has put them."""
        parts = self._objects.parts
        for path in self._scratch.glob(f"{CHECKSUMS}*"):
            with map_os_errors(path), path.open("rb") as file, closing(self.storage.new_body()) as body:
                mark = f"{sum(int.from_bytes(sha256(line).digest()) for line in file):x}"
                known, _, version = b"".join(parts.read(f"sums/{path.name}")).decode().partition(" ")
                there = Stored(path.name, file.tell(), "", None, version=version)
                if known != mark or not self.storage.has(there):
                    file.seek(0)
                    shutil.copyfileobj(file, body)
                    version = self.storage.publish(body, path.name, "text/plain")
                    parts.write(f"sums/{path.name}", f"{mark} {version}".encode())


def _now() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"


def _file_of(part: str) -> str:
    """Name the local copy that a part, `manifest/3-of-8/...`, belongs to."""
    index, _, count = part.split("/")[1].partition("-of-")
    return "manifest.jsonl" if count == "1" else f"manifest-{index}-of-{count}.jsonl"
