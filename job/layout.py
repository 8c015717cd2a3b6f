"""The layout of a destination: shards, buckets' URLs, and every name that flagjob writes below a destination.

`.flagjob`, flagjob's own directory, is at the same place in a directory, in each generation and in a bucket:

    br.gif, 7/66/42.png              the files of the items
    .flagjob-probe                   a file that is there for a moment, to prove that the destination is writable
    SHA256SUMS                       checksums; with shards SHA256SUMS-3-of-8
    .flagjob/manifest.jsonl          manifest; with shards manifest-3-of-8.jsonl; in a bucket manifest/3-of-8/SEGMENT
    .flagjob/manifest-*.tmp          temporary files of manifest and checksums, guarded by manifest.lock
    .flagjob/changes.jsonl           changes of the last run, with shards changes-3-of-8.jsonl; those of earlier runs
                                     beside it, by time; in a bucket changes/changes-TIME.jsonl
    .flagjob/before                  in a generation: the generation from which it was made
    .flagjob/generation.lock         in a generation: a file that is locked while the generation is prepared
    .flagjob/number                  in a generation: its place in the order in which they were published
    .flagjob/tmp/                    temporary files of bodies
    .flagjob/report.html             the page of the last run, by the name that FLAGJOB_REPORT has, with shards
                                     report-3-of-8.html; with sets beside the generations
    .flagjob/probe-*                 in a bucket: the probe
    .flagjob/sums/SHA256SUMS         in a bucket: which version of the checksums flagjob has uploaded
    generations/                     with FLAGJOB_PUBLISH=set: the generations by their time; .new-* are not published,
                                     and .old-* are being removed
    current                          the symbolic link to the generation that readers see
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from unicodedata import category, is_normalized, normalize
from zlib import crc32

from job.redaction import visible

LABEL_PATTERN = "([0-9]+)-of-([0-9]+)"
"""A regular expression for `Shard.label`: its groups are the index and the count."""
OWN_DIRECTORY = ".flagjob"
"""The directory of flagjob's own files, below the destination; no item's file can lie there."""
TEMPORARY_DIRECTORY = f"{OWN_DIRECTORY}/tmp"  # noqa: S108  (below the destination)
"""The directory of temporary files, below the destination and so on its file system: a rename there is atomic."""
PROBE = f"{OWN_DIRECTORY}-probe"
"""The file that proves that a directory is writable. It lies beside the files, where a name may be refused although one
in the own directory is not; its name is always the same, so that a run removes what a killed one has left."""
PROBE_PREFIX = f"{OWN_DIRECTORY}/probe-"
"""Prefix of the object that proves that a bucket is writable."""
LINES_SUFFIX = ".jsonl"
"""Suffix of files of JSON objects, one a line."""
_MANIFEST_STEM = "manifest"
_CHANGES_STEM = "changes"
LOCK = f"{_MANIFEST_STEM}.lock"
"""The file in the own directory whose lock guards temporary files of the manifest."""
MANIFEST_FILES = f"{_MANIFEST_STEM}*{LINES_SUFFIX}"
"""A glob pattern for the manifests of all shards, in the own directory."""
CHECKSUMS = "SHA256SUMS"
"""The file, or with shards the files, that list the digest of every file for `sha256sum -c`."""
CHECKSUMS_FILES = f"{CHECKSUMS}*"
"""A glob pattern for the checksum files of all shards."""
CHANGES_FILES = f"{_CHANGES_STEM}*{LINES_SUFFIX}"
"""A glob pattern for the files that list the changes of this run and of earlier ones, in the own directory."""
GENERATIONS = "generations"
"""The directory of the generations, below a destination with `FLAGJOB_PUBLISH=set`."""
CURRENT = "current"
"""The symbolic link to the generation that readers see."""
PREPARED_PREFIX = ".new-"
"""Prefix of a generation or link that is not published: hidden, and removed by a later run if its own run is dead."""
DISCARDED_PREFIX = ".old-"
"""Prefix of a generation that is being removed; what a killed run has left of it is removed by the next one."""
PARENT = "before"
"""The file in a generation's own directory that names the generation from which it was made."""
GENERATION_LOCK = f"{OWN_DIRECTORY}/generation.lock"
"""The file in a generation whose lock tells that a run prepares it."""
GENERATION_NUMBER = "number"
"""The file in a generation's own directory with its number: later ones have greater numbers, whatever their names."""
CHANGES_DIRECTORY = _CHANGES_STEM
"""In a bucket: the objects with the changes of each run, below the own directory."""
SEGMENTS_DIRECTORY = _MANIFEST_STEM
"""In a bucket: the objects that together are the manifests of all shards, below the own directory."""
CHECKSUM_VERSIONS_DIRECTORY = "sums"
"""In a bucket: one object for each checksum file, with the version that flagjob wrote, below the own directory."""

