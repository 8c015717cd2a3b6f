"""The manifest: what is known of each code survives whatever happens to the process and to the file."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

import pytest
from disk_calls import disk_calls
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits import files_limited_to
from rows import row

from job.atomic_write import replacing
from job.errors import StorageError, UsageError
from job.layout import ALL_CODES, Shard, manifest_name
from job.manifest import DEMO_SERVER, Change, Manifest, ManifestScope, forget, read_entries
from job.manifest.journal import LineFile
from job.manifest.records import file_of as file_in
from job.manifest.records import parse
from job.model import Entry, Result, Status, Stored, WorkItem
from job.template import UrlTemplate

ORIGIN = "https://example.org:8443"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
AT_NOON = "2026-11-22T12:00:00Z"
A_DAY = timedelta(days=1)
CODES = [f"C{number}" for number in range(40)]
FIELDS = (
    "code url file status sha256 bytes content_type etag last_modified version checked_at changed_at attempts reason"
).split()


def work(code: str, origin: str = ORIGIN, suffix: str = ".gif") -> WorkItem:
    file = code.lower() + suffix
    return WorkItem(code, f"{origin}/flags/{file}", file)


def file_of(code: str, data: bytes = b"GIF89a", *, suffix: str = ".gif") -> Stored:
    file = code.lower() + suffix
    return Stored(
        file, len(data), sha256(data).hexdigest(), "image/gif", '"1-a"', "Sun, 22 Nov 2026 04:17:00 GMT", "17"
    )


def ok(code: str, data: bytes = b"GIF89a") -> Result:
    return Result(Status.OK, file_of(code, data), code, attempts=1)


def unchanged(code: str, data: bytes = b"GIF89a", attempts: int = 1) -> Result:
    return Result(Status.UNCHANGED, file_of(code, data), code, attempts=attempts)


def missing(code: str, attempts: int = 1) -> Result:
    return Result(Status.NOT_FOUND, None, code, reason="http_404", attempts=attempts)


def failed(code: str, attempts: int = 4) -> Result:
    return Result(Status.ERROR, None, code, reason="http_503", attempts=attempts)


def ended(item: WorkItem, result: Result) -> Result:
    """Return a result with the URL and the file of its item, as the downloader does."""
    return replace(result, url=item.url, file=item.file)


def record(manifest: Manifest, item: WorkItem, result: Result) -> None:
    manifest.record([ended(item, result)])


def kill(manifest: Manifest) -> None:
    """End a run as SIGKILL does: its descriptors are closed, and nothing else happens."""
    for part in (manifest._journal, manifest._changes):  # noqa: SLF001  (no run ends itself like that)
        part.close()


class LocalDestination:
    """A destination in a local directory, and runs onto it that open its manifest at a known time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own_directory = root / ".flagjob"
        self.checksums = root / "SHA256SUMS"

    def manifest(self, *, at: datetime = NOON, accept: bool = False, **options: Any) -> Manifest:
        """Open a manifest."""
        scope = ManifestScope(**{"origin": ORIGIN, **options})
        manifest = Manifest(self.own_directory, self.checksums, scope, now=lambda: at)
        manifest.open(accept_new_origin=accept)
        return manifest

    def run(self, *results: Result, **options: Any) -> dict[Change, int]:
        """Open, record and close, and return the counts."""
        manifest = self.manifest(**options)
        for result in results:
            record(manifest, work(result.code, manifest.origin), result)
        manifest.close()
        return manifest.counts

    def run_and_kill(self, *results: Result, **options: Any) -> None:
        """Open and record, and then end without `close`, as a killed process does."""
        manifest = self.manifest(**options)
        for result in results:
            record(manifest, work(result.code, manifest.origin), result)
        kill(manifest)

    def known_entries(self, **options: Any) -> dict[str, Entry]:
        """Return the entries that a run would find, by code."""
        manifest = self.manifest(**options)
        found = self.entries_of(manifest, options.get("shard", ALL_CODES))
        kill(manifest)
        return {entry.code: entry for entry in found}

    def entries_of(self, manifest: Manifest, shard: Shard = ALL_CODES) -> list[Entry]:
        """Return the entry that a manifest finds for each file in its lines, in the order of the files' last lines."""
        files: dict[str, None] = {}
        for line in (self.own_directory / manifest_name(shard)).read_bytes().split(b"\n"):
            fields = parse(line)
            file = file_in(fields) if fields else None
            if file is not None:
                files.pop(file, None)  # a later line moves it to the end
                files[file] = None
        return [entry for entry in map(manifest.find, files) if entry]

    def lines(self, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
        """Return the lines of one of flagjob's own files; each must be a JSON object."""
        return [json.loads(line) for line in (self.own_directory / name).read_bytes().splitlines()]

    @property
    def names(self) -> list[str]:
        """The paths of all files below the destination, without the lock."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(set(found) - {".flagjob/manifest.lock"})


@pytest.fixture
def destination(tmp_path: Path) -> LocalDestination:
    return LocalDestination(tmp_path)


# What is recorded


def test_a_manifest_is_lines_of_json(destination: LocalDestination) -> None:
    """The first line names the origin; each other line is a flat object with the documented fields in order."""
    destination.run(ok("BR"))
    header, line = destination.lines()
    assert header == {"flagjob_manifest": 1, "origin": ORIGIN}
    assert list(line) == FIELDS
    assert line == {
        "code": "BR",
        "url": f"{ORIGIN}/flags/br.gif",
        "file": "br.gif",
        "status": "ok",
        "sha256": sha256(b"GIF89a").hexdigest(),
        "bytes": 6,
        "content_type": "image/gif",
        "etag": '"1-a"',
        "last_modified": "Sun, 22 Nov 2026 04:17:00 GMT",
        "version": "17",
        "checked_at": AT_NOON,
        "changed_at": AT_NOON,
        "attempts": 1,
        "reason": None,
    }


def test_what_was_recorded_is_found(destination: LocalDestination) -> None:
    """A recorded code is found at once and by the next run; another code is not."""
    manifest = destination.manifest()
    record(manifest, work("BR"), ok("BR"))
    expected = Entry("BR", work("BR").url, "br.gif", Status.OK, file_of("BR"), AT_NOON, AT_NOON, 1, None)
    assert (manifest.find("br.gif"), manifest.find("cn.gif")) == (expected, None)
    manifest.close()
    assert destination.known_entries() == {"BR": expected}


def test_nothing_is_found_before_open_or_after_close(destination: LocalDestination) -> None:
    """A thread that was abandoned may still call `find`: it finds nothing, and nothing breaks."""
    destination.run(ok("BR"))
    manifest = Manifest(destination.own_directory, destination.checksums, ManifestScope(ORIGIN))
    before = manifest.find("br.gif")
    manifest.open(accept_new_origin=False)
    while_open = manifest.find("br.gif")
    manifest.close()
    assert (before, while_open is None, manifest.find("br.gif")) == (None, False, None)


def test_the_defaults_are_all_codes_and_the_current_time(destination: LocalDestination) -> None:
    """Without a shard all codes are the run's own, and entries have the current time in UTC."""
    began = datetime.now(UTC).replace(microsecond=0)
    manifest = Manifest(destination.own_directory, destination.checksums, ManifestScope(ORIGIN))
    manifest.open(accept_new_origin=False)
    record(manifest, work("BR"), ok("BR"))
    entry = manifest.find("br.gif")
    assert entry is not None
    assert began <= datetime.fromisoformat(entry.checked_at) <= datetime.now(UTC)


def test_times_are_recorded_in_utc(destination: LocalDestination) -> None:
    """Recorded times are in UTC whatever the time zone of the clock, so that texts compare as times do."""
    destination.run(ok("BR"), at=NOON.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert destination.known_entries()["BR"].checked_at == AT_NOON


def test_the_later_line_of_a_code_counts(destination: LocalDestination) -> None:
    """During a run lines are only appended, and the last line of a code is the valid one."""
    destination.run_and_kill(ok("BR"), ok("CN"), unchanged("BR"))
    assert [line.get("code") for line in destination.lines()] == [None, "BR", "CN", "BR"]
    assert {code: entry.status for code, entry in destination.known_entries().items()} == {
        "CN": "ok",
        "BR": "unchanged",
    }


def test_a_failure_keeps_the_older_file(destination: LocalDestination) -> None:
    """Status, reason and attempts are those of the failure; the file, its validators and the times stay."""
    destination.run(ok("BR"))
    destination.run(failed("BR"), at=NOON + A_DAY)
    expected = Entry("BR", work("BR").url, "br.gif", Status.ERROR, file_of("BR"), AT_NOON, AT_NOON, 4, "http_503")
    assert destination.known_entries() == {"BR": expected}


def test_a_first_failure_is_recorded(destination: LocalDestination) -> None:
    """A code that never had a file gets an entry without a file and without a time of a check."""
    destination.run(failed("BR"))
    expected = Entry("BR", work("BR").url, "br.gif", Status.ERROR, None, "", None, 4, "http_503")
    assert destination.known_entries() == {"BR": expected}


def test_a_cancelled_item_is_recorded_only_after_an_attempt(destination: LocalDestination) -> None:
    """An item cancelled after an attempt is recorded; an item cancelled before one changes nothing."""
    destination.run(ok("BR"), ok("CN"))
    begun = Result(Status.CANCELLED, None, "BR", reason="signal", attempts=2)
    destination.run(begun, *(Result(Status.CANCELLED, None, code, reason="signal") for code in ("CN", "US")))
    found = {
        code: (entry.status, entry.reason, entry.stored is None) for code, entry in destination.known_entries().items()
    }
    assert found == {"BR": ("cancelled", "signal", False), "CN": ("ok", None, False)}


def test_invalid_items_are_never_recorded(destination: LocalDestination) -> None:
    """Text that is no valid code gets no entry."""
    manifest = destination.manifest()
    manifest.record([Result(Status.ERROR, None, "../x", reason="invalid_code", attempts=1)])
    assert destination.entries_of(manifest) == []


def test_unchanged_updates_the_time_of_the_check_only(destination: LocalDestination) -> None:
    """An unchanged file keeps the time of its last change, and has the validators of the latest answer."""
    destination.run(ok("BR"))
    newer = replace(file_of("BR"), etag='"2"')
    destination.run(Result(Status.UNCHANGED, newer, "BR", attempts=1), at=NOON + A_DAY)
    expected = Entry("BR", work("BR").url, "br.gif", Status.UNCHANGED, newer, "2026-11-23T12:00:00Z", AT_NOON, 1, None)
    assert destination.known_entries() == {"BR": expected}


def test_a_result_without_a_request_is_counted_and_not_recorded(destination: LocalDestination) -> None:
    """A file or a 404 that was used without a request must not look as if the origin had confirmed it."""
    destination.run(ok("BR"), missing("ZZ"))
    before = destination.known_entries()
    counts = destination.run(unchanged("BR", attempts=0), missing("ZZ", attempts=0), failed("BR", 0), at=NOON + A_DAY)
    assert destination.known_entries() == before
    assert counts == {Change.NEW: 0, Change.CHANGED: 0, Change.GONE: 0, Change.UNCHANGED: 1}


def test_a_result_without_a_request_is_recorded_if_it_adds_something(destination: LocalDestination) -> None:
    """A code without an entry, or a file other than the recorded one, is recorded also without an attempt."""
    destination.run(unchanged("BR", attempts=0), failed("CN", attempts=0))
    moved = replace(file_of("BR"), version="18")
    destination.run(Result(Status.UNCHANGED, moved, "BR"))
    assert {code: entry.stored for code, entry in destination.known_entries().items()} == {"CN": None, "BR": moved}


def test_a_check_without_a_request_is_none(destination: LocalDestination) -> None:
    """A file whose version alone is new is recorded without a request, with the time at which it was confirmed."""
    destination.run(ok("BR"))
    moved = replace(file_of("BR"), version="18")
    destination.run(Result(Status.UNCHANGED, moved, "BR"), at=NOON + A_DAY)
    entry = destination.known_entries()["BR"]
    assert (entry.stored, entry.checked_at) == (moved, AT_NOON)


@pytest.mark.parametrize("result", [failed("BR"), missing("BR")], ids=["error", "not found"])
def test_validators_are_dropped_for_another_url(destination: LocalDestination, result: Result) -> None:
    """If another URL of a file fails, the older file stays listed, without validators and version."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    other = work("BR", f"{ORIGIN}/v2")
    record(manifest, other, result)
    entry = manifest.find("br.gif")
    unproven = replace(file_of("BR"), etag=None, last_modified=None, version=None)
    assert entry is not None
    assert (entry.url, entry.file, entry.stored) == (other.url, "br.gif", unproven)


def test_urls_of_the_demo_server_are_recorded_without_its_port(destination: LocalDestination) -> None:
    """Its port is another one in each run, so URLs are recorded and compared without scheme, host and port."""
    manifest = destination.manifest(origin=DEMO_SERVER)
    record(manifest, work("BR", "http://127.0.0.1:41234"), ok("BR"))
    entry = manifest.find("br.gif")
    assert entry is not None
    assert entry.url == manifest.recorded_url("http://127.0.0.1:9/flags/br.gif") == "/flags/br.gif"
    assert manifest.recorded_url("http://localhost:1/a/b") == "/a/b"


def test_urls_of_other_origins_are_recorded_in_full(destination: LocalDestination) -> None:
    """A validator belongs to one URL, including its host."""
    assert destination.manifest().recorded_url(f"{ORIGIN}/a/b") == f"{ORIGIN}/a/b"


# What changed


def test_changes_are_written_as_they_happen(destination: LocalDestination) -> None:
    """Each new, changed or gone file has its line before the run ends; the summary is the last line."""
    destination.run(ok("BR"), ok("CN"), ok("US"), missing("ZZ"))
    manifest = destination.manifest(at=NOON + A_DAY)
    old, new = (sha256(data).hexdigest() for data in (b"GIF89a", b"GIF89a 2"))
    for result in (ok("BR", b"GIF89a 2"), missing("CN"), unchanged("US"), ok("FR"), missing("ZZ"), failed("DE")):
        record(manifest, work(result.code), result)
    expected: list[dict[str, object]] = [
        {"change": "changed", "code": "BR", "file": "br.gif", "old_sha256": old, "sha256": new},
        {"change": "gone", "code": "CN", "file": "cn.gif", "sha256": old},
        {"change": "new", "code": "FR", "file": "fr.gif", "sha256": old},
    ]
    assert destination.lines("changes.jsonl") == expected
    manifest.close()
    times = {"started_at": "2026-11-23T12:00:00Z", "finished_at": "2026-11-23T12:00:00Z"}
    summary = {"change": "summary", "new": 1, "changed": 1, "gone": 1, "unchanged": 1, **times}
    assert destination.lines("changes.jsonl") == [*expected, summary]
    assert list(destination.lines("changes.jsonl")[0]) == ["change", "code", "file", "old_sha256", "sha256"]


def test_the_summary_says_how_the_run_ended(destination: LocalDestination) -> None:
    """What the run knows of its end follows the numbers and the times."""
    manifest = destination.manifest()
    manifest.summary_facts = {"job": "nightly", "exit_code": 4}
    manifest.close()
    summary = destination.lines("changes.jsonl")[-1]
    assert list(summary)[:5] == ["change", "new", "changed", "gone", "unchanged"]
    assert list(summary.items())[-2:] == [("job", "nightly"), ("exit_code", 4)]


def test_the_summary_has_the_start_and_the_end_of_the_run(destination: LocalDestination) -> None:
    """The two times are those of `open` and `close`."""
    times = iter([NOON, NOON + A_DAY])
    manifest = Manifest(
        destination.own_directory, destination.checksums, ManifestScope(ORIGIN), now=lambda: next(times)
    )
    manifest.open(accept_new_origin=False)
    manifest.close()
    summary = destination.lines("changes.jsonl")[-1]
    assert (summary["started_at"], summary["finished_at"]) == (AT_NOON, "2026-11-23T12:00:00Z")


def changes_of_run(destination: LocalDestination, *results: Result, **options: Any) -> list[str]:
    """Run, and return the kinds of change that the run reported."""
    destination.run(*results, **options)
    name = options.get("shard", ALL_CODES).name("changes", ".jsonl")
    return [line["change"] for line in destination.lines(name)[:-1]]


def test_gone_is_reported_once(destination: LocalDestination) -> None:
    """Only the first 404 after a file is reported as gone, also if errors lie between two 404s."""
    destination.run(ok("BR"))
    said = [
        changes_of_run(destination, result) for result in (missing("BR"), missing("BR"), failed("BR"), missing("BR"))
    ]
    assert said == [["gone"], [], [], []]
    assert destination.known_entries()["BR"].stored == file_of("BR")


@pytest.mark.parametrize(
    ("old", "new", "file"), [("BR", "br", "br.gif"), ("x", "x.gif", "x.gif"), ("CN", "cn", "cn"), ("cn", "CN", "cn")]
)
def test_a_file_belongs_to_one_code(destination: LocalDestination, old: str, new: str, file: str) -> None:
    """If a template derives codes in another way, the file belongs to the new code, and the old code is forgotten."""
    destination.run(ok("US"))
    for code, data in ((old, b"GIF89a"), (new, b"GIF87a")):
        manifest = destination.manifest()
        stored = Stored(file, len(data), sha256(data).hexdigest(), "image/gif")
        record(manifest, WorkItem(code, f"{ORIGIN}/{code}", file), Result(Status.OK, stored, code, attempts=1))
        manifest.close()
    assert set(destination.known_entries()) == {"US", new}
    digest = sha256(b"GIF87a").hexdigest()
    assert [line for line in destination.checksums.read_text().splitlines() if line.endswith(f" {file}")] == [
        f"{digest}  {file}"
    ]


def test_a_failure_of_another_code_keeps_the_file(destination: LocalDestination) -> None:
    """If a file's new code fails, the file stays listed, without the validators of the older URL."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    record(manifest, WorkItem("br", f"{ORIGIN}/br", "br.gif"), missing("br"))
    manifest.close()
    entry = destination.known_entries()["br"]
    assert (entry.url, entry.stored) == (
        f"{ORIGIN}/br",
        replace(file_of("BR"), etag=None, last_modified=None, version=None),
    )
    assert destination.checksums.read_text() == f"{file_of('BR').sha256}  br.gif\n"


def test_two_templates_keep_their_records_in_one_destination(destination: LocalDestination) -> None:
    """Records are found by the file, so a second job with another suffix leaves those of the first as they are."""
    destination.run(ok("BR"), ok("CN"))
    manifest = destination.manifest(at=NOON + A_DAY)
    png = file_of("BR", b"PNG", suffix=".png")
    record(manifest, work("BR", suffix=".png"), Result(Status.OK, png, "BR", attempts=1))
    manifest.close()
    assert changes_of_run(destination, unchanged("BR")) == []
    reopened = destination.manifest()
    stored = [entry and entry.stored for entry in map(reopened.find, ["br.gif", "br.png", "cn.gif"])]
    assert stored == [file_of("BR"), png, file_of("CN")]
    listed = {line.partition("  ")[2] for line in destination.checksums.read_text().splitlines()}
    assert listed == {"br.gif", "br.png", "cn.gif"}
    assert [entry.file for entry in read_entries(destination.own_directory)] == ["cn.gif", "br.png", "br.gif"]


def test_a_power_cut_leaves_the_old_manifest_or_the_new_one(
    destination: LocalDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compacted file is on the disk before it gets its name, and the name is on the disk before the run ends."""
    destination.run(ok("BR"), ok("BR", b"GIF87a"))
    calls = disk_calls(monkeypatch, destination.root)
    destination.run(ok("BR"), ok("CN"))
    for name, directory in ((".flagjob/manifest.jsonl", ".flagjob"), ("SHA256SUMS", ".")):
        at = calls.index(f"{name} is named")
        assert calls[at - 1].endswith(".tmp is synced")
        assert calls[at + 1] == f"{directory} is synced"


def test_only_a_file_can_be_gone(destination: LocalDestination) -> None:
    """Only lines of codes that still have a file are marked as gone."""
    destination.run(ok("BR"), ok("CN"))
    destination.run(missing("BR"), missing("ZZ"), missing("CN"))
    destination.run(failed("BR"), ok("CN"))
    assert {line["code"]: line.get("gone") for line in destination.lines()[1:]} == {"BR": True, "ZZ": None, "CN": None}


def test_a_file_that_was_gone_and_is_back_is_new(destination: LocalDestination) -> None:
    """Readers of the changes have dropped it, so it is new whatever its bytes, and it may be gone again."""
    destination.run(ok("BR"))
    back = [missing("BR"), failed("BR"), unchanged("BR"), missing("BR"), ok("BR", b"GIF89a 2"), unchanged("BR")]
    assert [changes_of_run(destination, result) for result in back[:5]] == [["gone"], [], ["new"], ["gone"], ["new"]]


def test_the_time_of_change_is_that_of_the_bytes(destination: LocalDestination) -> None:
    """A file that was gone and is back with the same bytes keeps the time of its last change."""
    for day, result in enumerate([ok("BR"), missing("BR"), ok("BR"), ok("BR", b"GIF89a 2")]):
        destination.run(result, at=NOON + day * A_DAY)
        expected = "2026-11-25T12:00:00Z" if day == 3 else AT_NOON
        assert destination.known_entries()["BR"].changed_at == expected


def test_a_file_under_a_new_name_is_new(destination: LocalDestination) -> None:
    """If the template's suffix changes, the same bytes are a new file, and the older file stays listed."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    data = file_of("BR", suffix=".png")
    record(manifest, work("BR", suffix=".png"), Result(Status.OK, data, "BR", attempts=1))
    manifest.close()
    assert destination.lines("changes.jsonl")[0] == {
        "change": "new",
        "code": "BR",
        "file": "br.png",
        "sha256": data.sha256,
    }
    assert destination.checksums.read_text() == f"{data.sha256}  br.gif\n{data.sha256}  br.png\n"


def test_a_200_with_the_recorded_bytes_is_no_change(destination: LocalDestination) -> None:
    """An origin without validators sends the file each time; only the digest shows whether it changed."""
    destination.run(ok("BR"))
    again = Result(Status.OK, replace(file_of("BR"), etag='"2"', version="18"), "BR", attempts=1)
    assert destination.run(again)[Change.UNCHANGED] == 1
    assert changes_of_run(destination, ok("BR")) == []


def test_ten_older_change_files_stay(destination: LocalDestination) -> None:
    """The last run's file has the plain name, ten older ones have their times, and the oldest is deleted."""
    for number in range(12):
        destination.run(ok(f"X{number}"), at=NOON + number * A_DAY)
        seconds = (NOON + number * A_DAY).timestamp()
        os.utime(destination.own_directory / "changes.jsonl", (seconds, seconds))
    dates = [f"changes-2026{date}T120000Z.jsonl" for date in (*(f"11{day}" for day in range(23, 31)), "1201", "1202")]
    assert sorted(path.name for path in destination.own_directory.glob("changes-*")) == dates
    assert destination.lines("changes.jsonl")[0]["code"] == "X11"
    assert [destination.lines(name)[0]["code"] for name in dates] == [f"X{number}" for number in range(1, 11)]


@row(73)
def test_change_files_of_a_clock_that_was_ahead_keep_no_later_one_out(destination: LocalDestination) -> None:
    """After twelve runs a year ahead the lists of the runs with the right clock stay, and the others go first."""
    for number in range(24):
        at = NOON + number * A_DAY + (365 * A_DAY if number < 12 else 0 * A_DAY)
        destination.run(ok(f"X{number}"), at=at)
        os.utime(destination.own_directory / "changes.jsonl", (at.timestamp(), at.timestamp()))
    found = sorted(path.name for path in destination.own_directory.glob("changes-*"))
    assert [destination.lines(name)[0]["code"] for name in found] == [f"X{number}" for number in range(13, 23)]


def test_change_files_of_one_second_are_numbered(destination: LocalDestination) -> None:
    """Runs that end within one second overwrite no change file, and the oldest ones are still deleted."""
    for number in range(14):
        destination.run(ok(f"X{number}"))
        os.utime(destination.own_directory / "changes.jsonl", (NOON.timestamp(), NOON.timestamp()))
    names = [f"changes-20261122T120000Z-{number}.jsonl" for number in range(3, 13)]
    assert sorted(path.name for path in destination.own_directory.glob("changes-*")) == sorted(names)
    assert [destination.lines(name)[0]["code"] for name in names] == [f"X{number}" for number in range(3, 13)]


def test_a_shards_change_files_are_its_own(destination: LocalDestination) -> None:
    """The names contain the shard, and no shard counts or deletes another's files."""
    for number in range(12):
        for index in (1, 11):
            destination.run(ok(f"X{number}"), shard=Shard(index, 12))
        destination.run(ok(f"X{number}"))
    counts = Counter(path.name.partition("-20")[0] for path in destination.own_directory.glob("changes-*T*Z*.jsonl"))
    assert counts == {"changes-1-of-12": 10, "changes-11-of-12": 10, "changes": 10}
    own = {path.name for path in destination.own_directory.iterdir()}
    assert {"changes.jsonl", "changes-1-of-12.jsonl", "manifest-1-of-12.jsonl"} <= own


# SHA256SUMS


def test_sha256sum_accepts_the_checksums(destination: LocalDestination) -> None:
    """`sha256sum -c` accepts the list, which has every file, also the files of codes that are gone."""
    for code in ("BR", "CN", "7/66"):
        path = destination.root / file_of(code).path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(code.encode())
    destination.run(*(ok(code, code.encode()) for code in ("BR", "CN", "7/66")), failed("DE"), missing("ZZ"))
    destination.run(missing("CN"))
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=destination.root, check=True, capture_output=True, text=True
    )
    assert sorted(done.stdout.splitlines()) == ["7/66.gif: OK", "br.gif: OK", "cn.gif: OK"]


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_the_checksums_are_rewritten_only_if_they_differ(destination: LocalDestination) -> None:
    """A run without new bytes leaves SHA256SUMS alone; new bytes, or a missing SHA256SUMS, make a run write it."""
    destination.run(ok("BR"), ok("CN"))
    first = inode(destination.checksums)
    destination.run(unchanged("BR"), missing("CN"), failed("US"))
    assert inode(destination.checksums) == first
    destination.run(ok("BR", b"GIF89a 2"))
    assert f"{sha256(b'GIF89a 2').hexdigest()}  br.gif" in destination.checksums.read_text()
    destination.run(ok("US"))
    assert "us.gif" in destination.checksums.read_text()
    destination.checksums.unlink()
    destination.run(unchanged("US"))
    assert len(destination.checksums.read_text().splitlines()) == 3


def test_the_checksums_catch_up_after_a_killed_run(destination: LocalDestination) -> None:
    """Files that a killed run recorded but did not list are listed by the next run, although it finds nothing new."""
    destination.run(ok("BR"))
    destination.run_and_kill(ok("CN"))
    assert "cn.gif" not in destination.checksums.read_text()
    destination.run(unchanged("BR"), unchanged("CN"))
    assert "cn.gif" in destination.checksums.read_text()


def test_the_checksums_catch_up_after_they_could_not_be_written(destination: LocalDestination) -> None:
    """The summary follows SHA256SUMS, so a run that could not write SHA256SUMS looks like a killed one to the next."""
    destination.run(*map(ok, CODES))
    manifest = destination.manifest()
    record(manifest, work("BR"), ok("BR"))
    with files_limited_to(2000), pytest.raises(StorageError):
        manifest.close()
    destination.run(unchanged("BR"))
    assert "br.gif" in destination.checksums.read_text()


def test_the_checksums_are_rewritten_if_the_end_of_the_last_run_is_unknown(destination: LocalDestination) -> None:
    """If the change file was deleted, SHA256SUMS is written again, as after a killed run."""
    destination.run(ok("BR"))
    destination.run_and_kill(ok("CN"))
    (destination.own_directory / "changes.jsonl").unlink()
    destination.run(unchanged("BR"), unchanged("CN"))
    assert "cn.gif" in destination.checksums.read_text()


def test_each_shard_has_its_own_checksums(destination: LocalDestination) -> None:
    """Pods that share a destination do not overwrite each other's SHA256SUMS."""
    destination.run(ok("BR"), shard=Shard(0, 2))
    destination.run(ok("CN"), shard=Shard(1, 2))
    lists = {name: (destination.root / name).read_text()[66:] for name in destination.names if "SUMS" in name}
    assert lists == {"SHA256SUMS-0-of-2": "br.gif\n", "SHA256SUMS-1-of-2": "cn.gif\n"}


# Crashes


def test_entries_survive_a_cut_at_any_byte(destination: LocalDestination) -> None:
    """Wherever a crash cuts the file, it opens, the whole lines before the cut are found, and lines can be appended."""
    destination.run(ok("BR"), missing("ZZ"))
    whole = (destination.own_directory / "manifest.jsonl").read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({*range(0, len(whole) + 1, 4), *(end + step for end in ends for step in (-1, 0, 1))}):
        (destination.own_directory / "manifest.jsonl").write_bytes(whole[:cut])
        manifest = destination.manifest()
        # a last line that lacks nothing but its end is whole, too
        known = [code for code, end in zip(("BR", "ZZ"), ends[1:], strict=True) if cut >= end]
        if cut < ends[0]:
            known = []
        assert [entry.code for entry in destination.entries_of(manifest)] == known
        record(manifest, work("US"), ok("US"))
        manifest.close()
        assert list(destination.known_entries()) == [*known, "US"]
        assert destination.lines()[0] == {"flagjob_manifest": 1, "origin": ORIGIN}
        assert len(destination.lines()) == len(known) + 2


def test_a_killed_run_keeps_its_results(destination: LocalDestination) -> None:
    """Each result is in the file when `record` returns."""
    destination.run_and_kill(ok("BR"), ok("CN"))
    assert list(destination.known_entries()) == ["BR", "CN"]


RECORDER = """
import sys
from pathlib import Path
from job.manifest import Manifest, ManifestScope
from job.model import Result, Status, Stored

root = Path(sys.argv[1])
manifest = Manifest(root / ".flagjob", root / "SHA256SUMS", ManifestScope("https://example.org:8443"))
manifest.open(accept_new_origin=False)
print("ready", flush=True)
for number in range(int(sys.stdin.readline())):
    code = f"{sys.argv[2]}{number}"
    stored = Stored(code, 6, f"{number:064x}", None, "x" * number)
    url = "https://example.org:8443/" + code
    manifest.record([Result(Status.OK, stored, code, url=url, file=code, attempts=1)])
    print(code, flush=True)
"""


def start_recorder(destination: LocalDestination, letter: str) -> "subprocess.Popen[str]":
    """Start a process that opens a manifest, reads a number, and records and prints that many codes."""
    command = [sys.executable, "-c", RECORDER, str(destination.root), letter]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert read_line(process) == "ready"
    return process


def start_recording(process: "subprocess.Popen[str]", number: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("lines", [1, 2, 30, 333])
def test_a_process_killed_while_it_records_loses_no_recorded_code(destination: LocalDestination, lines: int) -> None:
    """After SIGKILL at any moment every recorded code is found, and the file can be appended to."""
    with start_recorder(destination, "K") as process:
        start_recording(process, 1_000_000)
        recorded = [read_line(process) for _ in range(lines)]
        process.kill()
        recorded += process.communicate(timeout=30)[0].split()
    assert set(recorded) <= set(destination.known_entries())
    destination.run(ok("BR"))
    assert {"BR", *recorded} <= set(destination.known_entries())
    assert len(destination.lines()) == len(destination.known_entries()) + 1


def valid_lines(*results: Result) -> bytes:
    """Return the lines that a run writes for these results, without the header."""
    with TemporaryDirectory() as root:
        destination = LocalDestination(Path(root))
        destination.run(*results)
        return b"".join((destination.own_directory / "manifest.jsonl").read_bytes().splitlines(keepends=True)[1:])


GOOD = valid_lines(ok("BR"), missing("ZZ"))
IN_FRONT = valid_lines(ok("US"))
HEADER = b'{"flagjob_manifest":1,"origin":"https://example.org:8443"}\n'


def with_field(name: str, value: object) -> bytes:
    return json.dumps({**json.loads(valid_lines(ok("CN"))), name: value}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 5000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"code"',
        b"{}",
        b'{"code":',
        b'{"code":"CN"}',
        b'{"code":7,"url":"x"}',
        b'{"code":["CN"]}',
        b'{"code":"CN","forgotten":true}',
        valid_lines(ok("CN"))[:-20],
        valid_lines(ok("CN"))[:100] + valid_lines(ok("CN"))[:-1],
        valid_lines(ok("CN")).replace(b"flags", b"fl\0gs")[:-1],
        valid_lines(ok("CN")).replace(b"flags", b"fl\xffgs")[:-1],
        with_field("status", "fine"),
        with_field("status", None),
        with_field("sha256", 7),
        with_field("bytes", "6"),
        with_field("bytes", 1e30),
        with_field("etag", []),
        with_field("attempts", None),
        with_field("checked_at", None),
        HEADER[:-1],
        b'{"a":' * 5000,
        b"x" * 3_000_000,
    ],
    ids=lambda line: repr(line[:12]) + str(len(line)),
)
def test_a_damaged_line_is_skipped(destination: LocalDestination, line: bytes) -> None:
    """Bytes that are no record cost only themselves: the lines around them are read."""
    destination.own_directory.mkdir()
    (destination.own_directory / "manifest.jsonl").write_bytes(HEADER + line + b"\n" + GOOD + line + b"\n")
    assert sorted(destination.known_entries()) == ["BR", "ZZ"]
    destination.run(ok("US"))
    assert sorted(destination.known_entries()) == ["BR", "US", "ZZ"]


@pytest.mark.parametrize("name", ["sha256", "bytes"])
def test_an_entry_without_digest_or_size_has_no_file(destination: LocalDestination, name: str) -> None:
    """An entry that lacks the digest or the size of its file has no file that could be trusted."""
    destination.own_directory.mkdir()
    (destination.own_directory / "manifest.jsonl").write_bytes(HEADER + with_field(name, None) + b"\n")
    assert [entry.stored for entry in destination.known_entries().values()] == [None]


def test_a_line_that_lacks_a_field_is_no_record(destination: LocalDestination) -> None:
    """A line that names its code and its file, and nothing else, is known of nothing."""
    destination.own_directory.mkdir()
    line = b'{"code":"BR","file":"br.gif"}\n'
    (destination.own_directory / "manifest.jsonl").write_bytes(HEADER + line)
    assert destination.known_entries() == {}


def test_a_damaged_line_does_not_replace_an_earlier_line(destination: LocalDestination) -> None:
    """The last readable line of a code is the valid one."""
    destination.run_and_kill(ok("BR"), ok("CN"))
    with (destination.own_directory / "manifest.jsonl").open("ab") as file:
        file.write(valid_lines(failed("BR")).replace(b"http_503", b"http\x00503"))
    assert destination.known_entries()["BR"].status == Status.OK


damage = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda at, byte: GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], st.integers(0, len(GOOD)), st.integers(0, 255)
    ),
    st.builds(lambda start, end: GOOD[start:end], st.integers(0, len(GOOD)), st.integers(0, len(GOOD))),
)


