"""Whole runs into a real S3 server: objects are whole, the manifest is kept, a second run costs almost nothing."""

import json
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import md5, sha256
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from secrets import token_hex
from threading import Event
from typing import Any
from urllib.parse import unquote

import pytest
from command import TIMEOUT, Done, flagjob, start_flagjob
from images import GIF, HTML, numbered_gif
from mirror import Mirror, mirror
from obstore.store import S3Store
from scripted import Answer, Hold, Raw, Request, ScriptedServer, Stall, Step
from seaweed import BUCKET, READER, WRITER, Seaweed

pytestmark = pytest.mark.s3

NUMBER = 50
CODES = [f"c{number}" for number in range(NUMBER)]
CUT = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + GIF)


@dataclass
class RunPrefix:
    """A prefix of a test's own in the bucket, with the settings of runs that write to it."""

    url: str
    endpoint: str
    root: Path
    outside: S3Store
    """Another client of the prefix."""

    def settings(self, origin: Mirror, **more: str) -> dict[str, str]:
        given = {"FLAGJOB_URL": origin.url, "FLAGJOB_CODES_FILE": "codes", "FLAGJOB_DEST": self.url}
        return {**given, **WRITER, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.endpoint, **more}

    def write(self, codes: Sequence[str]) -> None:
        (self.root / "codes").write_text("\n".join(codes))

    def run(self, origin: Mirror, codes: Sequence[str] = CODES, /, **more: str) -> Done:
        self.write(codes)
        return flagjob(cwd=self.root, settings=self.settings(origin, **more))

    def list_objects(self, below: str | None = None) -> dict[str, tuple[str | None, object]]:
        """Return the ETag and the time of every object by its path."""
        found = (item for page in self.outside.list(below) for item in page)
        return {item["path"]: (item["e_tag"], item["last_modified"]) for item in found}

    def flags(self) -> dict[str, tuple[str | None, object]]:
        return {path: facts for path, facts in self.list_objects().items() if path.endswith(".gif")}

    def segments(self) -> list[str]:
        return sorted(self.list_objects(".flagjob/manifest"))

    def read(self, path: str) -> bytes:
        return bytes(self.outside.get(path).bytes())

    def changes(self) -> list[dict[str, Any]]:
        """Return the changes that the last run listed."""
        last = max(self.list_objects(".flagjob/changes"))
        return [json.loads(line) for line in self.read(last).splitlines()]

    def recorded_codes(self) -> set[str]:
        lines = (json.loads(line) for segment in self.segments() for line in self.read(segment).splitlines())
        return {line["code"] for line in lines if "code" in line}


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    with Seaweed() as server:
        yield server


@pytest.fixture
def prefix(seaweed: Seaweed, tmp_path: Path) -> RunPrefix:
    url = f"s3://{BUCKET}/{token_hex(8)}"
    name, secret = WRITER.values()
    outside = S3Store.from_url(
        url,
        endpoint=seaweed.endpoint,
        region="us-east-1",
        access_key_id=name,
        secret_access_key=secret,
        client_options={"allow_http": True},
    )
    return RunPrefix(url, seaweed.endpoint, tmp_path, outside)


class Forwarding(Mapping[str, Callable[[Request], Step]]):
    """A script for every path: calls `before` with a request, forwards it to another server, returns the response."""

    def __init__(self, endpoint: str, before: Callable[[Request], object]) -> None:
        self._address = endpoint.removeprefix("http://")
        self._before = before

    def __getitem__(self, _path: str) -> Callable[[Request], Step]:
        return self._forward

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def _forward(self, request: Request) -> Step:
        self._before(request)
        there = HTTPConnection(self._address, timeout=TIMEOUT)
        there.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            there.putheader(name, value)
        there.endheaders(request.body or None)
        answer = there.getresponse()
        body = answer.read()
        there.close()
        ours = {"content-length", "transfer-encoding", "connection"}
        return Answer(answer.status, {n: v for n, v in answer.getheaders() if n.lower() not in ours}, body)


