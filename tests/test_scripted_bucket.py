"""BucketStorage with buckets that do what no real server on this machine does, by a scripted S3 server."""

import re
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from hashlib import md5, sha256
from io import BytesIO
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
import trustme
from command import TIMEOUT, Done, start_flagjob
from images import GIF
from inprocess import run
from mirror import mirror
from rows import line_of, row
from scripted import Answer, Raw, Request, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import PathError, StorageError
from job.model import Stored
from job.storage import BucketStorage
from job.storage.bucket import location_of
from job.storage.bucket_client import BucketClient, BucketTimeouts

_LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
_OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-22T13:57:56.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size></Contents>"
)
_MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


class Bucket(dict[str, Any]):
    """A script for every path of a bucket `b`, whose objects are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.refuse: Callable[[Request], Step | None] = lambda _: None
        self.page_objects = 1000
        self.is_by_name = True
        self.listed_etag: Callable[[str], str] = str
        """The ETag in a listing, made from that of a put; `read_etag` is the one of a get."""
        self.read_etag: Callable[[str], str] = str
        self.read_keys: list[str] = []

    def get(self, key: str, default: object = None) -> Callable[[Request], Step]:
        """Return what answers any path."""
        del key, default
        return self._answer

    def _answer(self, request: Request) -> Step:
        path, _, query = request.target.partition("?")
        key = unquote(path.removeprefix("/b").removeprefix("/"))
        refusal = self.refuse(request)
        if refusal:
            return refusal
        if request.method == "PUT":
            self.objects[key] = request.body
            return Answer(200, {"ETag": f'"{_etag(request.body)}"'})
        if request.method == "POST":
            deleted = re.findall("<Key>(.*?)</Key>", request.body.decode())
            for each in deleted:
                self.objects.pop(each, None)
            lines = "".join(f"<Deleted><Key>{each}</Key></Deleted>" for each in deleted)
            return Answer(body=f"<DeleteResult>{lines}</DeleteResult>".encode())
        return self._listing(dict(parse_qsl(query))) if "list-type" in query else self._read(key)

    def _listing(self, query: dict[str, str]) -> Answer:
        """Return a page of the objects below a prefix, in the order of their names or in the reverse of it."""
        keys = sorted((key for key in self.objects if key.startswith(query["prefix"])), reverse=not self.is_by_name)
        first = int(query.get("continuation-token", 0))
        page = [key for key in keys if key > query.get("start-after", "")][first : first + self.page_objects]
        lines = [
            _OBJECT.format(key=key, etag=self.listed_etag(_etag(self.objects[key])), size=len(self.objects[key]))
            for key in page
        ]
        if len(page) == self.page_objects:
            lines.append(_MORE.format(first + len(page)))
        return Answer(body=_LISTING.format("".join(lines)).encode())

    def _read(self, key: str) -> Answer:
        self.read_keys.append(key)
        if key not in self.objects:
            return Answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        data = self.objects[key]
        date = f"{datetime(2026, 11, 22):%a, %d %b %Y %H:%M:%S GMT}"  # noqa: DTZ001  (a date as the protocol has it)
        return Answer(200, {"ETag": f'"{self.read_etag(_etag(data))}"', "Last-Modified": date}, data)


def _etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def variables(endpoint: str) -> dict[str, str]:
    """Return the environment variables of clients of an endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint.removesuffix("/"),
        "AWS_ACCESS_KEY_ID": "writer",
        "AWS_SECRET_ACCESS_KEY": "sesame",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def new_client(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BucketTimeouts], BucketClient]:
    """Return a function that makes a client of the bucket at an endpoint."""

    def make(endpoint: str, timeouts: BucketTimeouts) -> BucketClient:
        for name, value in variables(endpoint).items():
            monkeypatch.setenv(name, value)
        return BucketClient(location_of("s3://b/p"), timeouts, None)

    return make


NewClient = Callable[[str, BucketTimeouts], BucketClient]


