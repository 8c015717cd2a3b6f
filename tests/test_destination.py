"""The destinations: files and their manifest in a directory, in generations, or in a bucket."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import pytest
from disk_calls import disk_calls
from images import GIF, PNG
from obstore.store import S3Store
from rows import row
from seaweed import BUCKET, WRITER, Seaweed

from job.destination import (
    BucketDestination,
    Destination,
    DirectoryDestination,
    GenerationDestination,
    destination_for,
)
from job.errors import StorageError, UsageError
from job.file_table import FileTable
from job.inputs import Inputs
from job.layout import Shard
from job.manifest import ManifestScope
from job.model import Result, Status, Stored, WorkItem
from job.settings import load, parse_arguments
from job.storage.bucket import BucketStorage, StateObjects
from job.storage.bucket_client import DEFAULT_TIMEOUTS, BucketTimeouts
from job.template import UrlTemplate

pytestmark = pytest.mark.s3

ORIGIN = "https://example.org"
ALL = ManifestScope(ORIGIN)
Make = Callable[..., BucketDestination]


def item(code: str) -> WorkItem:
    return WorkItem(code, f"{ORIGIN}/{code}.gif", f"{code}.gif")


def put(destination: Destination, code: str, data: bytes = GIF) -> Stored:
    """Publish a file and record it, as a run does with a good response."""
    work = item(code)
    with closing(destination.storage.new_body()) as body:
        body.write(data)
        version = destination.storage.publish(body, work.file, "image/gif")
        stored = Stored(work.file, body.size, body.sha256, "image/gif", '"1"', None, version)
    record(destination, code, Result(Status.OK, stored, code, attempts=1))
    return stored


def record(destination: Destination, code: str, result: Result) -> None:
    work = item(code)
    destination.manifest.record([replace(result, url=work.url, file=work.file)])
    upload_if_due(destination)


def upload_if_due(destination: Destination) -> None:
    """Run the upload that is due, if any, as a run does after each result."""
    due = destination.count_results(1)
    if due:
        due()


def intact_codes(destination: Destination, codes: Sequence[str]) -> list[str]:
    """Return the codes whose file is intact."""
    entries = ((code, destination.manifest.find(item(code).file)) for code in codes)
    return [code for code, entry in entries if entry and entry.stored and destination.storage.is_intact(entry.stored)]


def open_destination(destination: Destination, *, accept_new_origin: bool = False) -> Destination:
    destination.open(accept_new_origin=accept_new_origin)
    return destination


# The choice of the destination


@pytest.mark.parametrize(
    ("dest", "more", "kind"),
    [
        ("files", {}, DirectoryDestination),
        ("files", {"FLAGJOB_PUBLISH": "set"}, GenerationDestination),
        ("s3://b/p", {}, BucketDestination),
        ("gs://b", {}, BucketDestination),
        ("az://b/p", {}, BucketDestination),
    ],
)
def test_the_settings_choose_the_destination(dest: str, more: dict[str, str], kind: type) -> None:
    """A bucket's URL makes a BucketDestination, anything else a directory or, by FLAGJOB_PUBLISH, generations."""
    settings = load(parse_arguments([]), {"FLAGJOB_DEST": dest, "FLAGJOB_URL": f"{ORIGIN}/{{id}}.gif", **more})
    inputs = Inputs(UrlTemplate.parse(f"{ORIGIN}/{{id}}.gif"), iter(()), None, None)
    with ExitStack() as stack:
        destination = destination_for(settings, inputs, stack, FileTable())
        assert (type(destination), destination.manifest.origin) == (kind, ORIGIN)


def test_a_bucket_needs_a_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a temporary directory there is one usage error, which names TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # as TMPDIR is read once in a process
    settings = load(parse_arguments([]), {"FLAGJOB_DEST": "s3://b/p", "FLAGJOB_URL": f"{ORIGIN}/{{id}}.gif"})
    inputs = Inputs(UrlTemplate.parse(f"{ORIGIN}/{{id}}.gif"), iter(()), None, None)
    with ExitStack() as stack, pytest.raises(UsageError) as caught:
        destination_for(settings, inputs, stack, FileTable())
    assert str(caught.value) == (
        "TMPDIR: must be a directory that can be written, for what goes into a bucket (No such file or directory)"
    )


# A directory


