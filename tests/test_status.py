"""The command status says what the last runs did and how old the files are, whatever they have left."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from command import Done, defaults, flagjob
from images import GIF, numbered_gif
from inprocess import WatchedLog, run, run_here
from scripted import Answer, Request, ScriptedServer, Step
from test_scripted_bucket import Bucket, variables

from job import manifest
from job.cancellation import Cancellation
from job.display import Line
from job.errors import Reason, UsageError
from job.layout import Shard
from job.log import RunLog
from job.manifest import KILLED, UNFINISHED, PastRun, read_past_runs
from job.model import Entry, Status, Stored
from job.settings import load, parse_arguments
from job.status import DestinationStatus, Files, status, status_lines

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
OTHER = numbered_gif(2)
CHANGE = b'{"change":"new","code":"BR","file":"br.gif","sha256":"00"}\n'
OLD_SUMMARY = (
    b'{"change":"summary","new":1,"changed":0,"gone":0,"unchanged":2,'
    b'"started_at":"2026-11-20T04:17:00Z","finished_at":"2026-11-20T04:18:00Z"}\n'
)


@pytest.fixture
def origin() -> Iterator[ScriptedServer]:
    with ScriptedServer({"/br.gif": Answer(body=GIF), "/cn.gif": Answer(body=OTHER)}) as server:
        yield server


def own(root: Path) -> Path:
    directory = root / ".flagjob"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def show(
    dest: Path | str, cancellation: Cancellation | None = None, *words: str, **settings: str
) -> tuple[int, list[str], list[dict[str, Any]]]:
    """Return the exit code of the command in this process, its lines in words, and the events that it logged."""
    output = BytesIO()
    shown: list[str] = []

    def keep(lines: list[Line]) -> int:
        shown.extend(line.text for line in lines)
        return 0

    environ = {
        **defaults,
        "FLAGJOB_DEST": str(dest),
        **{f"FLAGJOB_{name.upper()}": text for name, text in settings.items()},
    }
    loaded = load(parse_arguments(["status", *words]), environ)
    code = status(
        loaded,
        RunLog(output, secrets=loaded.secrets, fields={"job": loaded.name}),
        cancellation or Cancellation(),
        keep,
    )
    return code, shown, [json.loads(line) for line in output.getvalue().splitlines()]


def show_json(dest: Path | str, **settings: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of the runs and the event of the files."""
    code, shown, events = show(dest, None, log_format="json", **settings)
    assert (code, shown, events[-1]["event"]) == (0, [], "status")
    return events[:-1], events[-1]


def text_of(*runs: PastRun, files: Files | None = None, columns: int = 200) -> str:
    """Return the status in words at noon."""
    lines = status_lines(DestinationStatus(list(runs), files or Files()), NOW, columns, str)
    return "\n".join(line.text for line in lines)


def past(outcome: str | None = "ok", **fields: Any) -> PastRun:
    """Return a run that ended two hours before noon."""
    numbers = {"new": 3, "changed": 1, "gone": 0}
    whole: dict[str, Any] = {"shard": Shard(), "ended_at": "2026-11-22T10:00:00Z", "outcome": outcome, **numbers}
    return PastRun(**{**whole, **fields})


# What is read


def test_each_run_is_shown_as_it_ended(origin: ScriptedServer, tmp_path: Path) -> None:
    """The runs are those that the log described, the oldest first, and the files those of the manifest."""
    url = origin.url("/{cc}.gif")
    logs = [run_here(*codes, dest=tmp_path, url=url).summary for codes in (["BR"], ["BR", "CN", "ZZ"])]
    runs, files = show_json(tmp_path)
    names = ("job", "run_id", "shard", "shards", "outcome", "exit_code", "reasons", "counts", "new", "changed", "bytes")
    assert [{name: found[name] for name in names} for found in runs] == [
        {name: log[name] for name in names} for log in logs
    ]
    assert [(found["outcome"], found["gone"], found["unchanged"]) for found in runs] == [
        ("ok", 0, 0),
        ("permanent", 0, 1),
    ]
    assert all(found["started_at"] <= found["ended_at"] for found in runs)
    assert (files["runs"], files["files"], files["bytes"]) == (2, 2, len(GIF) + len(OTHER))
    assert files["oldest_checked_at"] <= files["newest_checked_at"]
    assert (files["gone"], files["errors"]) == (0, 0)