@settings(deadline=None)
@given(data=st.lists(damage, max_size=4).map(b"".join), headed=st.booleans())
@example(data=b"", headed=False)
@example(data=b"\n", headed=False)
@pytest.mark.slow
def test_no_bytes_can_break_a_manifest(data: bytes, headed: bool) -> None:  # noqa: FBT001  (hypothesis passes it)
    """Whatever bytes a file holds, it can be opened, read, appended to and closed, and earlier lines survive."""
    with TemporaryDirectory() as root:
        destination = LocalDestination(Path(root))
        destination.own_directory.mkdir()
        (destination.own_directory / "manifest.jsonl").write_bytes((HEADER + IN_FRONT if headed else b"") + data)
        manifest = destination.manifest(accept=True)
        record(manifest, work("FR"), ok("FR"))
        manifest.close()
        known = destination.known_entries()
        assert known["FR"].stored == file_of("FR")
        assert not headed or known["US"].stored == file_of("US")


@settings(deadline=None)
@given(
    code=st.text(min_size=1),
    texts=st.tuples(*[st.none() | st.text()] * 6),
    size=st.integers(0, 2**53),
    status=st.sampled_from(Status),
)
@pytest.mark.slow
def test_any_text_comes_back_as_it_was(code: str, texts: tuple[str | None, ...], size: int, status: Status) -> None:
    """Validators, types and reasons are read as they were recorded, including quotes, line ends and NULs."""
    content_type, etag, last_modified, version, redirected_to, reason = texts
    data = Stored("x.gif", size, "0" * 64, content_type, etag, last_modified, version, redirected_to or None)
    item = WorkItem(code, f"{ORIGIN}/x", "x.gif")
    with TemporaryDirectory() as root:
        destination = LocalDestination(Path(root))
        manifest = destination.manifest()
        record(manifest, item, Result(Status.OK, data, code, reason=reason, attempts=3))
        record(manifest, item, Result(status, data, code, reason=reason, attempts=3))
        expected = Entry(code, item.url, "x.gif", status, data, AT_NOON, AT_NOON, 3, reason)
        assert (manifest.find("x.gif"), destination.entries_of(manifest)) == (expected, [expected])
        manifest.close()
        assert destination.known_entries() == {code: expected}