def test_a_directory_shows_each_file_and_records_it(tmp_path: Path) -> None:
    """Readers see a published file whether the run succeeds or not, and the next run has its entry."""
    destination = open_destination(DirectoryDestination(tmp_path, ALL))
    put(destination, "br")
    assert (tmp_path / "br.gif").read_bytes() == GIF
    assert destination.close(publish=False)
    assert intact_codes(open_destination(DirectoryDestination(tmp_path, ALL)), ["br", "cn"]) == ["br"]
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha256(GIF).hexdigest()}  br.gif\n"


def test_files_are_durable_before_their_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of files are synced before SHA256SUMS is replaced: it never lists a file that a power cut took back."""
    destination = open_destination(DirectoryDestination(tmp_path, ALL))
    put(destination, "br")
    calls = disk_calls(monkeypatch, tmp_path)
    destination.close(publish=True)
    assert calls.index(". is synced") < calls.index("SHA256SUMS is named")


# Generations


def run_generation(root: Path, codes: dict[str, bytes], *, publish: bool = True) -> bool:
    destination = open_destination(GenerationDestination(root, 3, ALL))
    for code, data in codes.items():
        put(destination, code, data)
    return destination.close(publish=publish)


def prepared(root: Path) -> list[Path]:
    return list((root / "generations").glob(".new-*"))


def test_a_generation_is_published_with_its_manifest(tmp_path: Path) -> None:
    """The files of a generation and its manifest are published together."""
    assert run_generation(tmp_path, {"br": GIF})
    assert (tmp_path / "current" / "br.gif").read_bytes() == GIF
    assert intact_codes(open_destination(GenerationDestination(tmp_path, 3, ALL)), ["br"]) == ["br"]


def test_an_abandoned_generation_leaves_its_changes(tmp_path: Path) -> None:
    """Readers keep the old generation, and the list of what would have changed is copied beside it."""
    run_generation(tmp_path, {"br": GIF})
    assert not run_generation(tmp_path, {"br": PNG}, publish=False)
    assert (tmp_path / "current" / "br.gif").read_bytes() == GIF
    assert prepared(tmp_path) == []
    changes = (tmp_path / ".flagjob" / "changes.jsonl").read_text()
    assert sha256(GIF).hexdigest() in changes
    assert sha256(PNG).hexdigest() in changes


def test_a_generation_of_another_origin_is_abandoned(tmp_path: Path) -> None:
    """A run from another origin is refused, and leaves no prepared generation."""
    run_generation(tmp_path, {"br": GIF})
    with pytest.raises(UsageError, match=r"filled from https://example\.org "):
        GenerationDestination(tmp_path, 3, ManifestScope("https://example.com")).open(accept_new_origin=False)
    assert prepared(tmp_path) == []


def test_a_generation_that_cannot_be_shown_is_an_error(tmp_path: Path) -> None:
    """A directory at the link's path makes `close` raise a StorageError, and is not changed."""
    (tmp_path / "current" / "mine").mkdir(parents=True)
    with pytest.raises(StorageError, match="current"):
        run_generation(tmp_path, {"br": GIF})
    assert (prepared(tmp_path), (tmp_path / "current" / "mine").is_dir()) == ([], True)


def copied_changes(root: Path) -> list[list[dict[str, Any]]]:
    """Return the lines of each list of changes beside the generations, the list of the newest run last."""
    paths = sorted((root / ".flagjob").glob("changes*"), key=lambda path: (path.name == "changes.jsonl", path.stem))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def test_the_changes_of_abandoned_generations_stay(tmp_path: Path) -> None:
    """Each run has its list beside the generations, also one whose set was not published, in their order."""
    run_generation(tmp_path, {"br": GIF})
    run_generation(tmp_path, {"br": PNG}, publish=False)
    run_generation(tmp_path, {"cn": GIF})
    found = [[line["code"] for line in lines[:-1]] for lines in copied_changes(tmp_path)]
    assert found == [["br"], ["br"], ["cn"]]
    assert [lines[0]["change"] for lines in copied_changes(tmp_path)] == ["new", "changed", "new"]


def test_the_copies_of_changes_do_not_pile_up(tmp_path: Path) -> None:
    """Beside the generations are the lists of the newest run and of ten older ones."""
    (tmp_path / ".flagjob").mkdir()
    for day in range(10, 21):
        (tmp_path / ".flagjob" / f"changes-202601{day}T000000Z.jsonl").write_bytes(b"of a run long ago")
    run_generation(tmp_path, {"br": GIF})
    run_generation(tmp_path, {"br": PNG})
    names = sorted(path.name for path in (tmp_path / ".flagjob").glob("changes*"))
    assert len(names) == 11
    assert names[:9] == [f"changes-202601{day}T000000Z.jsonl" for day in range(12, 21)]
    assert names[-1] == "changes.jsonl"


