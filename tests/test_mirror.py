"""Every file is true, and the second run costs almost nothing: whole runs, one after the other."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from command import TIMEOUT, Done, environment, flagjob, start_flagjob, wait_for_signal_handlers
from images import GIF, HTML, PNG, numbered_gif
from inprocess import WatchedLog, run_here
from mirror import Mirror, mirror
from rows import row
from scripted import Answer, Raw, ScriptedServer, Step

from job import maintenance
from job.cancellation import Cancellation
from job.errors import Reason
from job.log import RunLog
from job.settings import load, parse_arguments

pytestmark = pytest.mark.slow
NUMBER = 250
CODES = [f"c{number}" for number in range(NUMBER)]


def flags(version: int = 0, number: int = NUMBER) -> dict[str, bytes | Step]:
    return {f"c{n}": numbered_gif(1000 * version + n) for n in range(number)}


def run(origin: Mirror, root: Path, codes: Sequence[str] = CODES, /, **settings: str) -> Done:
    (root / "codes").write_text("\n".join(codes))
    return flagjob(cwd=root, settings={"FLAGJOB_URL": origin.url, "FLAGJOB_CODES_FILE": "codes", **settings})


def published(root: Path, below: str = "downloads") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / below).iterdir() if path.suffix == ".gif"}


def changes(root: Path, below: str = "downloads") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / below / ".flagjob" / "changes.jsonl").read_bytes().splitlines()]


def stats(root: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in (root / "downloads").iterdir() if path.suffix == ".gif"}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_run_that_changes_nothing_moves_almost_no_bytes(tmp_path: Path) -> None:
    """250 conditional requests get 304, no body and no file is touched; then one changed file is one download."""
    with mirror(flags()) as origin:
        first = run(origin, tmp_path)
        before, asked = stats(tmp_path), len(origin.server.requests)
        second = run(origin, tmp_path)
        assert (first.code, second.code) == (0, 0)
        assert origin.asked(asked) == {"conditional": NUMBER, "plain": 0}
        assert (second.summary["counts"]["unchanged"], second.summary["bytes"]) == (NUMBER, 0)
        assert stats(tmp_path) == before

        old, origin.files["c7"] = origin.files["c7"], numbered_gif(9999)
        third = run(origin, tmp_path)
    after = stats(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["c7.gif"]
    assert (third.summary["counts"]["unchanged"], third.summary["changed"]) == (NUMBER - 1, 1)
    change, summary = changes(tmp_path)
    assert (change["change"], change["code"], change["file"]) == ("changed", "C7", "c7.gif")
    assert change["old_sha256"] != change["sha256"]
    assert isinstance(old, bytes)
    assert (summary["change"], summary["unchanged"], summary["changed"]) == ("summary", NUMBER - 1, 1)


def test_a_redirect_costs_no_body_unless_it_leads_elsewhere(tmp_path: Path) -> None:
    """A request through a known redirect is conditional; if the redirect leads elsewhere, the new file comes."""
    old, new = numbered_gif(1), numbered_gif(2)
    with mirror({"c0": Answer(302, {"Location": "/v1.gif"}), "v1": old, "v2": new}) as origin:
        run(origin, tmp_path, ["c0"])
        second = run(origin, tmp_path, ["c0"])
        origin.files |= {"c0": Answer(302, {"Location": "/v2.gif"}), "v2": Answer(304)}
        stale = run(origin, tmp_path, ["c0"])
        origin.files["v2"] = new
        last = run(origin, tmp_path, ["c0"])
    counts = [done.summary["counts"] for done in (second, stale, last)]
    assert (counts[0]["unchanged"], counts[1]["error"], counts[2]["ok"]) == (1, 1, 1)
    assert (second.summary["bytes"], stale.events_named("result")[0]["reason"]) == (0, "http_304")
    assert published(tmp_path) == {"c0.gif": new}


@row(49)
def test_two_jobs_keep_what_they_know_in_one_destination(tmp_path: Path) -> None:
    """Each job's second run asks on a condition and changes nothing; checksums and verify know the files of both."""
    served = Mirror({"br": GIF, "br.png": PNG})
    with ScriptedServer({"/br.gif": served.answer, "/br.png": served.answer}) as served.server:
        urls = [served.server.url("/{cc}.gif"), served.server.url("/{cc}.png")]
        first = [run_here("br", dest=tmp_path, url=url) for url in urls]
        second = [run_here("br", dest=tmp_path, url=url) for url in urls]
        assert served.asked(2) == {"conditional": 2, "plain": 0}
    assert [done.statuses for done in first + second] == [{"BR": "ok"}] * 2 + [{"BR": "unchanged"}] * 2
    digests = {f"{sha256(data).hexdigest()}  {name}\n" for name, data in (("br.gif", GIF), ("br.png", PNG))}
    assert set((tmp_path / "SHA256SUMS").read_text().splitlines(keepends=True)) == digests
    verified = flagjob("verify", cwd=tmp_path, settings={"FLAGJOB_DEST": str(tmp_path)})
    assert (verified.code, verified.events[-1]["counts"]["whole"]) == (0, 2)