@pytest.fixture
def new_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedServer], BucketStorage]:
    """Return a function that opens the storage of a server's bucket."""

    def make(server: ScriptedServer) -> BucketStorage:
        for name, value in variables(server.url()).items():
            monkeypatch.setenv(name, value)
        storage = BucketStorage("s3://b/p", tmp_path)
        storage.open()
        return storage

    return make


NewStorage = Callable[[ScriptedServer], BucketStorage]


def put(storage: BucketStorage, file: str, data: bytes) -> Stored:
    with closing(storage.new_body()) as body:
        body.write(data)
        version = storage.publish(body, file, "image/gif")
        return Stored(file, body.size, body.sha256, "image/gif", version=version)


@row(57)
@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (409, "BlobImmutableDueToPolicy"), (423, "Locked"), (400, "Odd")]
)
@pytest.mark.parametrize("is_one", [True, False])
def test_an_object_that_is_refused_costs_one_item_or_all(
    new_storage: NewStorage, status: int, code: str, *, is_one: bool
) -> None:
    """An object that a policy protects is a PathError; where a probe is refused, too, it is a StorageError."""
    bucket = Bucket()
    refusal = Answer(status, body=f"<Error><Code>{code}</Code></Error>".encode())
    with ScriptedServer(bucket) as server:
        storage = new_storage(server)
        refused = "/br.gif" if is_one else "/p/"
        bucket.refuse = lambda request: refusal if request.method == "PUT" and refused in request.target else None
        with pytest.raises(StorageError) as caught:
            put(storage, "br.gif", GIF)
        if is_one:
            put(storage, "cn.gif", GIF)
    assert isinstance(caught.value, PathError) is is_one
    assert re.fullmatch(rf"s3://b/p/br.gif: cannot be written: {status} .*\({code}\)", str(caught.value))
    assert list(bucket.objects) == ["p/cn.gif"] * is_one


@row(59)
@pytest.mark.parametrize("read_etag", ["as put", "as listed"])
def test_a_listing_with_other_etags_is_compared_once(new_storage: NewStorage, read_etag: str) -> None:
    """Where a listing shows another ETag than a put gave, an object is read once, and the listed ETag is remembered."""
    bucket = Bucket()
    bucket.listed_etag = lambda etag: f"{etag}-1"
    if read_etag == "as listed":
        bucket.read_etag = bucket.listed_etag
    said: list[str] = []
    with ScriptedServer(bucket) as server:
        known = put(new_storage(server), "br.gif", GIF)
        first = new_storage(server)
        first.on_limitation = said.append
        is_intact = first.is_intact(known)
        version = first.verified_version(known)
        second = new_storage(server)
        is_remembered = second.is_intact(replace(known, version=version))
    assert (is_intact, version, is_remembered, bucket.read_keys) == (False, f"{known.version}-1", True, ["p/br.gif"])
    assert [problem.partition(":")[0] for problem in said] == [
        "its listing has other ETags than were recorded, for the same bytes"
    ]


@row(59)
def test_an_object_that_was_copied_is_compared_once(new_storage: NewStorage) -> None:
    """A copy with another ETag, in a store that lists what it gave, is read once, and the new ETag is remembered."""
    bucket = Bucket()
    with ScriptedServer(bucket) as server:
        known = put(new_storage(server), "br.gif", GIF)
        former = replace(known, version="another")
        storage = new_storage(server)
        assert not storage.is_intact(former)
        assert (storage.verified_version(former), storage.is_intact(known)) == (known.version, True)


