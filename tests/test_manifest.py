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
from zlib import crc32

import pytest
from disk_calls import disk_calls
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits import files_limited_to

from job.atomic_write import replacing
from job.errors import StorageError, UsageError
from job.manifest import DEMO_SERVER, Change, Manifest, entries, forget
from job.model import Entry, InvalidItem, Result, Status, Stored, WorkItem

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


def let_go(manifest: Manifest) -> None:
    """End a run as SIGKILL does: its descriptors are closed, and nothing else happens."""
    for part in (manifest._journal, manifest._changes):  # noqa: SLF001  (no run ends itself like that)
        part.close()


class Place:
    """A destination, and the runs onto it: each opens a manifest, and the time of each is known."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = root / ".flagjob"
        self.sums = root / "SHA256SUMS"

    def manifest(self, *, at: datetime = NOON, accept: bool = False, **facts: Any) -> Manifest:
        """Open a manifest."""
        manifest = Manifest(self.own, self.sums, now=lambda: at, **{"origin": ORIGIN, **facts})
        manifest.open(accept_new_origin=accept)
        return manifest

    def run(self, *results: Result, **facts: Any) -> dict[Change, int]:
        """Open, record and close; give the counts."""
        manifest = self.manifest(**facts)
        for result in results:
            manifest.record(work(result.code, manifest.origin), result)
        manifest.close()
        return manifest.counts

    def killed(self, *results: Result, **facts: Any) -> None:
        """Open and record, and go no further."""
        manifest = self.manifest(**facts)
        for result in results:
            manifest.record(work(result.code, manifest.origin), result)
        let_go(manifest)

    def known(self, **facts: Any) -> dict[str, Entry]:
        """Give the entries that a run would find."""
        manifest = self.manifest(**facts)
        found = {entry.code: entry for entry in manifest.entries()}
        let_go(manifest)
        return found

    def lines(self, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
        """Read one of flagjob's own files; each line must be an object."""
        return [json.loads(line) for line in (self.own / name).read_bytes().splitlines()]

    @property
    def names(self) -> list[str]:
        """Everything below the destination, the lock aside."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(set(found) - {".flagjob/manifest.lock"})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def shard(index: int, count: int) -> dict[str, Any]:
    """Say which shard a manifest is of, as a run does."""
    return {"shard": index, "shards": count, "mine": lambda code: crc32(code.encode()) % count == index}


# What is recorded


def test_a_manifest_is_lines_of_json(place: Place) -> None:
    """The first line names the origin; each other one is flat, an entry, its fields in the order of the contract."""
    place.run(ok("BR"))
    header, line = place.lines()
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


def test_what_was_recorded_is_found(place: Place) -> None:
    """A code that a run recorded is known at once, and to the next run; another code is not."""
    manifest = place.manifest()
    manifest.record(work("BR"), ok("BR"))
    expected = Entry("BR", work("BR").url, "br.gif", Status.OK, file_of("BR"), AT_NOON, AT_NOON, 1, None)
    assert (manifest.find("BR"), manifest.find("CN")) == (expected, None)
    manifest.close()
    assert place.known() == {"BR": expected}


def test_nothing_is_known_before_it_is_open_or_after_it_is_closed(place: Place) -> None:
    """A thread that was given up may still ask: it is told nothing, and nothing breaks."""
    place.run(ok("BR"))
    manifest = Manifest(place.own, place.sums, origin=ORIGIN)
    before = manifest.find("BR")
    manifest.open(accept_new_origin=False)
    while_open = manifest.find("BR")
    manifest.close()
    assert (before, while_open is None, manifest.find("BR")) == (None, False, None)


def test_by_itself_a_manifest_takes_every_code_and_the_time_of_the_clock(place: Place) -> None:
    """Without a shard all codes are this run's, and entries are dated now, in UTC."""
    began = datetime.now(UTC).replace(microsecond=0)
    manifest = Manifest(place.own, place.sums, origin=ORIGIN)
    manifest.open(accept_new_origin=False)
    manifest.record(work("BR"), ok("BR"))
    entry = manifest.find("BR")
    assert entry is not None
    assert began <= datetime.fromisoformat(entry.checked_at) <= datetime.now(UTC)