@contextmanager
def recording_proxy(prefix: RunPrefix, before: Callable[[Request], object] = bool) -> Iterator[ScriptedServer]:
    """Put a server between runs and their bucket that records each request."""
    direct = prefix.endpoint
    with ScriptedServer(Forwarding(direct, before)) as server:
        prefix.endpoint = server.url().removesuffix("/")
        try:
            yield server
        finally:
            prefix.endpoint = direct


def flags(number: int = NUMBER) -> dict[str, bytes | Step]:
    return {f"c{n}": numbered_gif(n) for n in range(number)}


def sums(files: Mapping[str, object]) -> list[str]:
    """Return the lines that SHA256SUMS must have, sorted."""
    digests = {name: sha256(data).hexdigest() for name, data in files.items() if isinstance(data, bytes)}
    return sorted(f"{digest}  {name}.gif" for name, digest in digests.items())


def test_a_run_that_changes_nothing_writes_nothing(prefix: RunPrefix) -> None:
    """A second run sends 50 conditional requests, requests no item's object and puts none; exit 0."""
    with mirror(flags()) as origin:
        first = prefix.run(origin)
        before = prefix.list_objects()
        asked = len(origin.server.requests)
        assert (first.code, len(prefix.flags())) == (0, NUMBER)
        assert sorted(prefix.read("SHA256SUMS").decode().splitlines()) == sums(origin.files)
        with recording_proxy(prefix) as bucket:
            second = prefix.run(origin)
            requests = bucket.requests
        assert origin.asked(asked) == {"conditional": NUMBER, "plain": 0}
    assert (second.code, second.summary["counts"]["unchanged"], second.summary["bytes"]) == (0, NUMBER, 0)
    assert prefix.changes()[0]["unchanged"] == NUMBER
    written = {unquote(request.target) for request in requests if request.method == "PUT"}
    assert [target for target in written if "/.flagjob/" not in target] == []
    assert [request.target for request in requests if ".gif" in request.target] == []
    assert len(requests) < NUMBER / 2
    after = prefix.list_objects()
    assert [path for path in after if after[path] != before.get(path) and not path.startswith(".flagjob/")] == []


def test_one_change_is_one_object(prefix: RunPrefix) -> None:
    """Of 50 objects only the changed one is put; the list of changes has both digests, and SHA256SUMS the new one."""
    with mirror(flags()) as origin:
        prefix.run(origin)
        before = prefix.flags()
        old = numbered_gif(7)
        new = numbered_gif(9999)
        origin.files["c7"] = new
        done = prefix.run(origin)
        assert sorted(prefix.read("SHA256SUMS").decode().splitlines()) == sums(origin.files)
    after = prefix.flags()
    assert [path for path in after if after[path] != before[path]] == ["c7.gif"]
    assert (done.code, done.summary["counts"]["unchanged"], done.summary["changed"]) == (0, NUMBER - 1, 1)
    assert prefix.changes()[0] == {
        "change": "changed",
        "code": "C7",
        "file": "c7.gif",
        "old_sha256": sha256(old).hexdigest(),
        "sha256": sha256(new).hexdigest(),
    }


