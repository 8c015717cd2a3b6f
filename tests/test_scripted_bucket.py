"""BucketStorage with buckets that do what no real server on this machine does, by a scripted S3 server."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from hashlib import md5
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from images import GIF
from inprocess import run
from mirror import mirror
from rows import row
from scripted import Answer, Request, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import PathError, StorageError
from job.model import Stored
from job.storage import BucketStorage

_LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
_OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-22T13:57:56.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size></Contents>"
)


class Bucket(dict[str, Any]):
    """A script for every path of a bucket `b`, whose objects are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.refuse: Callable[[Request], Answer | None] = lambda _: None
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
        return self._listing() if "list-type" in query else self._read(key)

    def _listing(self) -> Answer:
        lines = [
            _OBJECT.format(key=key, etag=self.listed_etag(_etag(data)), size=len(data))
            for key, data in self.objects.items()
        ]
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


@pytest.fixture
def new_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedServer], BucketStorage]:
    """Return a function that opens the storage of a server's bucket."""

    def make(server: ScriptedServer) -> BucketStorage:
        variables = {
            "AWS_ENDPOINT_URL": server.url().removesuffix("/"),
            "AWS_ACCESS_KEY_ID": "writer",
            "AWS_SECRET_ACCESS_KEY": "sesame",
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in variables.items():
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