def test_the_table_is_for_people_also_in_a_pipe(origin: ScriptedServer, tmp_path: Path) -> None:
    """Without a format for programs the status is a table with what to do; it is not JSON."""
    run_here("BR", "ZZ", dest=tmp_path, url=origin.url("/{cc}.gif"))
    code, lines, events = show(tmp_path)
    assert (code, events) == (0, [])
    assert lines[0].split() == "ended (UTC) outcome exit new changed gone not found received took".split()
    assert lines[1].split()[2:8] == ["permanent", "4", "1", "0", "0", "1"]
    assert lines[3].startswith(f"1 file, {len(GIF)} B, confirmed by the origin ")
    assert lines[4].startswith("The last run ended ")
    assert lines[5:] == [
        "What to do:",
        "  http_404: Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND; if all fail, correct the URL.",
        "  Change the list, the URL or the budgets first: the same command would end in the same way.",
        "  More: docs/runbook.md#exit-code-4",
    ]


def test_gone_files_and_errors_are_counted(tmp_path: Path) -> None:
    """A file that the origin has no more is gone, a code whose last attempt failed is in error."""
    script: dict[str, Any] = {"/br.gif": [Answer(body=GIF), Answer(404)], "/cn.gif": [Answer(body=GIF), Answer(403)]}
    with ScriptedServer(script) as server:
        for _ in range(2):
            run_here("BR", "CN", dest=tmp_path, url=server.url("/{cc}.gif"))
    runs, files = show_json(tmp_path)
    assert (runs[-1]["gone"], files["files"], files["gone"], files["errors"]) == (1, 2, 1, 1)
    lines = show(tmp_path)[1]
    assert "1 gone: the origin has no such file any more, and it is still here." in lines
    assert "1 in error: the last attempt failed." in lines


def test_files_that_were_never_confirmed_have_no_age() -> None:
    """A file that was there before, and of which the origin was not asked, is counted without a time."""
    files = Files()
    files.add(Entry("BR", "u", "br.gif", Status.OK, Stored("br.gif", 7, "00", None), "", None, 0, None))
    assert files == Files(1, 7)


def test_runs_of_early_versions_are_shown_with_what_they_have(tmp_path: Path) -> None:
    """Their summaries have no outcome: the numbers and the time are there all the same."""
    (own(tmp_path) / "changes.jsonl").write_bytes(CHANGE + OLD_SUMMARY)
    (found,), files = show_json(tmp_path)
    assert (found["outcome"], found["exit_code"], found["counts"], found["job"]) == (None, None, None, None)
    assert (found["new"], found["unchanged"], found["ended_at"]) == (1, 2, "2026-11-20T04:18:00Z")
    assert (files["files"], files["oldest_checked_at"]) == (0, None)
    lines = show(tmp_path)[1]
    assert lines[1].split() == ["2026-11-20", "04:18", "-", "-", "1", "0", "0", "2", "-", "-"]
    assert lines[3] == "No files."
    assert lines[4].startswith("The last run ended ")


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b'{"change":"changed","co',
        b'{"change":"summary","new":1',
        b'{"change":"summary","new":1}\n',
        b'{"change":"summary","finished_at":"yesterday"}\n',
        b"\0" * 5000,
        b"\xff\n",
    ],
)
def test_runs_that_were_killed_are_shown_as_such(tmp_path: Path, end: bytes) -> None:
    """Without a whole summary at its end the file is that of a killed run: what it had found is counted."""
    data = CHANGE * 2 + b'{"change":"gone","code":"CN"}\n' + end
    (own(tmp_path) / "changes-20261120T041700Z-2.jsonl").write_bytes(data)
    (own(tmp_path) / "changes.jsonl").write_bytes(data)
    os.utime(own(tmp_path) / "changes.jsonl", (0, NOW.timestamp()))
    first, last = read_past_runs(own(tmp_path), NOW)
    assert (first.outcome, first.ended_at) == (KILLED, "2026-11-20T04:17:00Z")
    assert (last.outcome, last.ended_at) == (UNFINISHED, "2026-11-22T12:00:00Z")
    assert [(found.new, found.gone, found.exit_code) for found in (first, last)] == [(2, 1, None)] * 2