@pytest.mark.parametrize("size", [1500, 2000, 60_000, 140_000, 900_000])
def test_long_lines_are_read_in_full(destination: LocalDestination, size: int) -> None:
    """A validator may be as long as a header can be."""
    stored = replace(file_of("BR"), etag="x" * size)
    destination.run(ok("AA"), Result(Status.OK, stored, "BR", attempts=1), ok("CN"))
    assert {code: entry.stored for code, entry in destination.known_entries().items()} == {
        "AA": file_of("AA"),
        "BR": stored,
        "CN": file_of("CN"),
    }
    entry = destination.manifest().find("br.gif")
    assert entry is not None
    assert entry.stored == stored


# The disk


def open_files(below: Path) -> dict[str, int]:
    """Return the descriptors of this process for files below a directory, also for deleted ones, by name."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = link.readlink()
            if target.is_relative_to(below):
                found[target.name] = int(link.name)
    return found


def test_close_leaves_no_file_open(destination: LocalDestination) -> None:
    """A closed manifest keeps no descriptor, also after it adopted, compacted and merged other files."""
    destination.run(ok("BR"))
    destination.run(ok("CN"), accept=True, origin=DEMO_SERVER)
    manifest = destination.manifest(shard=Shard(crc32(b"CN") % 2, 2), origin=DEMO_SERVER)
    (destination.own_directory / "manifest-0-of-2.jsonl").unlink(missing_ok=True)
    (destination.own_directory / "manifest-1-of-2.jsonl").unlink(missing_ok=True)
    manifest.close()
    list(read_entries(destination.own_directory))
    forget(destination.own_directory, destination.checksums, ["br.gif"])
    assert open_files(destination.own_directory) == {}


def test_a_disk_that_cannot_be_read_is_a_storage_error(destination: LocalDestination) -> None:
    """An error of the operating system during a look-up becomes one clear message with the path."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    descriptor = open_files(destination.own_directory)["manifest.jsonl"]
    unreadable = os.open("/dev/null", os.O_WRONLY)
    os.dup2(unreadable, descriptor)
    os.close(unreadable)
    with pytest.raises(StorageError) as caught:
        manifest.find("br.gif")
    assert str(caught.value) == f"{destination.own_directory}/manifest.jsonl: Bad file descriptor"
    os.close(descriptor)