def test_times_are_recorded_in_utc(place: Place) -> None:
    """Whatever the zone of the clock, texts of times compare as the times do."""
    place.run(ok("BR"), at=NOON.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert place.known()["BR"].checked_at == AT_NOON


def test_the_later_line_of_a_code_counts(place: Place) -> None:
    """Nothing is rewritten while a run goes on: a later line of the code takes the place of the earlier."""
    place.killed(ok("BR"), ok("CN"), unchanged("BR"))
    assert [line.get("code") for line in place.lines()] == [None, "BR", "CN", "BR"]
    assert {code: entry.status for code, entry in place.known().items()} == {"CN": "ok", "BR": "unchanged"}


def test_a_failure_keeps_the_older_file(place: Place) -> None:
    """Status, reason and attempts are those of the failed try; the file, its validators and the times stay."""
    place.run(ok("BR"))
    place.run(failed("BR"), at=NOON + A_DAY)
    expected = Entry("BR", work("BR").url, "br.gif", Status.ERROR, file_of("BR"), AT_NOON, AT_NOON, 4, "http_503")
    assert place.known() == {"BR": expected}


def test_a_first_failure_is_known_too(place: Place) -> None:
    """A code that never had a file has an entry without one, which no origin has vouched for."""
    place.run(failed("BR"))
    expected = Entry("BR", work("BR").url, "br.gif", Status.ERROR, None, "", None, 4, "http_503")
    assert place.known() == {"BR": expected}


def test_an_item_broken_off_is_recorded_and_one_never_begun_is_not(place: Place) -> None:
    """Cancelled after an attempt is the last thing known of a code; cancelled before one changes nothing."""
    place.run(ok("BR"), ok("CN"))
    begun = Result(Status.CANCELLED, None, "BR", reason="signal", attempts=2)
    place.run(begun, *(Result(Status.CANCELLED, None, code, reason="signal") for code in ("CN", "US")))
    found = {code: (entry.status, entry.reason, entry.stored is None) for code, entry in place.known().items()}
    assert found == {"BR": ("cancelled", "signal", False), "CN": ("ok", None, False)}


def test_invalid_items_are_never_recorded(place: Place) -> None:
    """What is no code has no entry."""
    manifest = place.manifest()
    manifest.record(InvalidItem("../x"), Result(Status.ERROR, None, "../x", reason="invalid_code", attempts=1))
    assert list(manifest.entries()) == []


def test_unchanged_renews_the_check_and_not_the_change(place: Place) -> None:
    """The origin was asked later than the file changed; validators are those of the last answer."""
    place.run(ok("BR"))
    newer = replace(file_of("BR"), etag='"2"')
    place.run(Result(Status.UNCHANGED, newer, "BR", attempts=1), at=NOON + A_DAY)
    expected = Entry("BR", work("BR").url, "br.gif", Status.UNCHANGED, newer, "2026-11-23T12:00:00Z", AT_NOON, 1, None)
    assert place.known() == {"BR": expected}


def test_what_nobody_asked_about_is_counted_and_leaves_no_line(place: Place) -> None:
    """A file left alone, or a 404 believed without asking, must not look as if the origin had said it again."""
    place.run(ok("BR"), missing("ZZ"))
    before = place.known()
    counts = place.run(unchanged("BR", attempts=0), missing("ZZ", attempts=0), failed("BR", 0), at=NOON + A_DAY)
    assert place.known() == before
    assert counts == {Change.NEW: 0, Change.CHANGED: 0, Change.GONE: 0, Change.UNCHANGED: 1}


def test_what_nobody_asked_about_is_recorded_where_it_says_something(place: Place) -> None:
    """A code without entry, or a file other than the recorded one, is learned also without an attempt."""
    place.run(unchanged("BR", attempts=0), failed("CN", attempts=0))
    moved = replace(file_of("BR"), version="18")
    place.run(Result(Status.UNCHANGED, moved, "BR"))
    assert {code: entry.stored for code, entry in place.known().items()} == {"CN": None, "BR": moved}


@pytest.mark.parametrize("result", [failed("BR"), missing("BR")], ids=["error", "not found"])
@pytest.mark.parametrize(
    "other", [work("BR", f"{ORIGIN}/v2"), WorkItem("BR", work("BR").url, "br.png")], ids=["url", "file"]
)
def test_a_file_vouches_for_no_other_url(place: Place, result: Result, other: WorkItem) -> None:
    """When another URL, or file name, fails, the older file stays listed, with nothing that vouches for it."""
    place.run(ok("BR"))
    manifest = place.manifest()
    manifest.record(other, result)
    entry = manifest.find("BR")
    unproven = replace(file_of("BR"), etag=None, last_modified=None, version=None)
    assert entry is not None
    assert (entry.url, entry.file, entry.stored) == (other.url, "br.gif", unproven)


def test_the_built_in_origins_urls_are_recorded_without_its_port(place: Place) -> None:
    """It has another port each time: entries, and whoever compares with them, leave out scheme, host and port."""
    manifest = place.manifest(origin=DEMO_SERVER)
    manifest.record(work("BR", "http://127.0.0.1:41234"), ok("BR"))
    entry = manifest.find("BR")
    assert entry is not None
    assert entry.url == manifest.recorded_url("http://127.0.0.1:9/flags/br.gif") == "/flags/br.gif"
    assert manifest.recorded_url("http://localhost:1/a/b") == "/a/b"


def test_other_origins_urls_are_recorded_whole(place: Place) -> None:
    """A validator is for one URL, host and query included."""
    assert place.manifest().recorded_url(f"{ORIGIN}/a/b") == f"{ORIGIN}/a/b"


# What changed


def test_changes_are_told_as_they_happen(place: Place) -> None:
    """Each new, changed or gone file is a line before the run has ended; the summary is the last one."""
    place.run(ok("BR"), ok("CN"), ok("US"), missing("ZZ"))
    manifest = place.manifest(at=NOON + A_DAY)
    old, new = (sha256(data).hexdigest() for data in (b"GIF89a", b"GIF89a 2"))
    for result in (ok("BR", b"GIF89a 2"), missing("CN"), unchanged("US"), ok("FR"), missing("ZZ"), failed("DE")):
        manifest.record(work(result.code), result)
    expected: list[dict[str, object]] = [
        {"change": "changed", "code": "BR", "file": "br.gif", "old_sha256": old, "sha256": new},
        {"change": "gone", "code": "CN", "file": "cn.gif", "sha256": old},
        {"change": "new", "code": "FR", "file": "fr.gif", "sha256": old},
    ]
    assert place.lines("changes.jsonl") == expected
    manifest.close()
    times = {"started_at": "2026-11-23T12:00:00Z", "finished_at": "2026-11-23T12:00:00Z"}
    summary = {"change": "summary", "new": 1, "changed": 1, "gone": 1, "unchanged": 1, **times}
    assert place.lines("changes.jsonl") == [*expected, summary]
    assert list(place.lines("changes.jsonl")[0]) == ["change", "code", "file", "old_sha256", "sha256"]


def test_the_summary_tells_when_the_run_began_and_ended(place: Place) -> None:
    """The two times are those of open and close."""
    times = iter([NOON, NOON + A_DAY])
    manifest = Manifest(place.own, place.sums, origin=ORIGIN, now=lambda: next(times))
    manifest.open(accept_new_origin=False)
    manifest.close()
    summary = place.lines("changes.jsonl")[-1]
    assert (summary["started_at"], summary["finished_at"]) == (AT_NOON, "2026-11-23T12:00:00Z")


def told(place: Place, *results: Result, **facts: Any) -> list[str]:
    """Run, and give the kinds of change that it told."""
    place.run(*results, **facts)
    name = f"changes-0-of-{facts['shards']}.jsonl" if "shards" in facts else "changes.jsonl"
    return [line["change"] for line in place.lines(name)[:-1]]


def test_gone_is_told_once(place: Place) -> None:
    """Only the step from a file to not found is told, also where errors lie between two answers."""
    place.run(ok("BR"))
    said = [told(place, result) for result in (missing("BR"), missing("BR"), failed("BR"), missing("BR"))]
    assert said == [["gone"], [], [], []]
    assert place.known()["BR"].stored == file_of("BR")


@pytest.mark.parametrize(
    ("old", "new", "file"), [("BR", "br", "br.gif"), ("x", "x.gif", "x.gif"), ("CN", "cn", "cn"), ("cn", "CN", "cn")]
)
def test_a_file_is_one_codes_only(place: Place, old: str, new: str, file: str) -> None:
    """A template that reads items in another way gives a file to another code, and the one before has it no more."""
    place.run(ok("US"))
    for code, data in ((old, b"GIF89a"), (new, b"GIF87a")):
        manifest = place.manifest()
        stored = Stored(file, len(data), sha256(data).hexdigest(), "image/gif")
        manifest.record(WorkItem(code, f"{ORIGIN}/{code}", file), Result(Status.OK, stored, code, attempts=1))
        manifest.close()
    assert set(place.known()) == {"US", new}
    digest = sha256(b"GIF87a").hexdigest()
    assert [line for line in place.sums.read_text().splitlines() if line.endswith(f" {file}")] == [f"{digest}  {file}"]


def test_what_another_code_did_not_get_stays_the_first_ones(place: Place) -> None:
    """A failure takes nothing over, nor does a file of another name."""
    place.run(ok("BR"), ok("br.gif"))
    manifest = place.manifest()
    manifest.record(WorkItem("br", f"{ORIGIN}/br", "br.gif"), missing("br"))
    manifest.close()
    assert {code for code, entry in place.known().items() if entry.stored} == {"BR", "br.gif"}


def test_a_power_cut_finds_one_manifest_or_the_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compacted is on the disk before it has its name, and its name before the run has ended."""
    place.run(ok("BR"), ok("BR", b"GIF87a"))
    calls = disk_calls(monkeypatch, place.root)
    place.run(ok("BR"), ok("CN"))
    for name, directory in ((".flagjob/manifest.jsonl", ".flagjob"), ("SHA256SUMS", ".")):
        at = calls.index(f"{name} is named")
        assert calls[at - 1].endswith(".tmp is synced")
        assert calls[at + 1] == f"{directory} is synced"


def test_only_a_file_can_be_gone(place: Place) -> None:
    """The mark that keeps it from being told twice is on the lines of files that stay, and on no others."""
    place.run(ok("BR"), ok("CN"))
    place.run(missing("BR"), missing("ZZ"), missing("CN"))
    place.run(failed("BR"), ok("CN"))
    assert {line["code"]: line.get("gone") for line in place.lines()[1:]} == {"BR": True, "ZZ": None, "CN": None}


def test_what_was_gone_and_is_back_is_new(place: Place) -> None:
    """Whoever followed the changes has dropped it, so it is told, whatever its bytes; it may go once more."""
    place.run(ok("BR"))
    back = [missing("BR"), failed("BR"), unchanged("BR"), missing("BR"), ok("BR", b"GIF89a 2"), unchanged("BR")]
    assert [told(place, result) for result in back[:5]] == [["gone"], [], ["new"], ["gone"], ["new"]]


def test_the_time_of_change_is_that_of_the_bytes(place: Place) -> None:
    """A file that was gone and is back with the same bytes has not changed since it came."""
    for day, result in enumerate([ok("BR"), missing("BR"), ok("BR"), ok("BR", b"GIF89a 2")]):
        place.run(result, at=NOON + day * A_DAY)
        expected = "2026-11-25T12:00:00Z" if day == 3 else AT_NOON
        assert place.known()["BR"].changed_at == expected


def test_a_file_under_a_new_name_is_new(place: Place) -> None:
    """Where the template's suffix changed, the same bytes are another file."""
    place.run(ok("BR"))
    manifest = place.manifest()
    data = file_of("BR", suffix=".png")
    manifest.record(work("BR", suffix=".png"), Result(Status.OK, data, "BR", attempts=1))
    manifest.close()
    assert place.lines("changes.jsonl")[0] == {"change": "new", "code": "BR", "file": "br.png", "sha256": data.sha256}
    assert place.sums.read_text() == f"{data.sha256}  br.png\n"


def test_a_200_with_the_bytes_on_record_is_no_change(place: Place) -> None:
    """An origin without validators sends the file each time: only its digest tells whether it changed."""
    place.run(ok("BR"))
    again = Result(Status.OK, replace(file_of("BR"), etag='"2"', version="18"), "BR", attempts=1)
    assert place.run(again)[Change.UNCHANGED] == 1
    assert told(place, ok("BR")) == []


def test_ten_older_change_files_stay(place: Place) -> None:
    """Of twelve runs the last has the plain name, the ten before it are named by their time, the first is removed."""
    for number in range(12):
        place.run(ok(f"X{number}"))
        seconds = (NOON + number * A_DAY).timestamp()
        os.utime(place.own / "changes.jsonl", (seconds, seconds))
    dates = [f"changes-2026{date}T120000Z.jsonl" for date in (*(f"11{day}" for day in range(23, 31)), "1201", "1202")]
    assert sorted(path.name for path in place.own.glob("changes-*")) == dates
    assert place.lines("changes.jsonl")[0]["code"] == "X11"
    assert [place.lines(name)[0]["code"] for name in dates] == [f"X{number}" for number in range(1, 11)]


def test_runs_within_one_second_keep_their_change_files_apart(place: Place) -> None:
    """The time alone does not name a file: none is overwritten, and still the oldest ones go."""
    for number in range(14):
        place.run(ok(f"X{number}"))
        os.utime(place.own / "changes.jsonl", (NOON.timestamp(), NOON.timestamp()))
    names = [f"changes-20261122T120000Z-{number}.jsonl" for number in range(3, 13)]
    assert sorted(path.name for path in place.own.glob("changes-*")) == sorted(names)
    assert [place.lines(name)[0]["code"] for name in names] == [f"X{number}" for number in range(3, 13)]


def test_a_shards_change_files_are_its_own(place: Place) -> None:
    """A shard's name is in the names of its files, and no shard counts or removes another's."""
    for number in range(12):
        for index in (1, 11):
            place.run(ok(f"X{number}"), shard=index, shards=12)
        place.run(ok(f"X{number}"))
    counts = Counter(path.name.partition("-20")[0] for path in place.own.glob("changes-*T*Z*.jsonl"))
    assert counts == {"changes-1-of-12": 10, "changes-11-of-12": 10, "changes": 10}
    own = {path.name for path in place.own.iterdir()}
    assert {"changes.jsonl", "changes-1-of-12.jsonl", "manifest-1-of-12.jsonl"} <= own


# SHA256SUMS


def test_the_sums_pass_sha256sum(place: Place) -> None:
    """`sha256sum -c` agrees with the list, which holds every file, also those whose code is gone."""
    for code in ("BR", "CN", "7/66"):
        path = place.root / file_of(code).path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(code.encode())
    place.run(*(ok(code, code.encode()) for code in ("BR", "CN", "7/66")), failed("DE"), missing("ZZ"))
    place.run(missing("CN"))
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=place.root, check=True, capture_output=True, text=True)
    assert sorted(done.stdout.splitlines()) == ["7/66.gif: OK", "br.gif: OK", "cn.gif: OK"]


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_the_sums_are_only_rewritten_where_they_differ(place: Place) -> None:
    """A run that brings no new bytes leaves the file alone; one that does, or that finds it missing, makes it anew."""
    place.run(ok("BR"), ok("CN"))
    first = inode(place.sums)
    place.run(unchanged("BR"), missing("CN"), failed("US"))
    assert inode(place.sums) == first
    place.run(ok("BR", b"GIF89a 2"))
    assert f"{sha256(b'GIF89a 2').hexdigest()}  br.gif" in place.sums.read_text()
    place.run(ok("US"))
    assert "us.gif" in place.sums.read_text()
    place.sums.unlink()
    place.run(unchanged("US"))
    assert len(place.sums.read_text().splitlines()) == 3


