"""A shard: one run's share of a list of codes, and how the names of its files say so."""

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Shard:
    """The share `index`, counted from 0, of `count` shares. Immutable, so any thread may use it.

    A count of 1 is a run without shards: it owns every code, and its files have plain names.
    """

    index: int = 0
    count: int = 1

    def owns(self, code: str) -> bool:
        """Return whether a code is in this shard; that depends on nothing but the code and the count."""
        return crc32(code.encode("utf-8", "surrogatepass")) % self.count == self.index

    def name(self, stem: str, suffix: str = "") -> str:
        """Return the name of a file of this shard, such as `manifest.jsonl` or `manifest-3-of-8.jsonl`."""
        part = f"-{self.index}-of-{self.count}" if self.count > 1 else ""
        return f"{stem}{part}{suffix}"


ALL_CODES = Shard()
"""The shard of a run without shards."""