def test_a_damaged_summary_is_shown_with_what_can_be_read(tmp_path: Path) -> None:
    """What has another type than a run writes is left out."""
    odd = {"new": "x", "outcome": 1, "counts": {"ok": "2"}, "reasons": [], "exit_code": True, "bytes": None}
    line = json.dumps({"change": "summary", **odd, "gone": 2, "finished_at": "2026-11-20T04:18:00Z"})
    (own(tmp_path) / "changes.jsonl").write_text(line.replace(": ", ":").replace(", ", ","))
    (found,) = read_past_runs(own(tmp_path), NOW)
    assert (found.gone, found.ended_at) == (2, "2026-11-20T04:18:00Z")
    assert (found.new, found.outcome, found.counts, found.reasons, found.exit_code) == (None, None, None, None, None)


def test_a_damaged_manifest_is_shown_with_what_can_be_read(origin: ScriptedServer, tmp_path: Path) -> None:
    """Damaged lines, and one that is torn, cost nothing but themselves."""
    run_here("BR", dest=tmp_path, url=origin.url("/{cc}.gif"))
    with (tmp_path / ".flagjob" / "manifest.jsonl").open("ab") as file:
        file.write(b'{"code":"CN"}\n\xff\n{"code":"US","file":"us.gif","sta')
    assert show_json(tmp_path)[1]["files"] == 1


def test_runs_of_one_second_stay_in_their_order(tmp_path: Path) -> None:
    """Their files have numbers; what is dated in the future, by a clock that was ahead, comes first."""
    for number, name in enumerate(
        ["", "-20261122T110000Z", "-20261122T110000Z-2", "-20261122T110000Z-10", "-20300101T000000Z"]
    ):
        (own(tmp_path) / f"changes{name}.jsonl").write_bytes(CHANGE * number)
    os.utime(own(tmp_path) / "changes.jsonl", (0, NOW.timestamp()))
    assert [found.new for found in read_past_runs(own(tmp_path), NOW)] == [4, 1, 2, 3, 0]


def test_a_file_that_is_renamed_meanwhile_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins renames the newest file and deletes the oldest: neither is missed, shown twice or an error."""
    newest = own(tmp_path) / "changes.jsonl"
    newest.write_bytes(CHANGE)
    oldest = own(tmp_path) / "changes-20260101T000000Z.jsonl"
    oldest.write_bytes(CHANGE)
    list_directory = Path.iterdir
    listings: list[int] = []

    def begin_between(path: Path) -> Iterator[Path]:
        found = list(list_directory(path))
        listings.append(len(found))
        if len(listings) == 2:
            oldest.unlink()
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", begin_between)
    tail = Path.open

    def rename_after(path: Path, *arguments: Any) -> Any:
        file = tail(path, *arguments)
        if path == newest:
            newest.rename(own(tmp_path) / "changes-20261122T110000Z.jsonl")
        return file

    monkeypatch.setattr(Path, "open", rename_after)
    assert [found.new for found in read_past_runs(own(tmp_path), NOW)] == [1]
    assert len(listings) == 2


def test_other_files_are_no_runs(tmp_path: Path) -> None:
    """What has no name of a list of changes is not read."""
    for name in ("changes.json", "changes-x.jsonl", "changes-3-of.jsonl", "xchanges.jsonl"):
        (own(tmp_path) / name).write_bytes(OLD_SUMMARY)
    assert read_past_runs(own(tmp_path), NOW) == []


def test_shards_have_their_rows(origin: ScriptedServer, tmp_path: Path) -> None:
    """The runs of all shards are in one table, with a column for the shard, and the files are those of all."""
    url = origin.url("/{cc}.gif")
    for index in "01":
        run_here("BR", "CN", "ZZ", dest=tmp_path, url=url, shard_index=index, shard_count="2", name=f"n{index}")
    runs, files = show_json(tmp_path)
    assert [(found["shard"], found["shards"], found["job"]) for found in runs] == [(0, 2, "n0"), (1, 2, "n1")]
    assert files["files"] == 2
    lines = show(tmp_path)[1]
    assert lines[0].split()[2:5] == ["shard", "name", "outcome"]
    assert [line.split()[2:4] for line in lines[1:3]] == [["0-of-2", "n0"], ["1-of-2", "n1"]]


def test_sets_have_the_files_of_the_current_one(origin: ScriptedServer, tmp_path: Path) -> None:
    """The last run was not published: it is shown, and the files are those that readers see."""
    url = origin.url("/{cc}.gif")
    for codes in (["BR"], ["BR", "CN", "ZZ"]):
        run_here(*codes, dest=tmp_path, url=url, publish="set")
    runs, files = show_json(tmp_path, publish="set")
    assert [(found["outcome"], found["new"]) for found in runs] == [("ok", 1), ("permanent", 1)]
    assert files["files"] == 1
    assert show_json(tmp_path)[1]["files"] == 1


def test_sets_without_the_copies_have_the_runs_of_the_current_one(origin: ScriptedServer, tmp_path: Path) -> None:
    """The lists beside the sets are a convenience; each set has its own."""
    run_here("BR", dest=tmp_path, url=origin.url("/{cc}.gif"), publish="set")
    for path in (tmp_path / ".flagjob").iterdir():
        path.unlink()
    runs, files = show_json(tmp_path)
    assert [found["new"] for found in runs] == [1]
    assert files["files"] == 1


def test_a_set_that_is_replaced_meanwhile_is_no_error(
    origin: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run publishes another set and removes the one that is being read: then the new one is read."""
    url = origin.url("/{cc}.gif")
    run_here("BR", dest=tmp_path, url=url, publish="set", keep="1")
    read_entries = manifest.read_entries

    def publish_before(directory: Path) -> Iterator[Any]:
        monkeypatch.setattr(manifest, "read_entries", read_entries)
        run_here("BR", "CN", dest=tmp_path, url=url, publish="set", keep="1")
        return read_entries(directory)

    monkeypatch.setattr(manifest, "read_entries", publish_before)
    assert show_json(tmp_path)[1]["files"] == 2