def test_a_closed_file_is_never_read(destination: LocalDestination) -> None:
    """A thread that reads on gets an error, not the bytes of another file that has the same descriptor by now."""
    destination.run(ok("BR"))
    file = LineFile(destination.own_directory / "manifest.jsonl")
    file.open(write=False)
    file.close()
    with destination.checksums.open("rb"), pytest.raises(StorageError):
        file.line_at(0)


@pytest.mark.parametrize("name", ["manifest.jsonl", "changes.jsonl", "manifest.lock", "manifest-0-of-2.jsonl"])
def test_a_directory_in_the_way_is_a_storage_error(destination: LocalDestination, name: str) -> None:
    """A directory in the place of a file is named in the error, and stays."""
    (destination.own_directory / name).mkdir(parents=True)
    with pytest.raises(StorageError, match="Is a directory"):
        destination.manifest()
    assert (destination.own_directory / name).is_dir()


def test_a_file_in_the_place_of_the_directory_is_a_storage_error(tmp_path: Path) -> None:
    """A file in the place of the destination is one clear error."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError) as caught:
        LocalDestination(tmp_path / "file").manifest()
    assert str(caught.value) == f"{tmp_path}/file/.flagjob: Not a directory"


def test_a_full_disk_costs_one_line(destination: LocalDestination) -> None:
    """A result that does not fit is a storage error; the part of its line that did fit damages no other line."""
    manifest = destination.manifest()
    record(manifest, work("BR"), ok("BR"))
    with (
        files_limited_to((destination.own_directory / "manifest.jsonl").stat().st_size + 40),
        pytest.raises(StorageError) as caught,
    ):
        record(manifest, work("CN"), failed("CN"))
    assert str(caught.value) == f"{destination.own_directory}/manifest.jsonl: File too large"
    record(manifest, work("US"), ok("US"))
    assert [entry.code for entry in destination.entries_of(manifest)] == ["BR", "US"]
    manifest.close()
    assert list(destination.known_entries()) == ["BR", "US"]
    assert len(destination.lines()) == 3


def test_a_batch_is_one_write_to_each_file(destination: LocalDestination, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a batch are written together: first those of the changes, then those of the manifest."""
    manifest = destination.manifest()
    before = [open_files(destination.own_directory)[name] for name in ("changes.jsonl", "manifest.jsonl")]
    writes: list[int] = []
    write = os.write

    def count_write(descriptor: int, data: bytes) -> int:
        writes.append(descriptor)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", count_write)
    manifest.record([ended(work(code), ok(code)) for code in CODES])
    manifest.record([ended(work("ZZ"), missing("ZZ")), Result(Status.ERROR, None, "../x", reason="invalid_code")])
    manifest.record([])
    assert writes == [*before, before[1]]
    assert [line["code"] for line in destination.lines()[1:]] == [*CODES, "ZZ"]
    assert [line["code"] for line in destination.lines("changes.jsonl")] == CODES