def test_the_sums_catch_up_after_a_killed_run(place: Place) -> None:
    """What a killed run recorded and could not list is listed by the next run, although nothing is new to that."""
    place.run(ok("BR"))
    place.killed(ok("CN"))
    assert "cn.gif" not in place.sums.read_text()
    place.run(unchanged("BR"), unchanged("CN"))
    assert "cn.gif" in place.sums.read_text()


def test_the_sums_catch_up_where_nobody_knows_how_the_run_before_ended(place: Place) -> None:
    """Somebody tidied the lists of changes away: the sums are made anew, as after a killed run."""
    place.run(ok("BR"))
    place.killed(ok("CN"))
    (place.own / "changes.jsonl").unlink()
    place.run(unchanged("BR"), unchanged("CN"))
    assert "cn.gif" in place.sums.read_text()


def test_shards_have_sums_of_their_own(place: Place) -> None:
    """Pods that share a destination do not overwrite each other's list."""
    place.run(ok("BR"), shard=0, shards=2)
    place.run(ok("CN"), shard=1, shards=2)
    lists = {name: (place.root / name).read_text()[66:] for name in place.names if "SUMS" in name}
    assert lists == {"SHA256SUMS-0-of-2": "br.gif\n", "SHA256SUMS-1-of-2": "cn.gif\n"}