@row(59)
@pytest.mark.parametrize("change", ["other bytes", "another size", "gone", "refused", "no version", "no digest"])
def test_only_the_same_bytes_are_verified(new_storage: NewStorage, change: str) -> None:
    """An object with other bytes, or one that cannot be read, is not taken for the recorded one."""
    bucket = Bucket()
    with ScriptedServer(bucket) as server:
        storage = new_storage(server)
        known = put(storage, "br.gif", GIF)
        if change in {"other bytes", "another size"}:
            bucket.objects["p/br.gif"] = {"other bytes": GIF[:-1] + b"x", "another size": GIF + b"x"}[change]
        elif change in {"gone", "no digest"}:
            bucket.objects.clear()
        elif change == "refused":
            bucket.refuse = lambda _: Answer(403, body=b"<Error><Code>AccessDenied</Code></Error>")
        if change == "no version":
            known = replace(known, version=None)
        elif change == "no digest":
            known = replace(known, sha256="")
        assert storage.verified_version(known) is None


@row(59)
def test_a_run_that_changes_nothing_writes_nothing_where_etags_differ(new_storage: NewStorage) -> None:
    """SHA256SUMS, too, is uploaded once, compared once, and then left alone."""
    bucket = Bucket()
    bucket.listed_etag = lambda etag: f"{etag}-1"
    written: list[list[str]] = []
    with mirror({"br": GIF}) as origin, ScriptedServer(bucket) as server:
        new_storage(server)
        for number in range(4):
            since = len(server.requests)
            done = run(["br"], Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url)
            puts = (request.target for request in server.requests[since:] if request.method == "PUT")
            written.append([name for name in puts if "/.flagjob/" not in name or "/sums/" in name])
            assert (done.code, len(done.events_named("destination_limited"))) == (0, number == 1)
        assert origin.asked() == {"conditional": 3, "plain": 1}
    sums = "/b/p/.flagjob/sums/SHA256SUMS"
    assert written == [["/b/p/br.gif", "/b/p/SHA256SUMS", sums], [sums], [], []]


PATIENT = BucketTimeouts(retry_seconds=10, first_retry_seconds=0, longest_pause_seconds=0.01)
"""Retries for long, with short pauses."""
SLOW_DOWN = Answer(503, body=b"<Error><Code>SlowDown</Code></Error>")
DELETED_IN_PART = b"<DeleteResult><Error><Key>p/br.gif</Key><Code>SlowDown</Code></Error></DeleteResult>"
CUT_LISTING = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n<ListBucketResult>"
BUSY: dict[str, Step] = {
    "503": SLOW_DOWN,
    "500": Answer(500, body=b"<Error><Code>InternalError</Code></Error>"),
    "502": Answer(502),
    "429": Answer(429),
    "408": Answer(408),
    "400": Answer(400, body=b"<Error><Code>RequestTimeout</Code></Error>"),
    "409": Answer(409, body=b"<Error><Code>OperationAborted</Code></Error>"),
    "reset": Raw(b"", reset=True),
    "closed": Raw(b""),
}
CALLS: dict[str, Callable[[BucketClient], object]] = {
    "put": lambda client: client.put("br.gif", GIF),
    "get": lambda client: b"".join(client.read("br.gif")),
    "digest": lambda client: client.digest("br.gif", len(GIF)),
    "list": lambda client: [found.path for found in client.list_objects()],
    "delete": lambda client: client.delete(["br.gif"]),
}
RESULTS = {
    "put": _etag(GIF),
    "get": GIF,
    "digest": (_etag(GIF), sha256(GIF).hexdigest()),
    "list": ["br.gif"],
    "delete": None,
}


@row(71)
@pytest.mark.parametrize(
    ("call", "busy"),
    [
        *(pytest.param(call, step, id=f"{call} {name}") for call in CALLS for name, step in BUSY.items()),
        pytest.param("list", Raw(CUT_LISTING), id="list cut"),
        pytest.param("list", Raw(CUT_LISTING, reset=True), id="list reset in the body"),
        pytest.param("delete", Raw(CUT_LISTING), id="delete cut"),
        pytest.param("delete", Answer(body=DELETED_IN_PART), id="delete in part"),
    ],
)
@pytest.mark.slow
def test_every_call_waits_for_a_bucket_that_is_busy(new_client: NewClient, call: str, busy: Step) -> None:
    """A call is repeated, more often than the three times that are usual, until it succeeds."""
    bucket = Bucket()
    bucket.objects["p/br.gif"] = GIF
    with ScriptedServer(bucket) as server:
        client = new_client(server.url(), PATIENT)
        client.expect_answers()
        bucket.refuse = lambda _: busy if len(server.requests) <= 8 else None
        assert CALLS[call](client) == RESULTS[call]
        assert len(server.requests) == 9