def test_a_full_disk_in_a_batch_keeps_its_whole_lines(destination: LocalDestination) -> None:
    """The lines that fit count, the torn one is passed over, and the next batch is indexed rightly."""
    manifest = destination.manifest()
    size = len(valid_lines(failed("C0")))
    room = (destination.own_directory / "manifest.jsonl").stat().st_size + 2 * size + 40
    with files_limited_to(room), pytest.raises(StorageError):
        manifest.record([ended(work(code), failed(code)) for code in ("C0", "C1", "C2", "C3")])
    manifest.record([ended(work(code), ok(code)) for code in ("C1", "C3", "C4")])
    assert [(entry.code, entry.status) for entry in destination.entries_of(manifest)] == [
        ("C0", "error"),
        ("C1", "ok"),
        ("C3", "ok"),
        ("C4", "ok"),
    ]
    manifest.close()
    assert sorted(destination.known_entries()) == ["C0", "C1", "C3", "C4"]
    assert len(destination.lines()) == 5


def test_batches_of_two_processes_are_indexed_in_the_order_of_the_file(destination: LocalDestination) -> None:
    """A batch behind lines of another process is found, and so are those lines."""
    manifest, other = destination.manifest(), destination.manifest()
    other.record([ended(work(code), ok(code)) for code in ("BR", "CN")])
    manifest.record([ended(work(code), failed(code)) for code in ("CN", "US")])
    found = {entry.code: entry.status for entry in destination.entries_of(manifest)}
    assert found == {"BR": "ok", "CN": "error", "US": "error"}


