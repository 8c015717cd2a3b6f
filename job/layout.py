"""The layout of a destination: where it lies, and every name that flagjob gives below it, once."""

import re
from dataclasses import dataclass
from pathlib import Path

from job.shard import Shard

OWN_DIRECTORY = ".flagjob"
"""Where flagjob keeps what is its own, below the destination; no item's file can lie there."""
TEMPORARY_DIRECTORY = f"{OWN_DIRECTORY}/tmp"  # noqa: S108  (below the destination)
"""Where temporary files lie until they are whole and get their names. It is on the destination's own file system."""
PROBE_PREFIX = "probe-"
"""How the name of the file begins that shows, at the start of a run, that the destination can be written."""
LOCK = "manifest.lock"
"""The file in the own directory whose lock guards temporary files of the manifest."""
CHECKSUMS = "SHA256SUMS"
"""The file, or with shards the files, that list the digest of every file for `sha256sum -c`."""
GENERATIONS = "generations"
"""Where a destination with `FLAGJOB_PUBLISH=set` keeps its sets of files."""
CURRENT = "current"
"""The symbolic link to the set that readers see."""
PREPARED_PREFIX = ".new-"
"""How the name of a generation or link begins that is not published: hidden, and swept when its run is dead."""
PARENT = "before"
"""The file in a generation's own directory that names the generation from which it was made."""

_MANIFEST = re.compile(r"manifest(?:-([0-9]+)-of-([0-9]+))?\.jsonl")
_RESERVED = re.compile(rf"{CHECKSUMS}(?:-[0-9]+-of-[0-9]+)?")


def manifest_name(shard: Shard) -> str:
    """Return the name of a shard's manifest, below the own directory."""
    return shard.name("manifest", ".jsonl")


def checksums_name(shard: Shard) -> str:
    """Return the name of the file that lists a shard's digests, below the destination."""
    return shard.name(CHECKSUMS)


def find_manifests(directory: Path) -> dict[Shard, Path]:
    """Return every manifest in an own directory by its shard, in the order of their names; raise OSError."""
    matches = ((_MANIFEST.fullmatch(path.name), path) for path in sorted(directory.iterdir()))
    return {Shard(int(match[1] or 0), int(match[2] or 1)): path for match, path in matches if match}


def is_reserved(segment: str) -> bool:
    """Return whether a name directly below the destination is flagjob's own, so that no item may have it."""
    return segment == OWN_DIRECTORY or bool(_RESERVED.fullmatch(segment))


BUCKET_SCHEMES = ("s3://", "gs://", "az://")
"""How the URL of a destination in an object store begins."""
_BUCKET = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._=-]+)*/?")
_NO_BUCKET = "must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, of letters, digits and . _ = -"
_NEARLY_A_BUCKET = re.compile(r"(s3|gs|az):", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A prefix in a bucket: its URL without a last `/`, and the cloud by its scheme, such as `s3`."""

    url: str
    scheme: str

    @classmethod
    def parse(cls, text: str) -> "BucketLocation":
        """Return the location that a URL names; raise ValueError, which says what would be right."""
        match = _BUCKET.fullmatch(text)
        if not match:
            raise ValueError(_NO_BUCKET)
        return cls(text.removesuffix("/"), match[1])


def is_bucket(destination: str) -> bool:
    """Return whether a destination is a bucket's URL, in whatever state, rather than a directory."""
    return destination.startswith(BUCKET_SCHEMES)


def is_url(destination: str) -> bool:
    """Return whether a destination looks like a URL, so that it must not become a directory of that name."""
    return "://" in destination or bool(_NEARLY_A_BUCKET.match(destination))