_MANIFEST = re.compile(rf"{_MANIFEST_STEM}(?:-{LABEL_PATTERN})?{re.escape(LINES_SUFFIX)}")
_SEGMENT = re.compile(rf"{SEGMENTS_DIRECTORY}/{LABEL_PATTERN}/.+")
_RESERVED = re.compile(rf"{CHECKSUMS}(?:-{LABEL_PATTERN})?")
_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_TIME = re.compile(r"[1-9][0-9]{7}T[0-9]{6}\.[0-9]{6}Z")
CLOCK_TOLERANCE = timedelta(days=1)
"""What is later than now by more than this was named while a clock was ahead; less may be another machine's clock."""
_LAST_DOTS = re.compile(r"\.+(?=/|\Z)")

_NAME_CHARACTERS = r"-A-Za-z0-9_@+~'():=,%"
_ID_SEGMENT = rf"[{_NAME_CHARACTERS}][{_NAME_CHARACTERS}.]{{0,199}}"
_ID = re.compile(rf"{_ID_SEGMENT}(?:/{_ID_SEGMENT})*")
_ID_MAX = 1000
_NAME_SEGMENT = rf"[{_NAME_CHARACTERS}](?:[{_NAME_CHARACTERS}. ]{{0,253}}[{_NAME_CHARACTERS}.])?"
_NAME = re.compile(rf"{_NAME_SEGMENT}(?:/{_NAME_SEGMENT})*")
_NAME_MAX = 1024
"""The longest key of an object in a bucket, in bytes; 255 are the longest name of a file (NAME_MAX)."""
_LETTERS = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd"}
_MARKS = {"Mn", "Mc"}
"""Unicode's general categories of letters and digits, and of the marks that follow a letter."""
_CACHED_LETTERS = 4096

Fold = Callable[[str], str]
"""A function that returns the same text for all paths that are one file."""


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


def manifest_name(shard: Shard) -> str:
    """Return the name of a shard's manifest, below the own directory."""
    return shard.name(_MANIFEST_STEM, LINES_SUFFIX)


def changes_stem(shard: Shard) -> str:
    """Return the name, without its suffix, of the file with a shard's changes, below the own directory."""
    return shard.name(_CHANGES_STEM)


def checksums_name(shard: Shard) -> str:
    """Return the name of the file that lists a shard's digests, below the destination."""
    return shard.name(CHECKSUMS)


def is_local_path(report: str) -> bool:
    """Return whether a report's name is a path of this machine, and no name below the own directory."""
    return "/" in report


def find_manifests(directory: Path) -> dict[Shard, Path]:
    """Return every manifest in flagjob's own directory by its shard, in the order of their names; raise OSError."""
    found: dict[Shard, Path] = {}
    for path in sorted(directory.iterdir()):
        match = _MANIFEST.fullmatch(path.name)
        if match:
            found[Shard(int(match[1] or 0), int(match[2] or 1))] = path
    return found


def segments_prefix(shard: Shard) -> str:
    """Return the prefix of a shard's manifest segments in a bucket, below the own directory, with its last `/`."""
    return f"{SEGMENTS_DIRECTORY}/{shard.label}/"


def shards_of_segments(names: Iterable[str]) -> dict[str, Shard]:
    """Return the shard of each manifest segment, by its name below the own directory; other names are left out."""
    found: dict[str, Shard] = {}
    for name in names:
        match = _SEGMENT.fullmatch(name)
        if match:
            found[name] = Shard(int(match[1]), int(match[2]))
    return found


def sortable_time(time: datetime, after: str = "") -> str:
    """Return a time as names contain it, to the microsecond in UTC, so that the order of names is that of time.

    It is later than the time with which the text `after` begins, if that begins with one.
    """
    text = time.astimezone(UTC).strftime(_TIME_FORMAT)
    former = _TIME.match(after)
    if former and former[0] >= text:
        with suppress(ValueError, OverflowError):  # it only looks like a time
            latest = datetime.strptime(former[0], _TIME_FORMAT).replace(tzinfo=UTC)
            return (latest + timedelta(microseconds=1)).strftime(_TIME_FORMAT)
    return text


def is_id(text: str) -> bool:
    """Return whether a text is an ID: segments divided by `/`, of letters, digits and the characters `._@+~'():=,%-`.

    Letters and digits are those of any script, in NFC (UAX 15), so that no file system takes two for one by their
    form. No segment is empty, begins with a dot or a combining mark, or has more than 200 bytes in UTF-8; an ID has
    1000 at most.
    """
    return _matches(_ID, _ID_MAX, text)


def is_name(file: str) -> bool:
    """Return whether a text may be the path of an item's file: like an ID, with blanks within a segment, and longer.

    Each segment has 255 bytes at most, the path 1024, and its first segment is no name of flagjob's own.
    """
    return _matches(_NAME, _NAME_MAX, file) and not is_reserved(file.partition("/")[0])