def test_a_change_that_did_not_reach_the_manifest_is_reported_again(destination: LocalDestination) -> None:
    """A change is written before the line of the manifest, so a run that ends in between omits no change."""
    destination.run(*map(ok, CODES))
    manifest = destination.manifest()
    size = (destination.own_directory / "manifest.jsonl").stat().st_size
    with files_limited_to(size), pytest.raises(StorageError):
        record(manifest, work("BR"), ok("BR"))
    kill(manifest)
    assert [line["code"] for line in destination.lines("changes.jsonl")] == ["BR"]
    assert changes_of_run(destination, ok("BR")) == ["new"]


def test_a_full_disk_does_not_damage_a_compaction(destination: LocalDestination) -> None:
    """If the compacted file does not fit, the old one stays, no temporary file is left, and the next run compacts."""
    destination.run_and_kill(ok("BR"), ok("CN"), unchanged("BR"))
    manifest = destination.manifest()
    with files_limited_to(200), pytest.raises(StorageError):
        manifest.close()
    assert len(destination.lines()) == 4
    assert [name for name in destination.names if name.endswith(".tmp")] == []
    assert open_files(destination.own_directory) == {}
    assert sorted(destination.known_entries()) == ["BR", "CN"]
    destination.run()
    assert len(destination.lines()) == 3


# Compaction


def test_superseded_lines_are_dropped_at_the_end(destination: LocalDestination) -> None:
    """A small manifest has one line for each code after a run, in the order in which they were last recorded."""
    destination.run(*map(ok, CODES))
    destination.run(unchanged("C1"), missing("C0"))
    expected = [(code, "ok") for code in CODES[2:]] + [("C1", "unchanged"), ("C0", "not_found")]
    assert [(line["code"], line["status"]) for line in destination.lines()[1:]] == expected


def test_a_file_without_superseded_lines_is_not_rewritten(destination: LocalDestination) -> None:
    """A file without superseded lines keeps its inode."""
    destination.run(ok("BR"))
    first = inode(destination.own_directory / "manifest.jsonl")
    destination.run(ok("CN"))
    assert inode(destination.own_directory / "manifest.jsonl") == first


def numbered_lines(count: int, size: int = 300) -> bytes:
    """Return the lines of many files, each at least `size` bytes long."""
    line = with_field("etag", "x" * size).replace(b'"CN"', b'"%07d"').replace(b'"cn.gif"', b'"%07d.gif"')
    return b"".join(line % (number, number) + b"\n" for number in range(count))


def test_a_large_manifest_is_compacted_only_if_it_is_worth_it(destination: LocalDestination) -> None:
    """A large file is appended to until a quarter of its lines are superseded, and then compacted."""
    destination.own_directory.mkdir()
    path = destination.own_directory / "manifest.jsonl"
    path.write_bytes(HEADER + numbered_lines(9000, 1000))
    first = inode(path)
    destination.run(*(unchanged(f"{number:07d}") for number in range(2990)))
    assert (inode(path), len(path.read_bytes().splitlines())) == (first, 11991)
    destination.run(*(unchanged(f"{number:07d}") for number in range(20)))
    assert inode(path) != first
    assert len(path.read_bytes().splitlines()) == 9001


def test_temporary_files_of_a_killed_compaction_are_removed(destination: LocalDestination) -> None:
    """The next `open` removes the temporary file of a process that was killed while it compacted, and nothing else."""
    destination.run(ok("BR"))
    (destination.own_directory / "manifest-0123456789abcdef.tmp").write_bytes(b"half")
    (destination.own_directory / "tmp").mkdir()
    (destination.own_directory / "tmp" / "0123456789abcdef").write_bytes(b"a body on its way")
    destination.manifest()
    assert sorted(path.name for path in destination.own_directory.iterdir() if "tmp" in path.name) == ["tmp"]
    assert (destination.own_directory / "tmp" / "0123456789abcdef").exists()


def test_a_temporary_file_that_is_being_written_stays(destination: LocalDestination) -> None:
    """If one process compacts while another opens, the temporary file of the first still becomes its manifest."""
    destination.run(ok("BR"))
    with replacing(destination.checksums, destination.own_directory / "manifest.lock") as file:
        file.write(b"compacted\n")
        assert list(destination.known_entries()) == ["BR"]
    assert destination.checksums.read_bytes() == b"compacted\n"
    assert [name for name in destination.names if name.endswith(".tmp")] == []


def test_replacing_is_all_or_nothing(destination: LocalDestination) -> None:
    """An exception during the write leaves the old file and no temporary file."""
    destination.run(ok("BR"))
    before = destination.checksums.read_bytes()

    def half() -> None:
        with replacing(destination.checksums, destination.own_directory / "manifest.lock") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert destination.checksums.read_bytes() == before
    assert [name for name in destination.names if name.endswith(".tmp")] == []


# Origins


def usage_error_of(destination: LocalDestination, **options: Any) -> str:
    """Return the message of the UsageError of an `open` that must not change anything."""
    before = {path: path.read_bytes() for path in destination.root.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        destination.manifest(**options)
    assert {path: path.read_bytes() for path in destination.root.rglob("*") if path.is_file()} == before
    return str(caught.value)


def test_another_origin_is_rejected(destination: LocalDestination) -> None:
    """A destination holds the files of one origin, and the message says how to accept another one."""
    destination.run(ok("BR"))
    (destination.own_directory / "manifest-0123456789abcdef.tmp").write_bytes(b"half")
    assert usage_error_of(destination, origin="https://example.com") == (
        "FLAGJOB_URL 'https://example.com': the destination was filled from https://example.org:8443 (manifest.jsonl); "
        "to go on, FLAGJOB_NEW_ORIGIN=accept"
    )
    assert "'built-in': the destination was filled from https://example.org:8443" in usage_error_of(
        destination, origin=DEMO_SERVER
    )


def test_the_demo_server_is_an_origin_too(destination: LocalDestination) -> None:
    """Files of the demo server are not mixed with those of another origin; a second demo run is accepted."""
    destination.run(ok("BR"), origin=DEMO_SERVER)
    destination.run(ok("BR"), origin=DEMO_SERVER)
    assert "filled from built-in" in usage_error_of(destination)


def test_a_new_origin_can_be_accepted(destination: LocalDestination) -> None:
    """The entries stay, and from then on the new origin is the one that needs no acceptance."""
    destination.run(ok("BR"), ok("CN"))
    destination.run_and_kill(ok("BR"), origin=DEMO_SERVER, accept=True)
    assert list(destination.known_entries(origin=DEMO_SERVER)) == ["CN", "BR"]
    assert destination.known_entries(origin=DEMO_SERVER)["CN"].url == f"{ORIGIN}/flags/cn.gif"
    assert "filled from built-in" in usage_error_of(destination)


@pytest.mark.parametrize(
    "header",
    [
        b'{"flagjob_manifest":1,"orig',
        b'{"flagjob_manifest":2,"origin":"x"}',
        b'{"flagjob_manifest":1}',
        b'{"flagjob_manifest":1,"origin":7}',
        b'["x"]',
    ],
)
def test_a_damaged_header_is_replaced(destination: LocalDestination, header: bytes) -> None:
    """A header without an origin rejects nobody; the entries stay, and the origin is recorded again."""
    destination.own_directory.mkdir()
    (destination.own_directory / "manifest.jsonl").write_bytes(header + b"\n" + GOOD)
    assert sorted(destination.known_entries()) == ["BR", "ZZ"]
    assert destination.lines()[0] == {"flagjob_manifest": 1, "origin": ORIGIN}


def test_one_shard_of_another_origin_rejects_all(destination: LocalDestination) -> None:
    """A manifest of the same shard count that has another origin stops each pod of the job."""
    destination.run(ok("BR"), shard=Shard(0, 2))
    destination.run(ok("BR"), shard=Shard(1, 2), origin=DEMO_SERVER, accept=True)
    assert "filled from built-in (manifest-1-of-2.jsonl)" in usage_error_of(destination, shard=Shard(0, 2))
    destination.run(shard=Shard(1, 2), accept=True)
    destination.run(shard=Shard(0, 2))


def test_manifests_of_another_shard_count_are_checked_before_adoption(destination: LocalDestination) -> None:
    """A new shard checks the origin of every manifest before it adopts; later only those of its own count."""
    destination.run(ok("BR"), origin=DEMO_SERVER)
    assert "filled from built-in (manifest.jsonl)" in usage_error_of(destination, shard=Shard(1, 2))
    destination.run(shard=Shard(1, 2), accept=True)
    destination.run(shard=Shard(1, 2))
    assert "filled from https://example.org:8443 (manifest-1-of-2.jsonl)" in usage_error_of(
        destination, shard=Shard(0, 3), origin=DEMO_SERVER
    )


# Shards


def test_a_new_shard_count_adopts_from_the_old_one(destination: LocalDestination) -> None:
    """Each new shard has the entries of its own codes from the old shards, and no others."""
    destination.run(*map(ok, CODES))
    for index in range(3):
        destination.run(shard=Shard(index, 3))
    for index in range(2):
        own_codes = {code for code in CODES if crc32(code.encode()) % 2 == index}
        assert set(destination.known_entries(shard=Shard(index, 2))) == own_codes
    names = sorted(f".flagjob/manifest-{index}-of-{count}.jsonl" for count in (2, 3) for index in range(count))
    assert [name for name in destination.names if "/manifest-" in name] == names
    whole = destination.own_directory / "manifest.jsonl"
    whole.unlink()
    assert set(destination.known_entries()) == set(CODES)


def test_adopted_lines_are_the_same_to_the_byte(destination: LocalDestination) -> None:
    """A new shard count adopts all fields, including the mark of a file that is gone."""
    destination.run(ok("BR"), ok("CN"))
    destination.run(missing("BR"))
    destination.run(shard=Shard(0, 2))
    assert sorted(destination.lines()[1:], key=str) == sorted(destination.lines("manifest-0-of-2.jsonl")[1:], key=str)
    assert changes_of_run(destination, missing("BR"), shard=Shard(0, 2)) == []


@pytest.mark.parametrize("counts", [(2, 3), (3, 2)])
def test_the_newest_check_wins(destination: LocalDestination, counts: tuple[int, int]) -> None:
    """If several manifests have a code, the entry checked last is adopted, in whatever order they are read."""
    early, late = counts
    destination.run(ok("BR", b"GIF89a old"), shard=Shard(0, early))
    destination.run(ok("BR", b"GIF89a new"), shard=Shard(0, late), at=NOON + A_DAY)
    destination.run(ok("CN"), shard=Shard(0, early), at=NOON + A_DAY)
    assert destination.known_entries(shard=ALL_CODES)["BR"].stored == file_of("BR", b"GIF89a new")


def test_of_equal_checks_one_wins(destination: LocalDestination) -> None:
    """Two manifests with the same time of check give one entry."""
    destination.run(ok("BR"), shard=Shard(0, 2))
    destination.run(ok("BR"), shard=Shard(0, 3))
    destination.run()
    assert [line.get("code") for line in destination.lines()] == [None, "BR"]


def test_damaged_lines_are_not_adopted(destination: LocalDestination) -> None:
    """Lines of several manifests are compared by their times, and a line without one is dropped."""
    destination.run(ok("BR"), shard=Shard(0, 2))
    destination.run(ok("BR"), shard=Shard(0, 3))
    with (destination.own_directory / "manifest-0-of-2.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many") + b"\n")
    assert list(destination.known_entries()) == ["BR"]