CUT = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + GIF)


@pytest.mark.parametrize(
    ("step", "reason", "code"),
    [
        (CUT, "truncated", 3),
        (Answer(body=HTML), "bad_content", 3),
        (Answer(), "empty", 3),
        (Answer(206, body=GIF), "http_206", 4),
        (Answer(body=numbered_gif(4)), "checksum", 3),
    ],
    ids=["cut", "html", "empty", "206", "digest"],
)
def test_a_failed_refresh_keeps_the_good_copy(tmp_path: Path, step: Step, reason: str, code: int) -> None:
    """The old file stays byte for byte, the item is an error with its reason, and its validators stay."""
    with mirror(flags(number=1)) as origin:
        run(origin, tmp_path, ["c0"])
        good = origin.files["c0"]
        sums = {"FLAGJOB_CHECKSUMS": "sums"} if reason == "checksum" else {}
        (tmp_path / "sums").write_bytes((tmp_path / "downloads" / "SHA256SUMS").read_bytes())
        origin.files["c0"] = step
        done = run(origin, tmp_path, ["c0"], FLAGJOB_MAX_ATTEMPTS="1", **sums)
        (line,) = done.events_named("result")
        assert (line["status"], line["reason"], done.code) == ("error", reason, code)
        assert published(tmp_path) == {"c0.gif": good}
        origin.files["c0"] = good
        asked = len(origin.server.requests)
        assert run(origin, tmp_path, ["c0"]).statuses == {"C0": "unchanged"}
        assert origin.asked(asked) == {"conditional": 1, "plain": 0}


def test_the_checksums_hold_and_a_flipped_bit_is_found_and_repaired(tmp_path: Path) -> None:
    """`sha256sum -c` passes; verify names the one bad file and exits with 4; the next run downloads just that one."""
    with mirror(flags(number=20)) as origin:
        run(origin, tmp_path, CODES[:20])
        downloads = tmp_path / "downloads"
        check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        assert subprocess.run(check, cwd=downloads, check=False).returncode == 0
        assert flagjob("verify", cwd=tmp_path).code == 0

        path = downloads / "c7.gif"
        when = path.stat()
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))  # as a disk flips bits: silently
        found = flagjob("verify", cwd=tmp_path)
        assert (found.code, [line["file"] for line in found.events_named("file")]) == (4, ["c7.gif"])
        assert found.events_named("verify_finished")[0]["counts"]["changed"] == 1

        asked = len(origin.server.requests)
        run(origin, tmp_path, CODES[:20])
        assert origin.asked(asked) == {"conditional": 19, "plain": 1}
    assert flagjob("verify", cwd=tmp_path).code == 0


def test_a_gone_file_stays_until_it_is_deleted(tmp_path: Path) -> None:
    """A code that turned 404 keeps its file and is reported once; verify --delete deletes and forgets it."""
    with mirror(flags(number=2)) as origin:
        run(origin, tmp_path, CODES[:2])
        origin.files["c1"] = Answer(404)
        assert run(origin, tmp_path, CODES[:2]).summary["gone"] == 1
        assert (changes(tmp_path)[0]["change"], changes(tmp_path)[0]["code"]) == ("gone", "C1")
        assert run(origin, tmp_path, CODES[:2]).summary["gone"] == 0
    assert sorted(published(tmp_path)) == ["c0.gif", "c1.gif"]
    looked, deleted = flagjob("verify", cwd=tmp_path), flagjob("verify", "--delete", cwd=tmp_path)
    assert [(line["file"], line["finding"]) for line in looked.events_named("file")] == [("c1.gif", "gone")]
    assert [(line["file"], line["finding"]) for line in deleted.events_named("file")] == [("c1.gif", "deleted")]
    assert sorted(published(tmp_path)) == ["c0.gif"]
    assert flagjob("verify", cwd=tmp_path).events_named("file") == []
    assert "c1.gif" not in (tmp_path / "downloads" / "SHA256SUMS").read_text()


