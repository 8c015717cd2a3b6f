"""BucketStorage with buckets that do what no real server on this machine does, by a scripted S3 server."""

import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from images import GIF
from rows import row
from scripted import Answer, Request, ScriptedServer, Step

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
        """The ETag in a listing, of the one that a put and a get have."""
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
        return Answer(200, {"ETag": f'"{_etag(data)}"', "Last-Modified": date}, data)


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