def test_old_manifests_are_adopted_once(destination: LocalDestination) -> None:
    """A shard that has a manifest adopts nothing more from other shard counts, and never changes their files."""
    destination.run(ok("BR"))
    destination.run(shard=Shard(0, 2))
    destination.run(ok("CN"))
    before = (destination.own_directory / "manifest.jsonl").read_bytes()
    assert list(destination.known_entries(shard=Shard(0, 2))) == ["BR"]
    assert (destination.own_directory / "manifest.jsonl").read_bytes() == before


def test_adoption_is_all_or_nothing(destination: LocalDestination) -> None:
    """A shard that was killed, or found the disk full, while it adopted begins again and omits nothing."""
    destination.run(*map(ok, CODES))
    with files_limited_to(1000), pytest.raises(StorageError):
        destination.manifest(shard=Shard(0, 2))
    assert not (destination.own_directory / "manifest-0-of-2.jsonl").exists()
    assert set(destination.known_entries(shard=Shard(0, 2))) == set(filter(Shard(0, 2).owns, CODES))


def test_adoption_does_not_repair_other_manifests(destination: LocalDestination) -> None:
    """Another pod may still append to the other manifests: only the own file is repaired."""
    destination.run(ok("BR"))
    with (destination.own_directory / "manifest.jsonl").open("ab") as file:
        file.write(b'{"code":"CN","ur')
    before = (destination.own_directory / "manifest.jsonl").read_bytes()
    assert list(destination.known_entries(shard=Shard(0, 2))) == ["BR"]
    assert (destination.own_directory / "manifest.jsonl").read_bytes() == before


# Two pods, one shard


def test_two_pods_may_run_the_same_shard(destination: LocalDestination) -> None:
    """Their lines alternate, each whole; each pod finds the other's entries, and none is lost."""
    first, second = destination.manifest(), destination.manifest()
    for number in range(20):
        record(first, work(f"A{number}"), ok(f"A{number}"))
        record(second, work(f"B{number}"), ok(f"B{number}"))
    assert first.find("b0.gif") == second.find("b0.gif") is not None
    first.close()
    second.close()
    expected = {f"{letter}{number}" for letter in "AB" for number in range(20)}
    assert set(destination.known_entries()) == expected
    assert len(destination.checksums.read_text().splitlines()) == 40


def test_pods_that_begin_together_share_a_file(destination: LocalDestination) -> None:
    """A manifest that another pod has just created, still empty, is not replaced."""
    destination.own_directory.mkdir()
    (destination.own_directory / "manifest.jsonl").touch()
    first = inode(destination.own_directory / "manifest.jsonl")
    destination.run_and_kill(ok("BR"))
    assert inode(destination.own_directory / "manifest.jsonl") == first
    assert [line.get("code") for line in destination.lines()] == [None, "BR"]


def test_the_compaction_of_one_pod_loses_nothing_of_the_other(destination: LocalDestination) -> None:
    """A pod whose file was replaced during the run merges its own lines with the new file's when it closes."""
    destination.run(ok("BR"))
    slow, fast = destination.manifest(), destination.manifest(at=NOON + A_DAY)
    record(slow, work("CN"), ok("CN"))
    record(fast, work("BR"), ok("BR", b"GIF89a 2"))
    record(fast, work("US"), ok("US"))
    fast.close()
    record(slow, work("DE"), ok("DE"))
    third = destination.manifest(at=NOON + 2 * A_DAY)
    record(third, work("US"), ok("US", b"GIF89a 3"))
    third.close()
    slow.close()
    found = {code: entry.stored and entry.stored.sha256 for code, entry in destination.known_entries().items()}
    assert found == {
        "BR": sha256(b"GIF89a 2").hexdigest(),
        "CN": file_of("CN").sha256,
        "DE": file_of("DE").sha256,
        "US": sha256(b"GIF89a 3").hexdigest(),
    }
    assert len(destination.lines()) == 5
    assert {line.partition("  ")[0] for line in destination.checksums.read_text().splitlines()} == set(found.values())


def test_compaction_keeps_lines_that_another_pod_appended(destination: LocalDestination) -> None:
    """A compaction keeps the lines of another pod that was killed after it appended them."""
    destination.run(ok("BR"))
    first, second = destination.manifest(), destination.manifest()
    record(first, work("BR"), unchanged("BR"))
    record(second, work("CN"), ok("CN"))
    kill(second)
    first.close()
    assert list(destination.known_entries()) == ["BR", "CN"]
    assert len(destination.lines()) == 3


def test_the_checksums_include_files_of_another_pod(destination: LocalDestination) -> None:
    """If the manifest was replaced during the run, SHA256SUMS is written, although this run has no new file."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    other = destination.own_directory / "other"
    other.write_bytes((destination.own_directory / "manifest.jsonl").read_bytes() + IN_FRONT)
    other.replace(destination.own_directory / "manifest.jsonl")
    record(manifest, work("BR"), unchanged("BR"))
    manifest.close()
    assert "us.gif" in destination.checksums.read_text()


def test_a_manifest_removed_during_the_run_is_written_again(destination: LocalDestination) -> None:
    """If the manifest is deleted during a run, it has the run's entries again at the end."""
    manifest = destination.manifest()
    record(manifest, work("BR"), ok("BR"))
    (destination.own_directory / "manifest.jsonl").unlink()
    record(manifest, work("CN"), ok("CN"))
    manifest.close()
    assert list(destination.known_entries()) == ["BR", "CN"]


def test_a_directory_removed_during_the_run_is_a_storage_error(destination: LocalDestination) -> None:
    """If the manifest cannot be written at the end, `close` raises."""
    manifest = destination.manifest()
    for path in destination.own_directory.iterdir():
        path.unlink()
    destination.own_directory.rmdir()
    with pytest.raises(StorageError, match="No such file or directory"):
        manifest.close()


def test_two_appending_processes_tear_no_line(destination: LocalDestination) -> None:
    """Two processes that append at full speed leave all their lines, and each of them whole."""
    with start_recorder(destination, "A") as first, start_recorder(destination, "B") as second:
        for process in (first, second):
            start_recording(process, 500)
        for process in (first, second):
            process.communicate(timeout=30)
    counts = Counter(line.get("code", "-")[0] for line in destination.lines())
    assert (counts["A"], counts["B"], len(destination.known_entries())) == (500, 500, 1000)


@pytest.mark.parametrize(
    ("recorded", "there"),
    [(b'"file":"br.gif"', b'"file":"cn.gif"'), (b'{"code"', b"[1]\n   "), (b'{"code"', b'"BR"\n  '), (b"{", b"\n")],
)
def test_a_line_of_another_file_is_not_used(destination: LocalDestination, recorded: bytes, there: bytes) -> None:
    """If the line at an indexed offset is not of the file that was asked for, the file has no entry."""
    destination.run(ok("BR"))
    manifest = destination.manifest()
    path = destination.own_directory / "manifest.jsonl"
    header, line = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + line.replace(recorded, there))
    assert manifest.find("br.gif") is None