def test_a_404_is_not_requested_again_within_its_ttl(tmp_path: Path) -> None:
    """With a TTL of a day, the second run requests none of the codes that do not exist."""
    settings = {"FLAGJOB_NOT_FOUND_TTL": "86400"}
    first = flagjob("-e", cwd=tmp_path, settings=settings)
    second = flagjob("-e", cwd=tmp_path, settings=settings)
    attempts = Counter((line["status"], line["attempts"]) for line in second.events_named("result"))
    assert (first.code, second.code) == (0, 0)
    assert attempts == {("unchanged", 1): 249, ("not_found", 0): 427}


@pytest.mark.parametrize("publish", ["each", "set"])
def test_a_run_that_need_not_ask_sends_no_request(tmp_path: Path, publish: str) -> None:
    """Within `recheck_after` nothing is asked for, and all is well; `always` asks, and so does a file that changed."""
    settings = {"recheck_after": "365d", "publish": publish}
    with mirror(flags(number=20)) as origin:

        def run_again(**others: str) -> tuple[int, int]:
            asked = len(origin.server.requests)
            done = run_here(*CODES[:20], dest=tmp_path, url=origin.url, **{**settings, **others})
            assert done.summary["counts"]["unchanged"] == 20
            return done.code, len(origin.server.requests) - asked

        run_here(*CODES[:20], dest=tmp_path, url=origin.url, **settings)
        assert run_again() == (0, 0)
        assert run_again() == (0, 0)
        assert run_again(refresh="always") == (0, 20)
        assert run_again(recheck_after="0") == (0, 20)
    without_origin = run_here(*CODES[:20], dest=tmp_path, url=origin.url, **settings)
    assert (without_origin.code, without_origin.summary["counts"]["unchanged"]) == (0, 20)


def test_another_origin_is_refused_unless_it_is_accepted(tmp_path: Path) -> None:
    """Files of two origins must not mix by mistake; the demo server is one origin, whatever its port."""
    assert (flagjob("BR", cwd=tmp_path).code, flagjob("BR", cwd=tmp_path).statuses) == (0, {"BR": "unchanged"})
    with mirror({"br": GIF}) as origin:
        refused = run(origin, tmp_path, ["br"])
        assert (refused.code, refused.events_named("usage_error")[0]["setting"]) == (2, "FLAGJOB_URL")
        assert "FLAGJOB_NEW_ORIGIN=accept" in refused.events_named("usage_error")[0]["message"]
        assert origin.server.connections == 0
        accepted = run(origin, tmp_path, ["br"], FLAGJOB_NEW_ORIGIN="accept")
        assert (accepted.code, accepted.statuses) == (0, {"BR": "ok"})
        assert run(origin, tmp_path, ["br"]).statuses == {"BR": "unchanged"}


@pytest.mark.parametrize(("refresh", "conditional", "plain"), [("missing", 0, 1), ("always", 0, 3)])
def test_existing_files_are_treated_as_configured(tmp_path: Path, refresh: str, conditional: int, plain: int) -> None:
    """`missing` downloads only missing files; `always` downloads all files, and still recognises unchanged ones."""
    with mirror(flags(number=3)) as origin:
        run(origin, tmp_path, CODES[:3])
        (tmp_path / "downloads" / "c1.gif").unlink()
        asked = len(origin.server.requests)
        done = run(origin, tmp_path, CODES[:3], FLAGJOB_REFRESH=refresh)
        assert origin.asked(asked) == {"conditional": conditional, "plain": plain}
    assert done.statuses == {"C0": "unchanged", "C1": "ok", "C2": "unchanged"}
    assert len(published(tmp_path)) == 3