def test_a_failed_update_costs_no_good_copy(prefix: RunPrefix) -> None:
    """Each old object stays as it was, each item is an error with its reason, and the manifest keeps its entries."""
    faults: list[tuple[Step, str]] = [
        (CUT, "truncated"),
        (Answer(body=HTML), "bad_content"),
        (Answer(), "empty"),
        (Answer(206, body=GIF), "http_206"),
        (Answer(body=numbered_gif(77)), "checksum"),
    ]
    codes = CODES[: len(faults)]
    with mirror(flags(len(faults))) as origin:
        prefix.run(origin, codes)
        good = {code: prefix.read(f"{code}.gif") for code in codes}
        (prefix.root / "sums").write_text(f"{sha256(good['c4']).hexdigest()}  c4.gif\n")
        before = prefix.flags()
        origin.files.update({code: step for code, (step, _) in zip(codes, faults, strict=True)})
        done = prefix.run(origin, codes, FLAGJOB_MAX_ATTEMPTS="1", FLAGJOB_CHECKSUMS="sums")
        reasons = {line["code"].lower(): (line["status"], line["reason"]) for line in done.events_named("result")}
        assert reasons == {code: ("error", reason) for code, (_, reason) in zip(codes, faults, strict=True)}
        assert (done.code, prefix.flags()) == (3, before)
        assert {code: prefix.read(f"{code}.gif") for code in codes} == good == flags(len(faults))

        origin.files.update(flags(len(faults)))
        asked = len(origin.server.requests)
        assert set(prefix.run(origin, codes).statuses.values()) == {"unchanged"}
        assert origin.asked(asked) == {"conditional": len(faults), "plain": 0}


def test_a_killed_run_loses_little_and_breaks_nothing(prefix: RunPrefix) -> None:
    """After SIGKILL every object is whole, and the next run downloads again only the codes that were not recorded."""
    total = 1120
    served = 1080
    files = flags(total)
    never = Event()
    with mirror(dict(files)) as origin:
        origin.files.update({f"c{n}": Hold(never, Answer()) for n in range(served, total)})
        prefix.write(list(files))
        with start_flagjob(cwd=prefix.root, settings=prefix.settings(origin)) as process:
            assert process.stdout
            results = (line for line in process.stdout if b'"event":"result"' in line)
            # A batch has at most 64 results, so the upload with the batch of the 1000th came before the 1065th line.
            assert len(list(islice(results, 1065))) == 1065
            process.kill()
            process.wait(TIMEOUT)
        recorded = prefix.recorded_codes()
        etags = {f"c{n}.gif": f'"{md5(numbered_gif(n)).hexdigest()}"' for n in range(total)}  # noqa: S324  (S3's ETag)
        found = {path: etag for path, (etag, _) in prefix.flags().items()}
        assert (found, 0 < len(recorded) < len(found)) == ({path: etags[path] for path in found}, True)

        origin.files.update(files)
        asked = len(origin.server.requests)
        done = prefix.run(origin, list(files))
        assert origin.asked(asked) == {"conditional": len(recorded), "plain": total - len(recorded)}
    assert (done.code, {path: etag for path, (etag, _) in prefix.flags().items()}) == (0, etags)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "guess"}, "SignatureDoesNotMatch"),
        (READER, "AccessDenied"),
        ({"FLAGJOB_DEST": "s3://no-such-bucket/x"}, "NoSuchBucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot be written"),
    ],
    ids=["wrong secret", "may not write", "no bucket", "no server"],
)
def test_a_bucket_that_is_not_writable_ends_the_run_before_a_request(
    prefix: RunPrefix, wrong: dict[str, str], words: str
) -> None:
    """Exit 5 with one error, every code cancelled, and no connection to the origin."""
    with mirror(flags(1)) as origin:
        done = prefix.run(origin, CODES[:1], **wrong)
        assert (done.code, origin.server.connections) == (5, 0)
    (line,) = done.events_named("storage_error")
    assert words in line["problem"]
    assert done.statuses == {CODES[0].upper(): "cancelled"}