def test_nothing_is_written(origin: ScriptedServer, tmp_path: Path) -> None:
    """No byte, no name and no time of the destination changes."""
    run_here("BR", dest=tmp_path, url=origin.url("/{cc}.gif"))

    def state() -> dict[str, tuple[int, int, int]]:
        found = {path: path.stat() for path in [tmp_path, *tmp_path.rglob("*")]}
        return {str(path): (at.st_mtime_ns, at.st_ctime_ns, at.st_size) for path, at in found.items()}

    before = state()
    show_json(tmp_path)
    assert state() == before


# A bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Return a bucket whose server the environment names."""
    script = Bucket()
    with ScriptedServer(script) as server:
        for name, value in variables(server.url()).items():
            monkeypatch.setenv(name, value)
        yield script


def test_a_bucket_is_only_read(origin: ScriptedServer, bucket: Bucket) -> None:
    """Its runs and files are shown as those of a directory, by requests that change nothing: not even a probe."""
    for codes in (["BR"], ["BR", "CN", "ZZ"]):
        run(codes, Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url("/{cc}.gif"))
    methods: list[str] = []

    def note(request: Request) -> Step | None:
        methods.append(request.method)
        return None

    bucket.refuse = note
    runs, files = show_json("s3://b/p")
    assert [(found["outcome"], found["new"], found["unchanged"]) for found in runs] == [
        ("ok", 1, 0),
        ("permanent", 1, 1),
    ]
    assert (files["files"], files["bytes"]) == (2, len(GIF) + len(OTHER))
    assert set(methods) == {"GET"}


def test_only_the_end_of_a_list_in_a_bucket_is_kept(bucket: Bucket) -> None:
    """However long the list of changes is: the summary is at its end."""
    bucket.objects["p/.flagjob/changes/changes-3-of-8-20261120T041800.000000Z.jsonl"] = CHANGE * 100_000 + OLD_SUMMARY
    (found,), files = show_json("s3://b/p", ca_bundle="")
    assert (found["shard"], found["shards"], found["new"]) == (3, 8, 1)
    assert files["files"] == 0