# Crashes


def test_entries_survive_a_cut_at_any_byte(place: Place) -> None:
    """Wherever a crash ends the file it opens, the whole lines before the cut are known, and new ones can be added."""
    place.run(ok("BR"), missing("ZZ"))
    whole = (place.own / "manifest.jsonl").read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({*range(0, len(whole) + 1, 4), *(end + step for end in ends for step in (-1, 0, 1))}):
        (place.own / "manifest.jsonl").write_bytes(whole[:cut])
        manifest = place.manifest()
        # a last line that lacks nothing but its end is whole, too
        known = [code for code, end in zip(("BR", "ZZ"), ends[1:], strict=True) if cut >= end]
        if cut < ends[0]:
            known = []
        assert [entry.code for entry in manifest.entries()] == known
        manifest.record(work("US"), ok("US"))
        manifest.close()
        assert list(place.known()) == [*known, "US"]
        assert place.lines()[0] == {"flagjob_manifest": 1, "origin": ORIGIN}
        assert len(place.lines()) == len(known) + 2


def test_a_killed_run_keeps_what_it_did(place: Place) -> None:
    """Each result is in the file when `record` returns."""
    place.killed(ok("BR"), ok("CN"))
    assert list(place.known()) == ["BR", "CN"]


RECORDER = """
import sys
from pathlib import Path
from job.manifest import Manifest
from job.model import Result, Status, Stored, WorkItem

root = Path(sys.argv[1])
manifest = Manifest(root / ".flagjob", root / "SHA256SUMS", origin="https://example.org:8443")
manifest.open(accept_new_origin=False)
print("ready", flush=True)
for number in range(int(sys.stdin.readline())):
    code = f"{sys.argv[2]}{number}"
    stored = Stored(code, 6, f"{number:064x}", None, "x" * number)
    item = WorkItem(code, "https://example.org:8443/" + code, code)
    manifest.record(item, Result(Status.OK, stored, code, attempts=1))
    print(code, flush=True)
"""


def recorder(place: Place, letter: str) -> "subprocess.Popen[str]":
    """Start a process that opens a manifest and, once it is told how many, records that many codes, saying each."""
    command = [sys.executable, "-c", RECORDER, str(place.root), letter]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert answer(process) == "ready"
    return process