def test_a_bucket_that_does_not_answer_does_not_hold_a_run(tmp_path: Path) -> None:
    """SIGTERM, or the deadline, while the bucket is opened: a result for each code, and its exit code."""
    with socket.create_server(("127.0.0.1", 0)) as silent, mirror(flags(2)) as origin:
        prefix = RunPrefix(f"s3://{BUCKET}/x", f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, S3Store(BUCKET))
        prefix.write(CODES[:2])
        with start_flagjob(cwd=tmp_path, settings=prefix.settings(origin)) as process:
            silent.accept()[0].close()
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        by_signal = Done(process.returncode, stdout, stderr.decode())
        in_time = prefix.run(origin, CODES[:2], FLAGJOB_DEADLINE="1")
        assert origin.server.connections == 0
    for done, code, reason in ((by_signal, 143, "signal"), (in_time, 7, "deadline")):
        assert (done.code, done.summary["published"], done.stderr) == (code, False, "")
        results = [(line["code"], line["status"], line["reason"]) for line in done.events_named("result")]
        assert results == [(code.upper(), "cancelled", reason) for code in CODES[:2]]
    assert not any(
        secret in done.stdout.decode() + done.stderr for secret in (*WRITER.values(), "guess", "read-sesame")
    )


class SilentManifest(dict[str, Step]):
    """A bucket that accepts every object but a segment of the manifest, where it falls silent."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = Event()

    def get(self, _path: str, _default: object = None) -> Any:
        """Return what answers any path."""
        return self._answer

    def _answer(self, request: Request) -> Step:
        if request.method == "GET":
            return Answer(body=b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        if request.method == "POST":
            return Answer(body=b"<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>")
        if "manifest" in request.target:
            self.silent.set()
            return Stall()
        return Answer(headers={"ETag": '"1"'})


def test_a_bucket_that_falls_silent_at_the_end_does_not_hold_a_run(tmp_path: Path) -> None:
    """SIGTERM while the manifest is uploaded ends the run after its grace, not after the bucket's time-outs."""
    bucket = SilentManifest()
    with ScriptedServer(bucket) as server, mirror(flags(1)) as origin:
        prefix = RunPrefix(f"s3://{BUCKET}/x", server.url("").rstrip("/"), tmp_path, S3Store(BUCKET))
        prefix.write(CODES[:1])
        settings = {**prefix.settings(origin), "FLAGJOB_SHUTDOWN_GRACE": "0.1"}
        with start_flagjob(cwd=tmp_path, settings=settings) as process:
            assert bucket.silent.wait(TIMEOUT)
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=25)  # less than the bucket is waited for without a signal
        done = Done(process.returncode, stdout, "")
    assert (done.code, done.summary["published"], list(done.statuses.values())) == (143, False, ["ok"])
    assert "FLAGJOB_SHUTDOWN_GRACE" in done.events_named("storage_error")[0]["problem"]


def test_credentials_that_cannot_be_sent_are_a_usage_error(prefix: RunPrefix) -> None:
    """A secret with a line break, as `echo` leaves it, is a usage error before any request."""
    with mirror(flags(1)) as origin:
        done = prefix.run(origin, CODES[:1], AWS_SECRET_ACCESS_KEY="open-sesame\n")  # noqa: S106  (the test's own)
        assert (done.code, origin.server.connections) == (2, 0)
    (line,) = done.events
    assert (line["event"], line["setting"]) == ("usage_error", "AWS_SECRET_ACCESS_KEY")
    assert b"open-sesame" not in done.stdout


def test_a_bucket_that_dies_ends_the_run(prefix: RunPrefix, seaweed: Seaweed) -> None:
    """Exit 5, every code has its result, and an item that could not be put has the error of the storage.

    An item has seven seconds here, and what follows five: the usual thirty would make a long test.
    """
    alive = 10
    release = Event()
    with ExitStack() as stack:
        gateway = stack.enter_context(seaweed.gateway())
        origin = stack.enter_context(mirror(flags()))
        origin.files.update({f"c{n}": Hold(release, Answer(body=numbered_gif(n))) for n in range(alive, NUMBER)})
        prefix.write(CODES)
        times = {"FLAGJOB_WORKERS": "20", "FLAGJOB_ITEM_TIMEOUT": "7"}
        settings = prefix.settings(origin, AWS_ENDPOINT_URL=gateway.url, **times)
        process = stack.enter_context(start_flagjob(cwd=prefix.root, settings=settings))
        assert process.stdout
        lines = list(islice(process.stdout, alive + 1))  # the first tells of the start
        gateway.kill()
        release.set()
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    done = Done(process.returncode, b"".join([*lines, stdout]), stderr.decode())
    results = done.events_named("result")
    assert (done.code, done.stderr, len(results), len(done.statuses)) == (5, "", NUMBER, NUMBER)
    kinds = {(line["status"], line["reason"]) for line in results}
    assert kinds == {("ok", None), ("error", "storage"), ("cancelled", "storage")}
    errors = [line["error"] for line in results if line["status"] == "error"]
    assert all(error.startswith(f"{prefix.url}/") for error in errors)
    assert (done.summary["outcome"], len(done.events_named("storage_error"))) == ("storage", 1)