def test_a_bucket_that_refuses_is_a_failure(bucket: Bucket) -> None:
    """It is a storage error that names the bucket, exit code 5."""
    bucket.refuse = lambda _: Answer(403)
    code, _, (event,) = show("s3://b/p")
    assert (code, event["event"]) == (5, "storage_error")
    assert "s3://b/p: cannot be listed: 403" in event["problem"]


def test_an_empty_bucket_was_never_filled(bucket: Bucket) -> None:
    """There is nothing to show of it."""
    assert bucket.objects == {}
    with pytest.raises(UsageError, match="there is nothing to show"):
        show("s3://b/p")


# What is not there


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "own directory only"])
def test_there_is_nothing_to_show(tmp_path: Path, kind: str) -> None:
    """One message says that the destination was never filled."""
    dest = tmp_path / "dest"
    if kind == "file":
        dest.touch()
    elif kind == "empty":
        dest.mkdir()
    elif kind != "missing":
        own(dest)
    with pytest.raises(UsageError) as caught:
        show(dest)
    assert str(caught.value) == f"FLAGJOB_DEST '{dest}': was never filled by flagjob: there is nothing to show"


@pytest.mark.parametrize(("words", "message"), [(["BR"], "are codes"), (["--dry-run"], "is for run and verify only")])
def test_status_takes_neither_codes_nor_a_dry_run(tmp_path: Path, words: list[str], message: str) -> None:
    """It has no items, and changes nothing anyway."""
    with pytest.raises(UsageError, match=message):
        show(tmp_path, None, *words)


def test_files_that_cannot_be_read_are_a_failure(tmp_path: Path) -> None:
    """It is a storage error, exit code 5: the status would be wrong without them."""
    (own(tmp_path) / "changes.jsonl").mkdir()
    code, shown, (event,) = show(tmp_path)
    assert (code, shown, event["event"]) == (5, [], "storage_error")
    assert "changes.jsonl: Is a directory" in event["problem"]


def test_a_signal_ends_it(origin: ScriptedServer, tmp_path: Path) -> None:
    """A manifest of millions of lines is not read to its end."""
    run_here("BR", dest=tmp_path, url=origin.url("/{cc}.gif"))
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL, 15)
    assert show(tmp_path, cancellation) == (143, [], [])


# What it looks like


def test_columns_without_anything_are_left_out() -> None:
    """Errors and cancelled items have columns only if there are any; what always matters stays."""
    counts = {"ok": 3, "not_found": 0, "error": 2, "cancelled": 0}
    lines = text_of(past(counts=counts, exit_code=0, bytes=1200, duration_s=200.0), past(outcome=None)).splitlines()
    assert lines[0] == "ended (UTC)       outcome  exit  new  changed  gone  errors  received        took"
    assert lines[1] == "2026-11-22 10:00  ok          0    3        1     0       2    1.2 kB  3 min 20 s"
    assert lines[2] == "2026-11-22 10:00  -           -    3        1     0       -         -           -"


def test_lines_fit_the_terminal() -> None:
    """The last columns of the table are left out where there is no room, and advice is wrapped."""
    lines = text_of(past("permanent", exit_code=4, reasons={"http_404": 3}), columns=40).splitlines()
    assert all(len(line) <= 40 for line in lines if not line.startswith(("The last", "No files")))
    assert lines[:2] == ["ended (UTC)       outcome    exit  new", "2026-11-22 10:00  permanent     4    3"]


@pytest.mark.parametrize(
    ("run_", "expected"),
    [
        (past(), ["The last run ended 2 h ago: ok."]),
        (past(None), ["The last run ended 2 h ago."]),
        (past(shard=Shard(3, 8)), ["The last run of shard 3-of-8 ended 2 h ago: ok."]),
        (past("odd\x1b"), ["The last run ended 2 h ago: odd\x1b."]),
        (past("sigterm", exit_code=143), ["The last run ended 2 h ago: sigterm.", "What to do:"]),
        (past(KILLED), ["The last run ended 2 h ago: killed.", "What to do:"]),
        (
            past(UNFINISHED),
            ["The last run is not over, or was killed; it last found a change 2 h ago.", "If it was killed:"],
        ),
        (past(ended_at="2026-99-99T10:00:00Z"), ["The last run ended 2026-99-99T10:00:00Z: ok."]),
    ],
)
def test_the_last_run_is_explained(run_: PastRun, expected: list[str]) -> None:
    """How it ended and when, and what to do unless it succeeded."""
    lines = text_of(run_).splitlines()
    assert lines[4 : 4 + len(expected)] == expected
    advice = lines[4 + len(expected) :]
    assert bool(advice) == (len(expected) == 2)
    if advice:
        number = 143 if run_.exit_code else 137
        assert advice[-1] == f"  More: docs/runbook.md#exit-code-{number}"


