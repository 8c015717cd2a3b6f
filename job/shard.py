"""A shard: which codes of a list belong to one run, and how the names of its files and objects say so."""

from dataclasses import dataclass
from zlib import crc32

LABEL_PATTERN = "([0-9]+)-of-([0-9]+)"
"""A regular expression for `Shard.label`: its groups are the index and the count."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Number `index`, counted from 0, of `count` shards. Immutable, so any thread may use it.

    A count of 1 is a run without shards: it owns every code, and its files have plain names.
    """

    index: int = 0
    count: int = 1

    @property
    def label(self) -> str:
        """Return the shard as names show it, such as `3-of-8`; `LABEL_PATTERN` is its syntax."""
        return f"{self.index}-of-{self.count}"

    def owns(self, code: str) -> bool:
        """Return whether a code is in this shard; that depends on nothing but the code and the count."""
        return crc32(code.encode("utf-8", "surrogatepass")) % self.count == self.index

    def name(self, stem: str, suffix: str = "") -> str:
        """Return the name of a file of this shard, such as `manifest.jsonl` or `manifest-3-of-8.jsonl`."""
        if self.count == 1:
            return f"{stem}{suffix}"
        return f"{stem}-{self.label}{suffix}"


ALL_CODES = Shard()
"""The shard of a run without shards."""
