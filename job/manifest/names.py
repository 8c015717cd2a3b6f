"""What the files of a shard are called, and which manifests lie in a directory."""

import re
from dataclasses import dataclass
from pathlib import Path

_MANIFEST = re.compile(r"manifest(?:-([0-9]+)-of-([0-9]+))?\.jsonl")


@dataclass(frozen=True, slots=True)
class Shard:
    """One pod's share of the codes; with a count of 1 it is all of them, and its files have plain names."""

    index: int = 0
    count: int = 1

    def name(self, stem: str, suffix: str = "") -> str:
        """Name a file of this shard, such as `manifest.jsonl` or `manifest-3-of-8.jsonl`."""
        part = f"-{self.index}-of-{self.count}" if self.count > 1 else ""
        return f"{stem}{part}{suffix}"


def manifests(directory: Path) -> dict[Shard, Path]:
    """Return every manifest in a directory, by its shard, in the order of their names."""
    found = ((_MANIFEST.fullmatch(path.name), path) for path in sorted(directory.iterdir()))
    return {Shard(int(name[1] or 0), int(name[2] or 1)): path for name, path in found if name}