def tell(process: "subprocess.Popen[str]", number: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("lines", [1, 2, 30, 333])
def test_a_process_killed_in_the_middle_loses_nothing_that_it_recorded(place: Place, lines: int) -> None:
    """SIGKILL at any moment: all that was recorded is known afterwards, and the file goes on from there."""
    with recorder(place, "K") as process:
        tell(process, 1_000_000)
        recorded = [answer(process) for _ in range(lines)]
        process.kill()
        recorded += process.communicate(timeout=30)[0].split()
    assert set(recorded) <= set(place.known())
    place.run(ok("BR"))
    assert {"BR", *recorded} <= set(place.known())
    assert len(place.lines()) == len(place.known()) + 1


def valid_lines(*results: Result) -> bytes:
    """Give the lines that a run writes for these results, without the header."""
    with TemporaryDirectory() as root:
        place = Place(Path(root))
        place.run(*results)
        return b"".join((place.own / "manifest.jsonl").read_bytes().splitlines(keepends=True)[1:])


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
def test_a_damaged_line_is_ignored(place: Place, line: bytes) -> None:
    """Bytes that are no entry, wherever they are, cost at most themselves: what is around them is known."""
    place.own.mkdir()
    (place.own / "manifest.jsonl").write_bytes(HEADER + line + b"\n" + GOOD + line + b"\n")
    assert sorted(place.known()) == ["BR", "ZZ"]
    place.run(ok("US"))
    assert sorted(place.known()) == ["BR", "US", "ZZ"]


@pytest.mark.parametrize("name", ["sha256", "bytes"])
def test_half_a_file_is_none(place: Place, name: str) -> None:
    """An entry that lacks the digest or the size of its file has no file that could be trusted."""
    place.own.mkdir()
    (place.own / "manifest.jsonl").write_bytes(HEADER + with_field(name, None) + b"\n")
    assert [entry.stored for entry in place.known().values()] == [None]


def test_a_damaged_line_takes_nothing_from_the_lines_before_it(place: Place) -> None:
    """The last line of a code that can be read is the one that counts."""
    place.killed(ok("BR"), ok("CN"))
    with (place.own / "manifest.jsonl").open("ab") as file:
        file.write(valid_lines(failed("BR")).replace(b"http_503", b"http\x00503"))
    assert place.known()["BR"].status == Status.OK


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
def test_no_bytes_can_break_a_manifest(data: bytes, headed: bool) -> None:  # noqa: FBT001  (hypothesis passes it)
    """Whatever the file holds, it can be opened, read, added to and closed, and the good lines in front survive."""
    with TemporaryDirectory() as root:
        place = Place(Path(root))
        place.own.mkdir()
        (place.own / "manifest.jsonl").write_bytes((HEADER + IN_FRONT if headed else b"") + data)
        manifest = place.manifest(accept=True)
        manifest.record(work("FR"), ok("FR"))
        manifest.close()
        known = place.known()
        assert known["FR"].stored == file_of("FR")
        assert not headed or known["US"].stored == file_of("US")


@settings(deadline=None)
@given(
    code=st.text(min_size=1),
    texts=st.tuples(*[st.none() | st.text()] * 6),
    size=st.integers(0, 2**53),
    status=st.sampled_from(Status),
)
def test_any_text_comes_back_as_it_was(code: str, texts: tuple[str | None, ...], size: int, status: Status) -> None:
    """Validators, types and reasons are what the origin said, to the letter: quotes, line ends and NULs included."""
    content_type, etag, last_modified, version, redirected_to, reason = texts
    data = Stored("x.gif", size, "0" * 64, content_type, etag, last_modified, version, redirected_to or None)
    item = WorkItem(code, f"{ORIGIN}/x", "x.gif")
    with TemporaryDirectory() as root:
        place = Place(Path(root))
        manifest = place.manifest()
        manifest.record(item, Result(Status.OK, data, code, reason=reason, attempts=3))
        manifest.record(item, Result(status, data, code, reason=reason, attempts=3))
        expected = Entry(code, item.url, "x.gif", status, data, AT_NOON, AT_NOON, 3, reason)
        assert (manifest.find(code), list(manifest.entries())) == (expected, [expected])
        manifest.close()
        assert place.known() == {code: expected}


@pytest.mark.parametrize("size", [1500, 2000, 60_000, 140_000, 900_000])
def test_long_lines_are_read_whole(place: Place, size: int) -> None:
    """An origin may send validators of any length that a header can have."""
    stored = replace(file_of("BR"), etag="x" * size)
    place.run(ok("AA"), Result(Status.OK, stored, "BR", attempts=1), ok("CN"))
    assert {code: entry.stored for code, entry in place.known().items()} == {
        "AA": file_of("AA"),
        "BR": stored,
        "CN": file_of("CN"),
    }


# The disk


def open_files(below: Path) -> dict[str, int]:
    """Give the descriptors of this process under which files below a directory are open, also removed ones."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = link.readlink()
            if target.is_relative_to(below):
                found[target.name] = int(link.name)
    return found


def test_files_are_let_go_of(place: Place) -> None:
    """A closed manifest keeps no descriptor, also where inheriting, rewriting and merging opened more."""
    place.run(ok("BR"))
    place.run(ok("CN"), accept=True, origin=DEMO_SERVER)
    manifest = place.manifest(**shard(crc32(b"CN") % 2, 2), origin=DEMO_SERVER)
    (place.own / "manifest-0-of-2.jsonl").unlink(missing_ok=True)
    (place.own / "manifest-1-of-2.jsonl").unlink(missing_ok=True)
    manifest.close()
    list(entries(place.own))
    forget(place.own, place.sums, ["BR"])
    assert open_files(place.own) == {}


def test_a_disk_that_cannot_be_read_is_a_storage_error(place: Place) -> None:
    """What the operating system says about a look-up becomes one clear message, with the path."""
    place.run(ok("BR"))
    manifest = place.manifest()
    descriptor = open_files(place.own)["manifest.jsonl"]
    unreadable = os.open("/dev/null", os.O_WRONLY)
    os.dup2(unreadable, descriptor)
    os.close(unreadable)
    with pytest.raises(StorageError) as caught:
        manifest.find("BR")
    assert str(caught.value) == f"{place.own}/manifest.jsonl: Bad file descriptor"
    os.close(descriptor)


@pytest.mark.parametrize("name", ["manifest.jsonl", "changes.jsonl", "manifest.lock", "manifest-0-of-2.jsonl"])
def test_a_directory_in_the_way_is_a_storage_error(place: Place, name: str) -> None:
    """Whatever stands where a file should be is told by its path, and stays."""
    (place.own / name).mkdir(parents=True)
    with pytest.raises(StorageError, match="Is a directory"):
        place.manifest()
    assert (place.own / name).is_dir()


def test_a_destination_that_cannot_be_is_a_storage_error(tmp_path: Path) -> None:
    """A file where the directory should be is one clear error."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError) as caught:
        Place(tmp_path / "file").manifest()
    assert str(caught.value) == f"{tmp_path}/file/.flagjob: Not a directory"


def test_a_full_disk_costs_one_line(place: Place) -> None:
    """A result that does not fit is a storage error; the part of its line that did fit harms neither neighbour."""
    manifest = place.manifest()
    manifest.record(work("BR"), ok("BR"))
    with files_limited_to((place.own / "manifest.jsonl").stat().st_size + 40), pytest.raises(StorageError) as caught:
        manifest.record(work("CN"), failed("CN"))
    assert str(caught.value) == f"{place.own}/manifest.jsonl: File too large"
    manifest.record(work("US"), ok("US"))
    assert [entry.code for entry in manifest.entries()] == ["BR", "US"]
    manifest.close()
    assert list(place.known()) == ["BR", "US"]
    assert len(place.lines()) == 3


def test_a_full_disk_spoils_no_compaction(place: Place) -> None:
    """When the compacted copy does not fit, the file stays as it was, no draft is left, and the next run compacts."""
    place.killed(ok("BR"), ok("CN"), unchanged("BR"))
    manifest = place.manifest()
    with files_limited_to(200), pytest.raises(StorageError):
        manifest.close()
    assert len(place.lines()) == 4
    assert [name for name in place.names if name.endswith(".tmp")] == []
    assert open_files(place.own) == {}
    assert sorted(place.known()) == ["BR", "CN"]
    place.run()
    assert len(place.lines()) == 3


# Compaction


def test_superseded_lines_are_dropped_at_the_end(place: Place) -> None:
    """A small manifest has one line a code after each run, in the order in which they were last recorded."""
    place.run(*map(ok, CODES))
    place.run(unchanged("C1"), missing("C0"))
    expected = [(code, "ok") for code in CODES[2:]] + [("C1", "unchanged"), ("C0", "not_found")]
    assert [(line["code"], line["status"]) for line in place.lines()[1:]] == expected


def test_nothing_is_rewritten_where_nothing_is_superseded(place: Place) -> None:
    """A file that has nothing to lose keeps its inode."""
    place.run(ok("BR"))
    first = inode(place.own / "manifest.jsonl")
    place.run(ok("CN"))
    assert inode(place.own / "manifest.jsonl") == first


def numbered(count: int, size: int = 300) -> bytes:
    """Give the lines of many codes, each of at least some bytes."""
    line = with_field("etag", "x" * size).replace(b'"CN"', b'"%07d"')
    return b"".join(line % number + b"\n" for number in range(count))


def test_a_large_manifest_is_only_rewritten_when_it_pays(place: Place) -> None:
    """A run over few codes of many appends to the file; when a quarter of the lines count no more, it is compacted."""
    place.own.mkdir()
    path = place.own / "manifest.jsonl"
    path.write_bytes(HEADER + numbered(9000, 1000))
    first = inode(path)
    place.run(*(unchanged(f"{number:07d}") for number in range(2990)))
    assert (inode(path), len(path.read_bytes().splitlines())) == (first, 11991)
    place.run(*(unchanged(f"{number:07d}") for number in range(20)))
    assert inode(path) != first
    assert len(path.read_bytes().splitlines()) == 9001


def test_drafts_of_a_killed_compaction_are_removed(place: Place) -> None:
    """What a process left that was killed while it compacted goes when the next one opens; nothing else does."""
    place.run(ok("BR"))
    (place.own / "manifest-0123456789abcdef.tmp").write_bytes(b"half")
    (place.own / "tmp").mkdir()
    (place.own / "tmp" / "0123456789abcdef").write_bytes(b"a body on its way")
    place.manifest()
    assert sorted(path.name for path in place.own.iterdir() if "tmp" in path.name) == ["tmp"]
    assert (place.own / "tmp" / "0123456789abcdef").exists()


def test_a_draft_that_is_being_written_is_left_alone(place: Place) -> None:
    """One pod may compact while another opens: the first one's draft still becomes its file."""
    place.run(ok("BR"))
    with replacing(place.sums, place.own / "manifest.lock") as file:
        file.write(b"compacted\n")
        assert list(place.known()) == ["BR"]
    assert place.sums.read_bytes() == b"compacted\n"
    assert [name for name in place.names if name.endswith(".tmp")] == []


def test_replacing_is_all_or_nothing(place: Place) -> None:
    """An exception on the way leaves the old file, and no draft."""
    place.run(ok("BR"))
    before = place.sums.read_bytes()

    def half() -> None:
        with replacing(place.sums, place.own / "manifest.lock") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert place.sums.read_bytes() == before
    assert [name for name in place.names if name.endswith(".tmp")] == []


# Origins


def refused(place: Place, **facts: Any) -> str:
    """Give the message of a refusal, which must come before anything is touched."""
    before = {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        place.manifest(**facts)
    assert {path: path.read_bytes() for path in place.root.rglob("*") if path.is_file()} == before
    return str(caught.value)


def test_another_origin_is_refused(place: Place) -> None:
    """One destination holds one origin's files, so a wrong setting mixes no two; the message says how to go on."""
    place.run(ok("BR"))
    (place.own / "manifest-0123456789abcdef.tmp").write_bytes(b"half")
    assert refused(place, origin="https://example.com") == (
        "FLAGJOB_URL 'https://example.com': the destination was filled from https://example.org:8443 (manifest.jsonl); "
        "to go on, FLAGJOB_NEW_ORIGIN=accept"
    )
    assert "'built-in': the destination was filled from https://example.org:8443" in refused(place, origin=DEMO_SERVER)


def test_the_built_in_origin_is_an_origin_too(place: Place) -> None:
    """A run from a real origin onto the demonstration's files is refused; one more demonstration is not."""
    place.run(ok("BR"), origin=DEMO_SERVER)
    place.run(ok("BR"), origin=DEMO_SERVER)
    assert "filled from built-in" in refused(place)


def test_a_new_origin_can_be_accepted(place: Place) -> None:
    """What is known stays, and from then on the new origin is the one that needs no acceptance."""
    place.run(ok("BR"), ok("CN"))
    place.killed(ok("BR"), origin=DEMO_SERVER, accept=True)
    assert list(place.known(origin=DEMO_SERVER)) == ["CN", "BR"]
    assert place.known(origin=DEMO_SERVER)["CN"].url == f"{ORIGIN}/flags/cn.gif"
    assert "filled from built-in" in refused(place)


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
def test_a_damaged_header_is_made_anew(place: Place, header: bytes) -> None:
    """A header that says nothing refuses nobody; entries stay, and the origin is on record again."""
    place.own.mkdir()
    (place.own / "manifest.jsonl").write_bytes(header + b"\n" + GOOD)
    assert sorted(place.known()) == ["BR", "ZZ"]
    assert place.lines()[0] == {"flagjob_manifest": 1, "origin": ORIGIN}


def test_one_shard_of_another_origin_refuses_all(place: Place) -> None:
    """The pods of a job agree: a manifest of the same shard count that is of another origin stops each of them."""
    place.run(ok("BR"), shard=0, shards=2)
    place.run(ok("BR"), shard=1, shards=2, origin=DEMO_SERVER, accept=True)
    assert "filled from built-in (manifest-1-of-2.jsonl)" in refused(place, shard=0, shards=2)
    place.run(shard=1, shards=2, accept=True)
    place.run(shard=0, shards=2)


def test_an_older_shard_count_counts_until_it_was_read(place: Place) -> None:
    """A new shard looks at every manifest before it inherits; what an older count left then refuses nobody."""
    place.run(ok("BR"), origin=DEMO_SERVER)
    assert "filled from built-in (manifest.jsonl)" in refused(place, shard=1, shards=2)
    place.run(shard=1, shards=2, accept=True)
    place.run(shard=1, shards=2)
    assert "filled from https://example.org:8443 (manifest-1-of-2.jsonl)" in refused(
        place, shards=3, origin=DEMO_SERVER
    )


# Shards


def test_a_new_shard_count_reads_the_manifests_of_the_old_one(place: Place) -> None:
    """Each new shard knows what the old ones knew of its codes, and of no other."""
    place.run(*map(ok, CODES))
    for index in range(3):
        place.run(**shard(index, 3))
    for index in range(2):
        assert set(place.known(**shard(index, 2))) == {c for c in CODES if crc32(c.encode()) % 2 == index}
    names = sorted(f".flagjob/manifest-{index}-of-{count}.jsonl" for count in (2, 3) for index in range(count))
    assert [name for name in place.names if "/manifest-" in name] == names
    whole = place.own / "manifest.jsonl"
    whole.unlink()
    assert set(place.known()) == set(CODES)


def test_inherited_entries_are_the_same_to_the_byte(place: Place) -> None:
    """What is handed on to a new shard count is all that was known, the mark of what is gone included."""
    place.run(ok("BR"), ok("CN"))
    place.run(missing("BR"))
    place.run(shards=2, mine=lambda _code: True)
    assert sorted(place.lines()[1:], key=str) == sorted(place.lines("manifest-0-of-2.jsonl")[1:], key=str)
    assert told(place, missing("BR"), shards=2) == []


@pytest.mark.parametrize("counts", [(2, 3), (3, 2)])
def test_the_newest_check_wins(place: Place, counts: tuple[int, int]) -> None:
    """Where several old manifests know a code, the one counts that was checked last, wherever it is read."""
    early, late = counts
    place.run(ok("BR", b"GIF89a old"), shards=early)
    place.run(ok("BR", b"GIF89a new"), shards=late, at=NOON + A_DAY)
    place.run(ok("CN"), shards=early, at=NOON + A_DAY)
    assert place.known(shards=1)["BR"].stored == file_of("BR", b"GIF89a new")


def test_of_equal_checks_one_wins(place: Place) -> None:
    """Two manifests that saw the same thing at the same time give one entry."""
    place.run(ok("BR"), shards=2)
    place.run(ok("BR"), shards=3)
    place.run()
    assert [line.get("code") for line in place.lines()] == [None, "BR"]


def test_lines_without_a_meaning_are_not_inherited(place: Place) -> None:
    """What several manifests hold of a code is compared; a line that cannot be compared is dropped."""
    place.run(ok("BR"), shards=2)
    place.run(ok("BR"), shards=3)
    with (place.own / "manifest-0-of-2.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many") + b"\n")
    assert list(place.known()) == ["BR"]


def test_old_manifests_are_read_once(place: Place) -> None:
    """A shard that has a manifest takes nothing more from those of another count, and never changes them."""
    place.run(ok("BR"))
    place.run(shards=2)
    place.run(ok("CN"))
    before = (place.own / "manifest.jsonl").read_bytes()
    assert list(place.known(shards=2)) == ["BR"]
    assert (place.own / "manifest.jsonl").read_bytes() == before


def test_inheriting_is_all_or_nothing(place: Place) -> None:
    """A shard that was killed, or found the disk full, while it inherited begins again: nothing is left out."""
    place.run(*map(ok, CODES))
    with files_limited_to(1000), pytest.raises(StorageError):
        place.manifest(shards=2)
    assert not (place.own / "manifest-0-of-2.jsonl").exists()
    assert set(place.known(shards=2)) == set(CODES)


def test_reading_old_manifests_leaves_torn_ones_as_they_are(place: Place) -> None:
    """Another pod may still write to them: only the own file is mended."""
    place.run(ok("BR"))
    with (place.own / "manifest.jsonl").open("ab") as file:
        file.write(b'{"code":"CN","ur')
    before = (place.own / "manifest.jsonl").read_bytes()
    assert list(place.known(shards=2)) == ["BR"]
    assert (place.own / "manifest.jsonl").read_bytes() == before


# Two pods, one shard


def test_two_pods_may_run_the_same_shard(place: Place) -> None:
    """Their lines interleave, each whole; each sees what the other did, and neither loses anything."""
    first, second = place.manifest(), place.manifest()
    for number in range(20):
        first.record(work(f"A{number}"), ok(f"A{number}"))
        second.record(work(f"B{number}"), ok(f"B{number}"))
    assert first.find("B0") == second.find("B0") is not None
    first.close()
    second.close()
    expected = {f"{letter}{number}" for letter in "AB" for number in range(20)}
    assert set(place.known()) == expected
    assert len(place.sums.read_text().splitlines()) == 40


def test_pods_that_begin_together_share_a_file(place: Place) -> None:
    """A manifest that another pod has just made, and not yet written to, is not replaced under it."""
    place.own.mkdir()
    (place.own / "manifest.jsonl").touch()
    first = inode(place.own / "manifest.jsonl")
    place.killed(ok("BR"))
    assert inode(place.own / "manifest.jsonl") == first
    assert [line.get("code") for line in place.lines()] == [None, "BR"]


def test_the_compaction_of_one_pod_loses_nothing_of_the_other(place: Place) -> None:
    """A pod that finds the file replaced at its end merges its own lines with those that are there now."""
    place.run(ok("BR"))
    slow, fast = place.manifest(), place.manifest(at=NOON + A_DAY)
    slow.record(work("CN"), ok("CN"))
    fast.record(work("BR"), ok("BR", b"GIF89a 2"))
    fast.record(work("US"), ok("US"))
    fast.close()
    slow.record(work("DE"), ok("DE"))
    third = place.manifest(at=NOON + 2 * A_DAY)
    third.record(work("US"), ok("US", b"GIF89a 3"))
    third.close()
    slow.close()
    found = {code: entry.stored and entry.stored.sha256 for code, entry in place.known().items()}
    assert found == {
        "BR": sha256(b"GIF89a 2").hexdigest(),
        "CN": file_of("CN").sha256,
        "DE": file_of("DE").sha256,
        "US": sha256(b"GIF89a 3").hexdigest(),
    }
    assert len(place.lines()) == 5
    assert {line.partition("  ")[0] for line in place.sums.read_text().splitlines()} == set(found.values())


def test_compacting_drops_nothing_that_another_pod_has_just_added(place: Place) -> None:
    """What came from a pod that is killed afterwards is kept by the one that compacts."""
    place.run(ok("BR"))
    first, second = place.manifest(), place.manifest()
    first.record(work("BR"), unchanged("BR"))
    second.record(work("CN"), ok("CN"))
    let_go(second)
    first.close()
    assert list(place.known()) == ["BR", "CN"]
    assert len(place.lines()) == 3


def test_a_file_that_came_meanwhile_is_listed(place: Place) -> None:
    """Where the manifest was replaced during the run, SHA256SUMS is made anew, although this run brought nothing."""
    place.run(ok("BR"))
    manifest = place.manifest()
    other = place.own / "other"
    other.write_bytes((place.own / "manifest.jsonl").read_bytes() + IN_FRONT)
    other.replace(place.own / "manifest.jsonl")
    manifest.record(work("BR"), unchanged("BR"))
    manifest.close()
    assert "us.gif" in place.sums.read_text()


def test_a_manifest_that_was_removed_meanwhile_is_written_anew(place: Place) -> None:
    """Somebody tidied up during the run: what this run knows is there again afterwards."""
    manifest = place.manifest()
    manifest.record(work("BR"), ok("BR"))
    (place.own / "manifest.jsonl").unlink()
    manifest.record(work("CN"), ok("CN"))
    manifest.close()
    assert list(place.known()) == ["BR", "CN"]


def test_a_directory_that_was_removed_meanwhile_is_a_storage_error(place: Place) -> None:
    """Where the manifest cannot be kept, the run is told."""
    manifest = place.manifest()
    for path in place.own.iterdir():
        path.unlink()
    place.own.rmdir()
    with pytest.raises(StorageError, match="No such file or directory"):
        manifest.close()


def test_two_processes_at_once_tear_nothing(place: Place) -> None:
    """Two processes that append at full speed leave whole lines only, and all of them."""
    with recorder(place, "A") as first, recorder(place, "B") as second:
        for process in (first, second):
            tell(process, 500)
        for process in (first, second):
            process.communicate(timeout=30)
    counts = Counter(line.get("code", "-")[0] for line in place.lines())
    assert (counts["A"], counts["B"], len(place.known())) == (500, 500, 1000)


@pytest.mark.parametrize("there", [b'{"code":"CN",', b"[1]\n", b'"BR"\n', b"\n"])
def test_a_line_that_is_not_of_its_code_is_not_believed(place: Place, there: bytes) -> None:
    """The index says where a line should be; another process may have put something else there."""
    place.run(ok("BR"))
    manifest = place.manifest()
    with (place.own / "manifest.jsonl").open("r+b") as file:
        file.seek(len(HEADER))
        file.write(there)
    assert manifest.find("BR") is None


def test_any_thread_may_ask_while_the_main_one_records(place: Place) -> None:
    """Without a lock: each answer is nothing, or whole and of the code that was asked for."""
    manifest, done = place.manifest(), Event()
    wrong: list[object] = []

    def ask() -> None:
        number = 0
        while not done.is_set():
            code = f"C{number % 50}"
            entry = manifest.find(code)
            if entry is not None and (entry.code, entry.file) != (code, f"{code.lower()}.gif"):
                wrong.append(entry)
            number += 1

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        code = f"C{number % 50}"
        manifest.record(work(code), ok(code, str(number).encode()))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(1 for _ in manifest.entries()) == 50


# All shards as one


def test_all_manifests_can_be_read_as_one(place: Place) -> None:
    """Whoever looks at a destination sees each code once, by its last check, and changes nothing by looking."""
    place.run(ok("BR", b"GIF89a old"), ok("US"))
    place.run(ok("BR"), shard=0, shards=2, at=NOON + A_DAY)
    place.run(ok("CN"), shard=1, shards=2)
    with (place.own / "manifest-1-of-2.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many").replace(b'"CN"', b'"ZZ"') + b"\n")
    before = {name: (place.root / name).read_bytes() for name in place.names}
    found = {entry.code: entry.stored for entry in entries(place.own)}
    assert found == {code: file_of(code) for code in ("BR", "CN", "US")}
    assert {name: (place.root / name).read_bytes() for name in place.names} == before