def test_changes_of_a_generation_that_cannot_be_shown_say_so(tmp_path: Path) -> None:
    """The summary was written before: it is there once more, with how the run really ended."""
    (tmp_path / "current" / "mine").mkdir(parents=True)
    destination = open_destination(GenerationDestination(tmp_path, 3, ALL))
    put(destination, "br", GIF)
    destination.manifest.summary_facts = {"job": "nightly", "outcome": "ok", "exit_code": 0}
    with pytest.raises(StorageError):
        destination.close(publish=True)
    _, first, last = copied_changes(tmp_path)[0]
    assert (first["job"], first["outcome"], first["exit_code"]) == ("nightly", "ok", 0)
    assert last == {**first, "outcome": "storage", "exit_code": 5}


def test_changes_that_cannot_be_copied_leave_those_before_alone(tmp_path: Path) -> None:
    """If the generation cannot be shown either, nothing is added to the list of another run."""
    run_generation(tmp_path, {"br": GIF})
    before = copied_changes(tmp_path)
    (tmp_path / ".flagjob" / "manifest.lock").unlink()
    (tmp_path / ".flagjob" / "manifest.lock").mkdir()
    destination = open_destination(GenerationDestination(tmp_path, 3, ALL))
    put(destination, "br", PNG)
    (tmp_path / "current").unlink()
    (tmp_path / "current" / "mine").mkdir(parents=True)
    with pytest.raises(StorageError):
        destination.close(publish=True)
    assert copied_changes(tmp_path) == before


def test_changes_that_cannot_be_copied_do_not_fail_a_run(tmp_path: Path) -> None:
    """A generation is published although the copies of its changes cannot be written."""
    (tmp_path / ".flagjob").write_bytes(b"mine")
    assert run_generation(tmp_path, {"br": GIF})


# A bucket


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    with Seaweed() as server:
        yield server


@dataclass
class DestinationPrefix:
    """A prefix of a test's own in the bucket, with the local directory of its runs and their clock."""

    url: str
    root: Path
    seconds: float = 0.0

    def bucket(self, scope: ManifestScope = ALL, timeouts: BucketTimeouts = DEFAULT_TIMEOUTS) -> BucketDestination:
        scratch = self.root / token_hex(8)
        storage = BucketStorage(self.url, scratch, timeouts=timeouts)
        return BucketDestination(storage, scratch, scope, clock=lambda: self.seconds)

    @property
    def outside(self) -> S3Store:
        """Another client of the prefix."""
        store: S3Store = S3Store.from_url(self.url, client_options={"allow_http": True})
        return store

    def list_objects(self, below: str | None = None) -> dict[str, object]:
        return {item["path"]: item["last_modified"] for page in self.outside.list(below) for item in page}

    def segments(self) -> list[str]:
        return sorted(self.list_objects(".flagjob/manifest"))

    def read(self, path: str) -> bytes:
        return bytes(self.outside.get(path).bytes())

    def fill(self, codes: dict[str, bytes], scope: ManifestScope = ALL) -> None:
        """Run once: publish and record files, then close."""
        destination = open_destination(self.bucket(scope))
        for code, data in codes.items():
            put(destination, code, data)
        assert destination.close(publish=True)