@row(49)
def test_two_runs_at_once_end_in_the_same_state(tmp_path: Path) -> None:
    """If Kubernetes starts one job twice, every file and every line of the manifest is whole."""
    with mirror(flags()) as origin:
        (tmp_path / "codes").write_text("\n".join(CODES))
        command = [sys.executable, "-m", "job", "--codes-file", "codes", "--url", origin.url]
        both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
        for process in both:
            process.communicate(timeout=TIMEOUT)
        assert [process.returncode for process in both] == [0, 0]
        third = run(origin, tmp_path)
    assert (third.code, set(third.statuses.values()) <= {"ok", "unchanged"}) == (0, True)
    assert third.summary["new"] == third.summary["changed"] == 0
    assert published(tmp_path) == {f"{code}.gif": data for code, data in flags().items()}


@pytest.fixture
def published_set(tmp_path: Path) -> Iterator[tuple[Mirror, Path]]:
    """Publish a set of 250 flags."""
    with mirror(flags()) as origin:
        assert run(origin, tmp_path, FLAGJOB_PUBLISH="set").code == 0
        yield origin, tmp_path


SET = {"FLAGJOB_PUBLISH": "set", "FLAGJOB_MAX_CHANGED": "20%"}
CURRENT = "downloads/current"


def test_a_placeholder_for_everything_is_not_published(published_set: tuple[Mirror, Path]) -> None:
    """If an origin serves one valid picture for all codes, the old set stays, and the log says why."""
    origin, root = published_set
    before = published(root, CURRENT)
    origin.files.update(dict.fromkeys(CODES, GIF))
    done = run(origin, root, CODES, **SET)
    assert (done.code, done.summary["published"], done.summary["changed"]) == (4, False, NUMBER)
    assert len(done.events_named("set_not_published")) == 1
    assert published(root, CURRENT) == before
    assert Counter(change["change"] for change in changes(root)) == {"changed": NUMBER, "summary": 1}

    origin.files.update(flags())
    asked = len(origin.server.requests)
    assert run(origin, root, CODES, **SET).summary["counts"]["unchanged"] == NUMBER
    assert origin.asked(asked) == {"conditional": NUMBER, "plain": 0}


def test_a_set_with_an_error_is_not_published(published_set: tuple[Mirror, Path]) -> None:
    """One failure beyond the budget is enough; within the budget, the new set has the old copy of that file."""
    origin, root = published_set
    before = published(root, CURRENT)
    origin.files.update({"c1": numbered_gif(8888), "c2": Answer(500)})
    refused = run(origin, root, CODES, FLAGJOB_MAX_ATTEMPTS="1", **SET)
    assert (refused.code, refused.summary["published"]) == (3, False)
    assert published(root, CURRENT) == before
    allowed = run(origin, root, CODES, FLAGJOB_MAX_ATTEMPTS="1", FLAGJOB_MAX_ERRORS="1", **SET)
    assert (allowed.code, allowed.summary["published"]) == (0, True)
    assert published(root, CURRENT) == {**before, "c1.gif": numbered_gif(8888)}


def test_a_set_can_be_verified_and_rolled_back(published_set: tuple[Mirror, Path]) -> None:
    """One command shows readers the previous set again, with its manifest."""
    origin, root = published_set
    first = published(root, CURRENT)
    origin.files["c1"] = numbered_gif(8888)
    assert run(origin, root, CODES, **SET).code == 0
    assert published(root, CURRENT) != first
    verified = flagjob("verify", cwd=root)
    assert (verified.code, verified.events_named("verify_finished")[0]["counts"]["whole"]) == (0, NUMBER)
    back = flagjob("rollback", cwd=root)
    assert (back.code, back.events_named("rolled_back")[0]["event"]) == (0, "rolled_back")
    assert published(root, CURRENT) == first
    assert flagjob("verify", cwd=root).events_named("verify_finished")[0]["counts"]["whole"] == NUMBER
    further = flagjob("rollback", cwd=root)
    assert (further.code, len(further.events_named("storage_error"))) == (5, 1)