def test_a_destination_without_manifest_has_no_entries(place: Place) -> None:
    """An empty directory is read as such; one that is not there is a storage error."""
    with pytest.raises(StorageError, match="No such file or directory"):
        list(entries(place.own))
    place.own.mkdir()
    assert list(entries(place.own)) == []


def test_entries_of_one_manifest_without_meaning_are_passed_over(place: Place) -> None:
    """Lines that name a code and are no entry come out of neither way to list entries."""
    place.run(ok("BR"))
    with (place.own / "manifest.jsonl").open("ab") as file:
        file.write(with_field("attempts", "many") + b"\n")
    assert [entry.code for entry in entries(place.own)] == list(place.known()) == ["BR"]


def test_codes_can_be_forgotten(place: Place) -> None:
    """A code whose file was deleted is unknown to every manifest, and in no list of sums; what comes later is new."""
    place.run(ok("BR"), ok("CN"))
    place.run(shard=0, shards=2, mine=lambda code: code == "BR")
    place.run(shard=1, shards=2, mine=lambda code: code == "CN")
    forget(place.own, place.sums, ["BR", "XX"])
    assert [entry.code for entry in entries(place.own)] == ["CN"]
    assert [place.known(**facts).keys() for facts in ({}, {"shards": 2})] == [{"CN"}, set()]
    sums = {name: (place.root / name).read_text()[66:] for name in place.names if "SUMS" in name}
    assert sums == {"SHA256SUMS": "cn.gif\n", "SHA256SUMS-0-of-2": "", "SHA256SUMS-1-of-2": "cn.gif\n"}
    assert told(place, ok("BR"), shards=2) == ["new"]
    assert [line.get("code") for line in place.lines("manifest-0-of-2.jsonl")] == [None, "BR"]