@row(71)
@pytest.mark.parametrize("busy", BUSY.values(), ids=BUSY)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.slow
def test_a_call_is_not_repeated_for_ever(new_client: NewClient, call: str, busy: Step) -> None:
    """A bucket that stays busy is an error when the time is over."""
    bucket = Bucket()
    bucket.refuse = lambda _: busy
    with ScriptedServer(bucket) as server:
        client = new_client(server.url(), replace(PATIENT, retry_seconds=0.3))
        client.expect_answers()
        began = monotonic()
        with pytest.raises(StorageError):
            CALLS[call](client)
        assert monotonic() - began > 0.2


@row(71)
@pytest.mark.parametrize(
    "refusal",
    [
        Answer(403, body=b"<Error><Code>AccessDenied</Code></Error>"),
        Answer(404, body=b"<Error><Code>NoSuchBucket</Code></Error>"),
        Answer(400, body=b"<Error><Code>InvalidRequest</Code></Error>"),
        Answer(409, body=b"<Error><Code>BlobImmutableDueToPolicy</Code></Error>"),
    ],
)
def test_a_refusal_is_not_repeated(new_client: NewClient, refusal: Answer) -> None:
    """What waiting does not change is an error at once."""
    bucket = Bucket()
    bucket.refuse = lambda _: refusal
    with ScriptedServer(bucket) as server:
        with pytest.raises(StorageError):
            CALLS["put"](new_client(server.url(), PATIENT))
        assert len(server.requests) == 1


@row(71)
def test_a_bucket_that_is_busy_at_first_is_waited_for(new_client: NewClient) -> None:
    """Before its first other answer, too, a bucket that answers is given all of the time."""
    bucket = Bucket()
    with ScriptedServer(bucket) as server:
        bucket.refuse = lambda _: SLOW_DOWN if len(server.requests) <= 8 else None
        assert CALLS["put"](new_client(server.url(), PATIENT)) == RESULTS["put"]