def test_any_thread_may_find_while_another_one_records(destination: LocalDestination) -> None:
    """Without a lock, each look-up returns None or a whole entry of the code that was asked for."""
    manifest, done = destination.manifest(), Event()
    wrong: list[object] = []

    def ask() -> None:
        number = 0
        while not done.is_set():
            code = f"C{number % 50}"
            entry = manifest.find(f"{code.lower()}.gif")
            if entry is not None and (entry.code, entry.file) != (code, f"{code.lower()}.gif"):
                wrong.append(entry)
            number += 1

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        code = f"C{number % 50}"
        record(manifest, work(code), ok(code, str(number).encode()))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(destination.entries_of(manifest)) == 50


# All shards as one


def test_all_manifests_can_be_read_as_one(destination: LocalDestination) -> None:
    """Each code is read once, by its last check, from the manifests of all shards, and nothing is changed."""
    destination.run(ok("BR", b"GIF89a old"), ok("US"))
    destination.run(ok("BR"), shard=Shard(0, 2), at=NOON + A_DAY)
    destination.run(ok("CN"), shard=Shard(1, 2))
    with (destination.own_directory / "manifest-1-of-2.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many").replace(b'"cn.gif"', b'"zz.gif"') + b"\n")
    before = {name: (destination.root / name).read_bytes() for name in destination.names}
    found = {entry.code: entry.stored for entry in read_entries(destination.own_directory)}
    assert found == {code: file_of(code) for code in ("BR", "CN", "US")}
    assert {name: (destination.root / name).read_bytes() for name in destination.names} == before


def test_a_destination_without_manifest_has_no_entries(destination: LocalDestination) -> None:
    """An empty directory has no entries; a missing one is a storage error."""
    with pytest.raises(StorageError, match="No such file or directory"):
        list(read_entries(destination.own_directory))
    destination.own_directory.mkdir()
    assert list(read_entries(destination.own_directory)) == []


def test_lines_without_an_entry_are_skipped(destination: LocalDestination) -> None:
    """A line that names a code but is no record is in neither list of entries."""
    destination.run(ok("BR"))
    with (destination.own_directory / "manifest.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many") + b"\n")
    assert (
        [entry.code for entry in read_entries(destination.own_directory)] == list(destination.known_entries()) == ["BR"]
    )


def test_files_can_be_forgotten(destination: LocalDestination) -> None:
    """A forgotten file is in no manifest and no list of checksums, and is new when it comes again."""
    destination.run(ok("BR"), ok("DE"))
    destination.run(shard=Shard(0, 2))
    destination.run(shard=Shard(1, 2))
    forget(destination.own_directory, destination.checksums, ["br.gif", "xx.gif"])
    assert [entry.code for entry in read_entries(destination.own_directory)] == ["DE"]
    assert [destination.known_entries(**options).keys() for options in ({}, {"shard": Shard(0, 2)})] == [{"DE"}, set()]
    checksums = {name: (destination.root / name).read_text()[66:] for name in destination.names if "SUMS" in name}
    assert checksums == {"SHA256SUMS": "de.gif\n", "SHA256SUMS-0-of-2": "", "SHA256SUMS-1-of-2": "de.gif\n"}
    assert changes_of_run(destination, ok("BR"), shard=Shard(0, 2)) == ["new"]
    assert [line.get("code") for line in destination.lines("manifest-0-of-2.jsonl")] == [None, "BR"]


EARLY_FORGOTTEN = b'{"code":"BR","forgotten":true}\n'


def test_forgotten_codes_of_early_versions_stay_forgotten(destination: LocalDestination) -> None:
    """A line that forgets a code without its file takes back the lines of that code which stand before it."""
    destination.own_directory.mkdir()
    path = destination.own_directory / "manifest.jsonl"
    png = valid_lines(ok("BR")).replace(b"br.gif", b"br.png")
    path.write_bytes(HEADER + GOOD + png + IN_FRONT + EARLY_FORGOTTEN + b"[]\n")
    assert sorted(destination.known_entries()) == ["US", "ZZ"]
    path.write_bytes(HEADER + GOOD + EARLY_FORGOTTEN + IN_FRONT + png)
    assert [entry.file for entry in destination.known_entries().values()] == ["zz.gif", "us.gif", "br.png"]
    path.write_bytes(HEADER + GOOD + GOOD.replace(b'"BR"', b'"br"') + EARLY_FORGOTTEN)
    assert sorted(destination.known_entries()) == ["ZZ", "br"]
    destination.run()
    assert sorted(line.get("code", "") for line in destination.lines()) == ["", "ZZ", "br"]


def test_forget_changes_only_manifests_that_have_the_file(destination: LocalDestination) -> None:
    """The files of another shard keep their inodes."""
    destination.run(ok("BR"), shard=Shard(0, 2))
    destination.run(ok("CN"), shard=Shard(1, 2))
    before = {name: inode(destination.root / name) for name in destination.names if "1-of-2" in name}
    forget(destination.own_directory, destination.checksums, ["br.gif"])
    assert {name: inode(destination.root / name) for name in destination.names if "1-of-2" in name} == before
    assert len(destination.lines("manifest-1-of-2.jsonl")) == 2


# Size


def memory_of(act: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that a call leaves allocated, and the most that were allocated meanwhile."""
    tracemalloc.start()
    try:
        kept = act()
        held = tracemalloc.get_traced_memory()
        assert kept is not None
        return held
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_many_entries_take_little_memory(destination: LocalDestination) -> None:
    """An entry takes at most 72 bytes of memory, however long its line is, so a million fit into a small pod."""
    destination.own_directory.mkdir()
    (destination.own_directory / "manifest.jsonl").write_bytes(HEADER + numbered_lines(50_000))
    held, peak = memory_of(destination.manifest)
    assert held < 50_000 * 72
    assert peak < 50_000 * 110  # while the table grows, the old arrays and the new ones are there
    assert len(destination.entries_of(destination.manifest())) == 50_000


def test_damage_without_a_line_end_takes_no_memory(destination: LocalDestination) -> None:
    """A hole in the file, as after a power cut, is skipped block by block, however long it is."""
    destination.own_directory.mkdir()
    with (destination.own_directory / "manifest.jsonl").open("wb") as file:
        file.write(HEADER + IN_FRONT)
        file.seek(30_000_000, os.SEEK_CUR)
        file.write(b"\n" + GOOD)
    assert memory_of(destination.manifest)[1] < 5_000_000
    assert sorted(destination.known_entries()) == ["BR", "US", "ZZ"]


def test_a_query_is_recorded_as_its_digest(tmp_path: Path) -> None:
    """Two signed URLs have different records, and the signature is not written to the disk."""
    manifest = Manifest(tmp_path / ".flagjob", tmp_path / "SHA256SUMS", ManifestScope("https://example.org"))
    one, other = (
        manifest.recorded_url(f"https://example.org/br.gif?sig={secret}") for secret in ("hunter2", "hunter3")
    )
    assert one.startswith("https://example.org/br.gif?")
    assert "hunter" not in one
    assert one != other
    assert manifest.recorded_url("https://example.org/br.gif") == "https://example.org/br.gif"


@row(72)
def test_a_signed_url_is_recorded_without_its_signature(tmp_path: Path) -> None:
    """The rest of the query is recorded as it would be without a signature, and as earlier versions did."""
    scope = ManifestScope("https://example.org", ignored_parameters=("hdnts",))
    manifest = Manifest(tmp_path / ".flagjob", tmp_path / "SHA256SUMS", scope)
    queries = ["size=2", "X-Amz-Signature=1&size=2", "size=2&X-Amz-Signature=2&hdnts=3"]
    recorded = {manifest.recorded_url(f"https://example.org/br.gif?{query}") for query in queries}
    assert recorded == {"https://example.org/br.gif?0eb9ffa99adda464484afbb5"}
    assert manifest.recorded_url("https://example.org/br.gif?hdnts=1") == "https://example.org/br.gif"


@pytest.mark.parametrize(
    "template",
    [
        "https://example.org/{cc}.gif",
        "HTTPS://Example.ORG:8443/{CC}/{cc}.gif",
        "http://[::1]:80//a/./../{id}",
        "http://h/a;b=1/{id};c",
        "http://h/{id}?",
        "http://h/%7e/{cc}.gif",
    ],
)
def test_other_urls_are_recorded_in_their_normal_form(tmp_path: Path, template: str) -> None:
    """A URL without a query is recorded as it is put together from its parts: the scheme is in lower case."""
    manifest = Manifest(tmp_path / ".flagjob", tmp_path / "SHA256SUMS", ManifestScope("https://example.org"))
    url = UrlTemplate.parse(template).url("b-r")
    assert manifest.recorded_url(url) == urlsplit(url).geturl()