def test_there_must_be_something_to_verify(tmp_path: Path) -> None:
    """An empty directory and a bucket are usage errors of verify."""
    empty, bucket = flagjob("verify", cwd=tmp_path), flagjob("verify", "--dest", "s3://bucket/x", cwd=tmp_path)
    assert (empty.code, empty.events_named("usage_error")[0]["setting"]) == (2, "FLAGJOB_DEST")
    assert (bucket.code, bucket.events_named("usage_error")[0]["setting"]) == (2, "FLAGJOB_DEST")


def test_free_space_is_required_before_the_first_request(tmp_path: Path) -> None:
    """If all workers together could fill the disk, the run ends before it begins, and says what to change."""
    with mirror(flags(number=1)) as origin:
        done = run(origin, tmp_path, ["c0"], FLAGJOB_MAX_BYTES="1024GiB")
        assert origin.server.connections == 0
    assert (done.code, len(done.events_named("storage_error"))) == (5, 1)
    assert "FLAGJOB_WORKERS x FLAGJOB_MAX_BYTES" in done.events_named("storage_error")[0]["problem"]


def test_shards_divide_the_codes(tmp_path: Path) -> None:
    """Three shards have every code once, and each has its own manifest and checksums."""
    with mirror(flags(number=60)) as origin:
        lines = []
        for index in ("0", "1", "2"):
            settings = {"JOB_COMPLETION_INDEX": index, "FLAGJOB_SHARD_COUNT": "3"}
            done = run(origin, tmp_path, CODES[:60], **settings)
            assert {(line["shard"], line["shards"]) for line in done.events} == {(int(index), 3)}
            lines += done.events_named("result")
        assert sorted(line["code"] for line in lines) == sorted(code.upper() for code in CODES[:60])
        own = sorted(path.name for path in (tmp_path / "downloads" / ".flagjob").glob("manifest*.jsonl"))
        assert own == [f"manifest-{index}-of-3.jsonl" for index in range(3)]
        asked = len(origin.server.requests)
        assert set(run(origin, tmp_path, CODES[:60]).statuses.values()) == {"unchanged"}
        assert origin.asked(asked) == {"conditional": 60, "plain": 0}
    assert len(list((tmp_path / "downloads").glob("SHA256SUMS*"))) == 4
    assert flagjob("verify", cwd=tmp_path).code == 0


def test_a_shard_without_codes_is_no_failure(tmp_path: Path) -> None:
    """With more shards than codes some have none: exit code 0, and a summary that says 0."""
    codes = [flagjob("BR", "--shard-index", str(n), "--shard-count", "3", cwd=tmp_path) for n in range(3)]
    assert [done.code for done in codes] == [0, 0, 0]
    assert sorted(done.summary["codes"] for done in codes) == [0, 0, 1]


def run_with_limited_file_size(root: Path, origin: Mirror, codes: Sequence[str]) -> Done:
    """Run where no file may grow beyond 400 KiB; the kernel's error is then like a full disk's."""
    (root / "codes").write_text("\n".join(codes))
    job = f"ulimit -f 400; exec {sys.executable} -m job --codes-file codes --url {origin.url} --workers 2"
    env, pipe = environment(), subprocess.PIPE
    ended = subprocess.run(["bash", "-c", job], cwd=root, env=env, stdout=pipe, check=False, timeout=TIMEOUT)
    return Done(ended.returncode, ended.stdout, "")


@row(41)
@pytest.mark.parametrize(("number", "size"), [(1400, 0), (40, 500_000)], ids=["manifest", "file"])
def test_a_disk_that_fills_up_ends_the_run(tmp_path: Path, number: int, size: int) -> None:
    """If a file or the manifest cannot grow: exit code 5, one clear error, a line for every code, no partial file."""
    files: dict[str, bytes | Step] = {f"c{n}": numbered_gif(n, size) for n in range(number)}
    with mirror(files) as origin:
        done = run_with_limited_file_size(tmp_path, origin, list(files))
    assert (done.code, len(done.events_named("result")), len(done.events_named("storage_error"))) == (5, number, 1)
    assert "File too large" in done.events_named("storage_error")[0]["problem"]
    assert all(data == files[name.removesuffix(".gif")] for name, data in published(tmp_path).items())