def _matches(pattern: re.Pattern[str], most_bytes: int, text: str) -> bool:
    if len(text) > most_bytes:
        return False
    if not text.isascii():
        if not is_normalized("NFC", text):
            return False
        text = "".join(map(_ascii_for, text))
    return len(text) <= most_bytes and pattern.fullmatch(text) is not None


@lru_cache(_CACHED_LETTERS)
def _ascii_for(character: str) -> str:
    """Return what stands for a character in the patterns, once for each of its bytes in UTF-8.

    That is `x` for a letter; for a mark it is a dot, as neither may begin a segment. NUL, which is never legal, stands
    for all else: what cannot be seen, and other forms of ASCII letters, such as ligatures and full-width letters.
    """
    if character.isascii():
        return character
    kind = category(character)
    if kind not in _LETTERS | _MARKS or visible(character) != character:
        return "\0"
    if any(form.isascii() for form in normalize("NFKC", character)):
        return "\0"
    return ("x" if kind in _LETTERS else ".") * len(character.encode())


def is_reserved(segment: str, fold: Fold | None = None) -> bool:
    """Return whether a name directly below the destination is flagjob's own, so that no item may have it.

    `fold` is that of `name_folding`.
    """
    if fold is not None:
        return bool(re.fullmatch(rf"{fold(CHECKSUMS)}(?:-{LABEL_PATTERN})?", fold(segment)))
    return segment == OWN_DIRECTORY or bool(_RESERVED.fullmatch(segment))


def name_folding(root: Path) -> Fold | None:
    """Return how a file system folds names that differ into one, or None if it keeps all names apart.

    It is asked for flagjob's own directory by other names, so nothing is written. Two kinds of folding are known: of
    upper and lower case (vfat, exFAT, APFS, SMB, ext4 with casefold), and of dots at the end of a name (vfat, SMB).
    Unicode normal forms need no third one: names of items are in NFC, so no two of them have one form.
    """
    folds = [fold for alias, fold in _FOLDS.items() if _is_own_directory(root, alias)]
    if not folds:
        return None

    def fold_all(file: str) -> str:
        for fold in folds:
            file = fold(file)
        return file

    return fold_all


def _without_last_dots(file: str) -> str:
    return _LAST_DOTS.sub("", file)


def _without_case(file: str) -> str:
    """Return a path as ext4 and APFS compare it (Unicode's canonical caseless match); vfat and SMB fold less."""
    return file.lower() if file.isascii() else normalize("NFD", normalize("NFD", file).casefold())


_FOLDS: dict[str, Fold] = {OWN_DIRECTORY.upper(): _without_case, f"{OWN_DIRECTORY}.": _without_last_dots}
"""Other names of flagjob's own directory, and how a file system folds names where it is found by them."""


def _is_own_directory(root: Path, alias: str) -> bool:
    """Return whether flagjob's own directory is found by another name."""
    try:
        found = os.lstat(root / alias)
        own = os.lstat(root / OWN_DIRECTORY)
        # Some FUSE servers give each name an inode number of its own. The listing then shows whether it is an alias, or
        # a directory that a user has made.
        return os.path.samestat(found, own) or root / alias not in root.iterdir()
    except OSError:
        return False


_CLOUDS = ("s3", "gs", "az")
BUCKET_SCHEMES = tuple(f"{cloud}://" for cloud in _CLOUDS)
"""The prefixes of the URL of a destination in an object store."""
_BUCKET = re.compile(rf"({'|'.join(_CLOUDS)})://[A-Za-z0-9][A-Za-z0-9._-]*(?:/(?!\.{{1,2}}(?:/|$))[A-Za-z0-9._=-]+)*/?")
_NO_BUCKET = "must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, of letters, digits and . _ = -"
_NEARLY_A_BUCKET = re.compile(rf"({'|'.join(_CLOUDS)}):", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A prefix in a bucket: its URL without a last `/`, and the cloud by its scheme, such as `s3`."""

    url: str
    scheme: str

    @classmethod
    def parse(cls, text: str) -> "BucketLocation":
        """Return the location that a URL names; raise ValueError with a message that shows the right syntax."""
        match = _BUCKET.fullmatch(text)
        if not match:
            raise ValueError(_NO_BUCKET)
        return cls(text.removesuffix("/"), match[1])


def is_bucket(destination: str) -> bool:
    """Return whether a destination begins as a bucket's URL, valid or not, and so is not a directory."""
    return destination.startswith(BUCKET_SCHEMES)


def is_url(destination: str) -> bool:
    """Return whether a destination looks like a URL, so that it must not become a directory of that name."""
    return "://" in destination or bool(_NEARLY_A_BUCKET.match(destination))