def test_forgetting_touches_only_manifests_that_know_the_code(place: Place) -> None:
    """Another shard's files stay as they are, to the inode."""
    place.run(ok("BR"), shard=0, shards=2)
    place.run(ok("CN"), shard=1, shards=2)
    before = {name: inode(place.root / name) for name in place.names if "1-of-2" in name}
    forget(place.own, place.sums, ["BR"])
    assert {name: inode(place.root / name) for name in place.names if "1-of-2" in name} == before
    assert len(place.lines("manifest-1-of-2.jsonl")) == 2


# Size


def memory_of(act: Callable[[], object]) -> tuple[int, int]:
    """Give the bytes that are held after a call and not before it, and the most that were held meanwhile."""
    tracemalloc.start()
    try:
        kept = act()
        held = tracemalloc.get_traced_memory()
        assert kept is not None
        return held
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_many_entries_take_little_memory(place: Place) -> None:
    """An entry costs at most 120 bytes of memory, however long its line is: a million fit a small pod."""
    place.own.mkdir()
    (place.own / "manifest.jsonl").write_bytes(HEADER + numbered(50_000))
    held, peak = memory_of(place.manifest)
    assert held < 50_000 * 120
    assert peak < 50_000 * 180  # while the index grows, the old one and the new one are there
    assert sum(1 for _ in place.manifest().entries()) == 50_000


def test_damage_without_a_line_end_takes_no_memory(place: Place) -> None:
    """A file system may leave a hole after a power cut: it is passed over in pieces, however long it is."""
    place.own.mkdir()
    with (place.own / "manifest.jsonl").open("wb") as file:
        file.write(HEADER + IN_FRONT)
        file.seek(30_000_000, os.SEEK_CUR)
        file.write(b"\n" + GOOD)
    assert memory_of(place.manifest)[1] < 5_000_000
    assert sorted(place.known()) == ["BR", "US", "ZZ"]


def test_a_query_is_recorded_as_its_digest(tmp_path: Path) -> None:
    """A signed URL is told from another without its signature being written to a disk."""
    manifest = Manifest(tmp_path / ".flagjob", tmp_path / "SHA256SUMS", origin="https://example.org")
    one, other = (
        manifest.recorded_url(f"https://example.org/br.gif?sig={secret}") for secret in ("hunter2", "hunter3")
    )
    assert one.startswith("https://example.org/br.gif?")
    assert "hunter" not in one
    assert one != other
    assert manifest.recorded_url("https://example.org/br.gif") == "https://example.org/br.gif"