def test_a_set_that_cannot_be_published_is_an_error(tmp_path: Path) -> None:
    """If something else is called `current`, readers see nothing new, and the exit code is 5."""
    (tmp_path / "downloads" / "current").mkdir(parents=True)
    done = flagjob("BR", cwd=tmp_path, settings={"FLAGJOB_PUBLISH": "set"})
    assert (done.code, done.summary["published"], len(done.events_named("storage_error"))) == (5, False, 1)
    assert list((tmp_path / "downloads" / "generations").iterdir()) == []


@pytest.fixture
def gone_files(tmp_path: Path) -> Path:
    """Return a destination with two files that the origin has no more."""
    with mirror(flags(number=2)) as origin:
        run(origin, tmp_path, ["c0", "c1"])
        origin.files = {name: Answer(404) for name in origin.files}
        run(origin, tmp_path, ["c0", "c1"])
    return tmp_path / "downloads"


def test_a_failure_to_forget_is_a_storage_error(gone_files: Path) -> None:
    """Verify ends with exit code 5 and one clear error, not a traceback."""
    (gone_files / "SHA256SUMS").unlink()
    (gone_files / "SHA256SUMS").mkdir()
    done = flagjob("verify", "--delete", cwd=gone_files.parent)
    assert (done.code, len(done.events_named("storage_error"))) == (5, 1)


def test_a_signal_ends_verify_and_what_was_deleted_is_forgotten(gone_files: Path) -> None:
    """The file under inspection when the signal came is the last one; the exit code is 143, with the counts so far."""
    cancellation, lines = Cancellation(), list[bytes]()

    def tell(line: bytes) -> None:
        lines.append(line)
        cancellation.request(Reason.SIGNAL, signal.SIGTERM)

    settings = load(parse_arguments(["--dest", str(gone_files)]), {})
    assert maintenance.verify(settings, RunLog(WatchedLog(tell)), cancellation, delete=True) == 143
    counts = json.loads(lines[-1])["counts"]
    assert (
        counts["deleted"],
        len(published(gone_files.parent)),
        len((gone_files / "SHA256SUMS").read_text().splitlines()),
    ) == (
        1,
        1,
        1,
    )
    left = flagjob("verify", cwd=gone_files.parent)
    assert (left.code, left.events_named("verify_finished")[0]["counts"]["gone"]) == (0, 1)


def test_a_signal_ends_the_command_too(tmp_path: Path) -> None:
    """A `verify` that waits for a slow reader ends after SIGTERM without another file."""
    assert flagjob("ALL", cwd=tmp_path).code == 0
    for file in published(tmp_path):
        (tmp_path / "downloads" / file).unlink()
    with start_flagjob("verify", cwd=tmp_path, pipe_bytes=4096) as process:  # a few of 249 lines
        wait_for_signal_handlers(process, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=TIMEOUT)
    done = Done(process.returncode, stdout, "")
    assert done.code == 143
    assert done.events_named("verify_finished")[0]["counts"]["missing"] == len(done.events_named("file")) < 249


def test_a_dry_run_deletes_nothing(gone_files: Path) -> None:
    """A dry run of verify only reports what is gone; rollback has no dry run, and neither takes codes."""
    dry = flagjob("verify", "--delete", "--dry-run", cwd=gone_files.parent)
    assert (dry.code, dry.events_named("verify_finished")[0]["counts"]["gone"], len(published(gone_files.parent))) == (
        0,
        2,
        2,
    )
    wrong = [["verify", "--delete", "c0"], ["rollback", "c0"], ["rollback", "--dry-run"]]
    faults = [flagjob(*words, cwd=gone_files.parent) for words in wrong]
    assert [(done.code, done.events[0]["setting"]) for done in faults] == [
        (2, "arguments"),
        (2, "arguments"),
        (2, "--dry-run"),
    ]
    assert len(published(gone_files.parent)) == 2


def test_verify_reads_what_is_published(tmp_path: Path) -> None:
    """If a destination has single files and sets, the setting says which of them verify reads."""
    flagjob("BR", "CN", cwd=tmp_path)
    flagjob("BR", "--publish=set", cwd=tmp_path)
    (tmp_path / "downloads" / "cn.gif").write_bytes(b"rotten")
    files, sets = flagjob("verify", cwd=tmp_path), flagjob("verify", "--publish=set", cwd=tmp_path)
    assert (files.code, sets.code) == (4, 0)
    assert sets.events_named("verify_finished")[0]["counts"]["whole"] == 1