@pytest.fixture
def prefix(seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DestinationPrefix:
    """Return a prefix of the test's own, and set the credentials of an account with all rights."""
    for name, value in {**WRITER, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": seaweed.endpoint}.items():
        monkeypatch.setenv(name, value)
    return DestinationPrefix(f"s3://{BUCKET}/{token_hex(8)}", tmp_path)


def test_a_bucket_keeps_the_manifest_from_run_to_run(prefix: DestinationPrefix) -> None:
    """The next run, on another machine, has the entries of the runs before."""
    prefix.fill({"br": GIF, "cn": PNG})
    destination = open_destination(prefix.bucket())
    assert intact_codes(destination, ["br", "cn", "fr"]) == ["br", "cn"]
    put(destination, "fr")
    assert destination.close(publish=False)
    assert intact_codes(open_destination(prefix.bucket()), ["br", "cn", "fr"]) == ["br", "cn", "fr"]


class YearAhead(datetime):
    """A clock that is a year ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the time in a year."""
        return super().now(tz) + timedelta(365)


@row(73)
def test_what_is_known_in_a_bucket_outlives_a_wrong_clock(
    prefix: DestinationPrefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a run a year ahead the lines of later runs still count, and so do the lists of their changes."""
    with monkeypatch.context() as patch:
        patch.setattr("job.destination.datetime", YearAhead)
        for number in range(11):
            prefix.fill({"br": GIF, f"c{number}": GIF})
    killed = open_destination(prefix.bucket())
    prefix.seconds += 11
    put(killed, "br", PNG)
    assert intact_codes(open_destination(prefix.bucket()), ["br", "c0"]) == ["br", "c0"]
    prefix.fill({"br": PNG, "c0": PNG})
    assert intact_codes(open_destination(prefix.bucket()), ["br", "c0"]) == ["br", "c0"]
    names = sorted(prefix.list_objects(".flagjob/changes"))
    assert len(names) == 10
    assert sha256(PNG).hexdigest() in prefix.read(names[0]).decode()


def test_a_thousand_results_are_uploaded(prefix: DestinationPrefix) -> None:
    """After 1,000 results, and not after 999, the manifest is uploaded."""
    destination = open_destination(prefix.bucket())
    put(destination, "br")
    for _ in range(998):
        upload_if_due(destination)
    assert prefix.segments() == []
    upload_if_due(destination)
    assert len(prefix.segments()) == 1
    assert intact_codes(open_destination(prefix.bucket()), ["br"]) == ["br"]


def test_the_results_of_ten_seconds_are_uploaded(prefix: DestinationPrefix) -> None:
    """The manifest is uploaded ten seconds after the last upload; a line is uploaded once."""
    destination = open_destination(prefix.bucket())
    put(destination, "br")
    prefix.seconds = 9.9
    upload_if_due(destination)
    assert prefix.segments() == []
    prefix.seconds = 10.0
    upload_if_due(destination)
    put(destination, "cn")
    assert len(prefix.segments()) == 1
    prefix.seconds = 20.0
    upload_if_due(destination)
    assert len(prefix.segments()) == 2
    assert [prefix.read(part).count(b'"code":') for part in prefix.segments()] == [1, 1]
    assert intact_codes(open_destination(prefix.bucket()), ["br", "cn"]) == ["br", "cn"]


def test_a_failed_upload_is_retried_only_at_the_end(
    prefix: DestinationPrefix, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed upload no result waits for another one; `close` tries again and raises the error."""
    with seaweed.gateway() as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
        destination = open_destination(prefix.bucket(timeouts=BucketTimeouts(retry_seconds=1)))
        put(destination, "br")
    prefix.seconds = 10.0
    with pytest.raises(StorageError, match="cannot be written"):
        upload_if_due(destination)
    for _ in range(2000):
        upload_if_due(destination)
    with pytest.raises(StorageError, match="cannot be written"):
        destination.close(publish=True)


def test_another_number_of_shards_inherits(prefix: DestinationPrefix) -> None:
    """A run without shards inherits the entries of two shards in a segment of its own, the only one it reads then."""
    codes = ["br", "cn", "fr", "de", "id", "us"]
    for index in (0, 1):
        scope = ManifestScope(ORIGIN, Shard(index, 2))
        prefix.fill({code: GIF for code in codes if scope.shard.owns(code)}, scope)
    destination = open_destination(prefix.bucket())
    assert intact_codes(destination, codes) == codes
    destination.close(publish=True)
    own = [part for part in prefix.segments() if "/0-of-1/" in part]
    assert [prefix.read(part).count(b'"code":') for part in own] == [len(codes)]
    again = prefix.bucket()
    assert intact_codes(open_destination(again), codes) == codes
    assert [path.name for path in again.manifest.directory.glob("manifest*.jsonl")] == ["manifest.jsonl"]
    scope = ManifestScope(ORIGIN, Shard(1, 3))
    assert intact_codes(open_destination(prefix.bucket(scope)), codes) == [
        code for code in codes if scope.shard.owns(code)
    ]


def test_other_objects_beside_the_segments_are_ignored(prefix: DestinationPrefix) -> None:
    """An object under the manifest's directory that is no segment by its name is neither read nor deleted."""
    prefix.outside.put(".flagjob/manifest/notes/1", b"mine")
    prefix.fill({"br": GIF})
    assert intact_codes(open_destination(prefix.bucket()), ["br"]) == ["br"]
    assert prefix.read(".flagjob/manifest/notes/1") == b"mine"


def test_a_bucket_of_another_origin_is_refused(prefix: DestinationPrefix) -> None:
    """A run from another origin is refused, and the bucket is not changed."""
    prefix.fill({"br": GIF})
    before = prefix.list_objects()
    with pytest.raises(UsageError, match=r"filled from https://example\.org \(manifest.jsonl\)"):
        prefix.bucket(ManifestScope("https://example.com")).open(accept_new_origin=False)
    assert prefix.list_objects() == before


def test_a_new_origin_is_accepted_once(prefix: DestinationPrefix) -> None:
    """The segments name the new origin as soon as it is accepted, even if that run is killed at once."""
    other = ManifestScope("https://example.com")
    prefix.fill({"br": GIF})
    open_destination(prefix.bucket(other), accept_new_origin=True)
    assert len(prefix.segments()) == 1
    assert intact_codes(open_destination(prefix.bucket(other)), ["br"]) == ["br"]


def test_a_compaction_that_fails_deletes_nothing(prefix: DestinationPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are deleted only after those that replace them were written, so that a crash loses no entry."""
    prefix.fill({"br": GIF})
    before = prefix.segments()
    destination = prefix.bucket(ManifestScope("https://example.com"))

    def refuse(_state: StateObjects, name: str, _data: bytes) -> None:
        raise StorageError(name)

    monkeypatch.setattr(StateObjects, "write", refuse)
    with pytest.raises(StorageError, match="manifest/0-of-1/"):
        destination.open(accept_new_origin=True)
    assert prefix.segments() == before


def test_many_segments_are_compacted(prefix: DestinationPrefix) -> None:
    """A large manifest is compacted when it has too many segments for its size, and not before."""
    header = b'{"flagjob_manifest":1,"origin":"https://example.org"}\n'
    row = (
        '{{"code":"c{0}","url":"{1}","file":"c{0}.gif","status":"ok","sha256":"00","bytes":1,"content_type":null,"etag":null,'
        '"last_modified":null,"version":"1","checked_at":"","changed_at":null,"attempts":1,"reason":null}}\n'
    )
    for part in range(21):
        lines = "".join(row.format(400 * part + n, "u" * 1000) for n in range(400))
        prefix.outside.put(f".flagjob/manifest/0-of-1/2026-{part:02}", header + lines.encode())
    prefix.fill({})
    assert len(prefix.segments()) == 21
    prefix.fill({"br": GIF})
    parts = prefix.segments()
    assert len(parts) == 2
    assert all(prefix.read(part).startswith(header) for part in parts)
    assert open_destination(prefix.bucket()).manifest.find("c8399.gif")


def test_checksums_are_uploaded_if_they_differ_or_are_missing(prefix: DestinationPrefix) -> None:
    """Checksums in another order are not uploaded; those that somebody has changed or deleted are."""
    two = [f"{sha256(data).hexdigest()}  {code}.gif" for code, data in (("br", GIF), ("cn", PNG))]
    prefix.fill({"br": GIF, "cn": PNG})
    before = prefix.read("SHA256SUMS")
    destination = open_destination(prefix.bucket())
    for code in ("cn", "br"):
        entry = destination.manifest.find(item(code).file)
        assert entry
        record(destination, code, Result(Status.UNCHANGED, entry.stored, code, attempts=1))
        upload_if_due(destination)
    when = prefix.list_objects()["SHA256SUMS"]
    destination.close(publish=True)
    assert (prefix.read("SHA256SUMS"), prefix.list_objects()["SHA256SUMS"]) == (before, when)

    for spoil in (lambda: prefix.outside.delete("SHA256SUMS"), lambda: prefix.outside.put("SHA256SUMS", b"mine")):
        spoil()
        prefix.fill({})
        assert sorted(prefix.read("SHA256SUMS").decode().splitlines()) == sorted(two)
    prefix.fill({"br": PNG})
    assert f"{sha256(PNG).hexdigest()}  br.gif\n".encode() in prefix.read("SHA256SUMS")


def test_a_local_disk_that_refuses_is_a_storage_error(prefix: DestinationPrefix) -> None:
    """An error of the local copy of the manifest is a StorageError with its path."""
    destination = open_destination(prefix.bucket())
    put(destination, "br")
    (copy,) = prefix.root.glob("*/.flagjob/manifest.jsonl")
    copy.unlink()
    with pytest.raises(StorageError, match=f"^{copy}: No such file or directory"):
        destination.close(publish=True)