def test_shards_share_a_bucket_and_another_count_inherits(prefix: RunPrefix) -> None:
    """Two pods fill one bucket at once; a run without shards then has the entries of both."""
    with mirror(flags()) as origin:
        prefix.write(CODES)
        with ExitStack() as stack:
            settings = prefix.settings(origin, FLAGJOB_SHARD_COUNT="2")
            both = [
                stack.enter_context(start_flagjob("--shard-index", index, cwd=prefix.root, settings=settings))
                for index in "01"
            ]
            for process in both:
                process.communicate(timeout=TIMEOUT)
            assert [process.returncode for process in both] == [0, 0]
        before = prefix.flags()
        shares = [prefix.read(f"SHA256SUMS-{index}-of-2").decode().splitlines() for index in (0, 1)]
        assert (len(before), sorted(shares[0] + shares[1])) == (NUMBER, sums(origin.files))
        assert min(map(len, shares)) > 0

        asked = len(origin.server.requests)
        done = prefix.run(origin)
        assert origin.asked(asked) == {"conditional": NUMBER, "plain": 0}
    assert (done.code, done.summary["counts"]["unchanged"], prefix.flags()) == (0, NUMBER, before)
    assert sorted(prefix.read("SHA256SUMS").decode().splitlines()) == sums(flags())


def test_a_concurrent_compaction_loses_no_entry(prefix: RunPrefix) -> None:
    """A segment that another pod compacts between its listing and its reading is found under its new name."""
    codes = CODES[:5]
    with mirror(flags(5)) as origin:
        prefix.run(origin, codes)
        (segment,) = prefix.segments()
        other = prefix.outside
        compacted = Event()

        def compact(request: Request) -> None:
            if request.method == "GET" and unquote(request.target).endswith(segment):
                other.put(f"{segment}-compacted", other.get(segment).bytes())
                other.delete(segment)
                compacted.set()

        asked = len(origin.server.requests)
        with recording_proxy(prefix, compact):
            done = prefix.run(origin, codes)
        assert (compacted.is_set(), done.code) == (True, 0)
        assert origin.asked(asked) == {"conditional": 5, "plain": 0}


def test_runs_leave_few_objects_of_their_own(prefix: RunPrefix) -> None:
    """After a second run the manifest is one segment, and the changes of ten runs are kept for each shard count."""
    with mirror(flags(1)) as origin:
        prefix.run(origin, CODES[:1])
        for number in range(12):
            prefix.outside.put(f".flagjob/changes/changes-20260101T0000{number:02}.000000Z.jsonl", b"{}")
            prefix.outside.put(f".flagjob/changes/changes-3-of-8-20260101T0000{number:02}.000000Z.jsonl", b"{}")
        prefix.run(origin, CODES[:1])
    changes = sorted(prefix.list_objects(".flagjob/changes"))
    mine = [path for path in changes if "-of-" not in path]
    assert (len(prefix.segments()), len(mine), len(changes) - len(mine)) == (1, 10, 12)
    assert json.loads(prefix.read(mine[-1]).splitlines()[-1])["unchanged"] == 1