def test_the_shard_that_failed_is_explained() -> None:
    """Of the last runs of all shards that is the last one that did not succeed; other numbers of shards are past."""
    old = past("permanent", exit_code=4, shard=Shard(1, 2))
    first = past("permanent", exit_code=4, shard=Shard(0, 3))
    again = past(shard=Shard(0, 3))
    failed = past("storage", exit_code=5, shard=Shard(1, 3))
    last = past(shard=Shard(2, 3))
    assert "The last run of shard 1-of-3 ended 2 h ago: storage." in text_of(old, first, again, failed, last)
    assert "The last run of shard 2-of-3 ended 2 h ago: ok." in text_of(old, first, again, last)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (Files(), "No files."),
        (Files(1, 10), "1 file, 10 B."),
        (Files(2, 3000, 0, 0, "2026-11-22T11:00:00Z", "2026-11-22T11:59:00Z"), "1 min ago, the oldest 1 h ago."),
        (Files(2, 3000, 0, 0, "2026-11-20T11:00:00Z", "2026-11-20T11:59:00Z"), "confirmed by the origin 2 d ago."),
        (Files(2, 3000, 0, 0, "2026-11-22", "2026-11-22"), "confirmed by the origin 2026-11-22."),
    ],
)
def test_the_age_of_files_is_told(files: Files, expected: str) -> None:
    """How long ago the origin confirmed the newest one and the oldest one."""
    assert text_of(files=files).endswith(expected)
    assert "kB" in text_of(files=files) or files.bytes < 1000


def test_secrets_are_masked(origin: ScriptedServer, tmp_path: Path) -> None:
    """What a file of changes says of a run is masked like any other text, and control characters are escaped."""
    run_here("BR", dest=tmp_path, url=origin.url("/{cc}.gif"))
    path = own(tmp_path) / "changes.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"ok"', b'"outcome":"hunter2hunter2\\u001b[2J"'))
    lines = show(tmp_path, pushgateway_url="http://u:hunter2hunter2@h.example/")[1]
    assert "hunter2" not in "".join(lines)
    assert "\x1b" not in "".join(lines)


# The command


@pytest.mark.parametrize("log_format", ["auto", "console", "json", "gcp"])
def test_the_command(tmp_path: Path, log_format: str) -> None:
    """It prints a table, coloured where that is wanted, or lines of JSON."""
    assert flagjob("BR", cwd=tmp_path).code == 0
    forced = {"FORCE_COLOR": "1", "FLAGJOB_LOG_LEVEL": "error"}
    done: Done = flagjob("status", "--log-format", log_format, cwd=tmp_path, settings=forced)
    assert (done.code, done.stderr) == (0, "")
    if log_format in {"auto", "console"}:
        assert done.stdout.startswith(b"\x1b[1mended (UTC)  ")
    else:
        assert [line["event"] for line in done.events] == ["past_run", "status"]


def test_the_command_while_a_run_is_under_way(tmp_path: Path) -> None:
    """Its row says that it is not over; the files are those that it has by now."""
    before = datetime.now(UTC) - timedelta(seconds=2)
    seen: list[tuple[int, list[str], list[dict[str, Any]]]] = []
    with ScriptedServer({"/br.gif": Answer(body=GIF), "/cn.gif": Answer(body=OTHER)}) as server:

        def look(_: bytes) -> None:
            if server.requests and not seen:
                seen.append(show(tmp_path, log_format="json"))

        run(
            ["BR", "CN"], Cancellation(), WatchedLog(look), dest=str(tmp_path), url=server.url("/{cc}.gif"), workers="1"
        )
    ((code, _, events),) = seen
    assert (code, events[0]["outcome"]) == (0, "unfinished")
    assert datetime.fromisoformat(events[0]["ended_at"]) >= before
    assert events[-1]["files"] >= 1