@row(71)
@pytest.mark.parametrize("has_answered", [True, False])
def test_a_bucket_that_is_not_there_is_an_error_sooner(new_client: NewClient, *, has_answered: bool) -> None:
    """Where no connection comes about before the first answer, a wrong address is more likely than a restart."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = new_client(endpoint, replace(PATIENT, retry_seconds=1 if has_answered else TIMEOUT))
    if has_answered:
        client.expect_answers()
    began = monotonic()
    with pytest.raises(StorageError, match="Connection refused"):
        CALLS["put"](client)
    earliest = 0.9 if has_answered else 0.0
    assert earliest <= monotonic() - began < TIMEOUT


@row(71)
@pytest.mark.parametrize("is_by_name", [True, False])
def test_a_listing_goes_on_where_it_broke(
    new_client: NewClient, monkeypatch: pytest.MonkeyPatch, *, is_by_name: bool
) -> None:
    """A listing goes on behind the last object that came; where objects are not listed by name it begins again."""
    monkeypatch.setattr("job.storage.bucket_client._PAGE_OBJECTS", 2)
    bucket = Bucket()
    bucket.page_objects = 2
    bucket.is_by_name = is_by_name
    names = [f"{number}.gif" for number in range(7)]
    bucket.objects = dict.fromkeys((f"p/{name}" for name in names), GIF)
    with ScriptedServer(bucket) as server:
        client = new_client(server.url(), PATIENT)
        bucket.refuse = lambda _: Raw(CUT_LISTING) if len(server.requests) in {1, 3, 4} else None
        found = Counter(each.path for each in client.list_objects())
        after = {query["start-after"] for query in map(listing_query, server.requests) if "start-after" in query}
    assert sorted(found) == names
    assert set(found.values()) == {1} if is_by_name else max(found.values()) == 2
    assert after == ({"p/1.gif"} if is_by_name else set())


def listing_query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.target.partition("?")[2]))


def busy_at_first(times: int) -> Callable[[Request], Step | None]:
    """Return a function that refuses each picture so many times, and nothing else."""
    asked: Counter[str] = Counter()

    def refuse(request: Request) -> Step | None:
        asked[request.target] += request.method == "PUT" and request.target.endswith(".gif")
        return SLOW_DOWN if 0 < asked[request.target] <= times else None

    return refuse


@row(71)
@pytest.mark.parametrize("executor", ["threads", "greenlets"], indirect=True)
def test_a_bucket_that_is_busy_costs_no_item(new_storage: NewStorage, executor: str) -> None:
    """A run whose bucket answers SlowDown to the first four tries of each object ends well."""
    line = line_of("a bucket that is busy for some seconds")
    bucket = Bucket()
    with mirror({"br": GIF, "cn": GIF}) as origin, ScriptedServer(bucket) as server:
        new_storage(server)
        bucket.refuse = busy_at_first(4)
        done = run(["br", "cn"], Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url)
    assert (done.code, set(done.statuses.values()), executor) == (line.exit_code, set(line.words), executor)
    assert {bucket.objects[f"p/{name}.gif"] for name in ("br", "cn")} == {GIF}


@row(71)
@pytest.mark.slow
def test_a_bucket_that_is_busy_for_seconds_ends_no_run(new_storage: NewStorage) -> None:
    """A run whose bucket answers nothing but SlowDown for ten seconds ends well."""
    bucket = Bucket()
    with mirror({"br": GIF, "cn": GIF}) as origin, ScriptedServer(bucket) as server:
        new_storage(server)
        ends_at = monotonic() + 10
        bucket.refuse = lambda _: SLOW_DOWN if monotonic() < ends_at else None
        done = run(["br", "cn"], Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url)
    assert (done.code, set(done.statuses.values())) == (0, {"ok"})


@row(71)
@pytest.mark.parametrize("executor", ["threads", "greenlets"], indirect=True)
def test_a_bucket_that_stays_busy_ends_the_run(new_storage: NewStorage, executor: str) -> None:
    """When the time of an item is over, the run ends as with any destination that fails."""
    line = line_of("a bucket that stays busy")
    bucket = Bucket()
    with mirror({"br": GIF}) as origin, ScriptedServer(bucket) as server:
        new_storage(server)
        bucket.refuse = busy_at_first(1000)
        done = run(["br"], Cancellation(), BytesIO(), dest="s3://b/p", url=origin.url, item_timeout="0.5")
        (result,) = done.events_named("result")
    assert (done.code, [result["status"], result["reason"]]) == (line.exit_code, line.words), executor
    assert "503 Service Unavailable" in result["error"]
    assert len(server.requests) > 3


@row(47, 54, 71)
@pytest.mark.parametrize("end", ["signal", "deadline"])
@pytest.mark.parametrize("executor", ["threads", "greenlets"])
@pytest.mark.slow
def test_the_end_of_the_run_ends_the_wait_for_a_bucket(tmp_path: Path, executor: str, end: str) -> None:
    """SIGTERM, or the deadline, while a bucket is busy ends the run within its grace, with a line for each item."""
    is_busy = Event()
    bucket = Bucket()

    def refuse(request: Request) -> Step | None:
        if not request.target.endswith("br.gif"):
            return None
        is_busy.set()
        return SLOW_DOWN

    bucket.refuse = refuse
    with mirror({"br": GIF}) as origin, ScriptedServer(bucket) as server:
        settings = {"FLAGJOB_URL": origin.url, "FLAGJOB_DEST": "s3://b/p", "FLAGJOB_SHUTDOWN_GRACE": "2"}
        settings |= {"FLAGJOB_EXECUTOR": executor, **variables(server.url())}
        settings |= {"FLAGJOB_DEADLINE": "6" if end == "deadline" else "60"}
        with start_flagjob("br", cwd=tmp_path, settings=settings) as process:
            assert is_busy.wait(TIMEOUT)
            if end == "signal":
                process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=TIMEOUT)
    done = Done(process.returncode, stdout, "")
    assert (done.code, done.statuses) == ({"signal": 143, "deadline": 7}[end], {"BR": "cancelled"})


@pytest.mark.slow
@row(71)
@pytest.mark.parametrize("ends_run", [True, False])
def test_after_a_bucket_that_stays_busy_nothing_waits_as_long(new_client: NewClient, *, ends_run: bool) -> None:
    """A call that failed for all of its time makes the others give up sooner, if the run ends by it."""
    bucket = Bucket()
    bucket.refuse = lambda _: SLOW_DOWN if ends_run or seconds else BUSY["409"]
    with ScriptedServer(bucket) as server:
        client = new_client(server.url(), replace(PATIENT, retry_seconds=2))
        client.expect_answers()
        seconds: list[float] = []
        for call in ("put", "delete"):
            began = monotonic()
            with pytest.raises(StorageError):
                CALLS[call](client)
            seconds.append(monotonic() - began)
    assert seconds[0] >= 1.9
    assert (seconds[1] < seconds[0] / 2) is ends_run


_STS_ANSWER = (
    '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
    "<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAPOD</AccessKeyId>"
    "<SecretAccessKey>short-lived</SecretAccessKey><SessionToken>session</SessionToken>"
    "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
    "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)
_AGENT_ANSWER = (
    '{"AccessKeyId": "ASIAPOD", "SecretAccessKey": "short-lived", "Token": "session", '
    '"Expiration": "2099-01-01T00:00:00Z"}'
)
_IDENTITIES = {
    "IRSA": (
        {
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/flagjob",
            "AWS_WEB_IDENTITY_TOKEN_FILE": "{token}",
            "AWS_ENDPOINT_URL_STS": "{server}sts",  # which obstore asks by https only
        },
        "/sts",
        _STS_ANSWER,
    ),
    "EKS Pod Identity": (
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{server}v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{token}",
        },
        "/v1/credentials",
        _AGENT_ANSWER,
    ),
}
"""Variables of a pod, the path at which its token becomes credentials, and the answer."""


@pytest.mark.parametrize("identity", _IDENTITIES)
def test_credentials_of_a_pod_with_an_identity(identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any key, a pod's token becomes short-lived credentials, which sign every request."""
    variables, path, answer = _IDENTITIES[identity]
    token = tmp_path / "token"
    token.write_text("token-of-the-pod")
    bucket = Bucket()
    bucket.refuse = lambda request: Answer(body=answer.encode()) if request.target.startswith(path) else None
    authority = trustme.CA()
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with ScriptedServer(bucket, tls) as server:
        pod = {name: value.format(token=token, server=server.url()) for name, value in variables.items()}
        usual = {"AWS_ENDPOINT_URL": server.url().removesuffix("/"), "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
        for name, value in {**usual, **pod}.items():
            monkeypatch.setenv(name, value)
        storage = BucketStorage("s3://b/p", tmp_path, ca_bundle=bundle)
        storage.open()
        put(storage, "br.gif", GIF)
    exchanges = [request for request in server.requests if request.target.startswith(path)]
    assert 1 <= len(exchanges) <= 2, "once for each client, not for each request"
    assert all("token-of-the-pod" in f"{request.target} {request.headers}" for request in exchanges)
    signed = [request.headers for request in server.requests if request not in exchanges]
    assert bucket.objects["p/br.gif"] == GIF
    assert {headers["x-amz-security-token"] for headers in signed} == {"session"}
    assert all("Credential=ASIAPOD/" in headers["authorization"] for headers in signed)
