"""BucketStorage and its client: objects are whole, and every failure is one clear error within its time-out."""

import os
import socket
import ssl
import subprocess
import sys
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from hashlib import sha256
from itertools import count
from pathlib import Path
from secrets import token_hex
from threading import Event, Timer

import obstore.exceptions
import pytest
import trustme
from images import GIF, numbered_gif
from obstore.store import S3Store
from scripted import Answer, Raw, Request, ScriptedServer
from seaweed import BUCKET, READER, WRITER, Seaweed

from job import __version__
from job.errors import PathError, StorageError, UsageError
from job.model import Stored
from job.storage import BucketStorage
from job.storage.bucket import ObjectListing, StateObjects, location_of
from job.storage.bucket_client import (
    DEFAULT_TIMEOUTS,
    BucketClient,
    BucketTimeouts,
    error_cause,
    map_client_errors,
)

pytestmark = pytest.mark.s3

SetVariable = Callable[[str, str], None]
MEDIUM = numbered_gif(1, 300_000)
LARGE = numbered_gif(2, 5_000_000)
SHORT = BucketTimeouts(connect_seconds=1, request_seconds=1, retry_seconds=1)
IN_TIME = pytest.mark.timeout(20)
"""Ends a test that hangs; with the default time-outs a failure would take more than half a minute."""


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    with Seaweed() as server:
        yield server


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> SetVariable:
    """Return a function that sets an environment variable; those of the clouds are removed first."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    set_variable = monkeypatch.setenv
    set_variable("NO_PROXY", "127.0.0.1")
    return set_variable


@pytest.fixture
def url(seaweed: Seaweed, variable: SetVariable) -> str:
    """Return a prefix of the test's own, and set the credentials of an account with all rights."""
    for name, value in {**WRITER, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": seaweed.endpoint}.items():
        variable(name, value)
    return f"s3://{BUCKET}/{token_hex(8)}"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def storage(url: str, scratch: Path) -> BucketStorage:
    return open_storage(url, scratch)


def open_storage(url: str, scratch: Path, timeouts: BucketTimeouts = DEFAULT_TIMEOUTS) -> BucketStorage:
    storage = BucketStorage(url, scratch, timeouts=timeouts)
    storage.open()
    return storage


def client(url: str, timeouts: BucketTimeouts = DEFAULT_TIMEOUTS) -> BucketClient:
    return BucketClient(location_of(url), timeouts, None)


def put(storage: BucketStorage, file: str, data: bytes, media_type: str | None = "image/gif") -> Stored:
    with closing(storage.new_body()) as body:
        body.write(data)
        version = storage.publish(body, file, media_type)
        return Stored(file, body.size, body.sha256, media_type, version=version)


def outside(url: str) -> S3Store:
    """Return another client of a prefix."""
    return S3Store.from_url(url, client_options={"allow_http": True})


def paths(url: str) -> list[str]:
    return sorted(item["path"] for page in outside(url).list() for item in page)


# Publishing


@pytest.mark.parametrize("data", [GIF, MEDIUM, LARGE], ids=["in memory", "on disk", "of several chunks"])
def test_a_published_object_has_the_bytes_of_its_body(
    storage: BucketStorage, url: str, scratch: Path, data: bytes
) -> None:
    """A body becomes an object of the same bytes, with its media type and digest, and no temporary file is left."""
    put(storage, "br.gif", data)
    found = outside(url).get("br.gif")
    assert bytes(found.bytes()) == data
    assert found.attributes == {"Content-Type": "image/gif", "sha256": sha256(data).hexdigest()}
    assert paths(url) == ["br.gif"]
    assert list(scratch.iterdir()) == []


def test_a_body_that_is_not_published_leaves_nothing(storage: BucketStorage, url: str, scratch: Path) -> None:
    """A body that is closed before it is published leaves neither an object nor a file."""
    with closing(storage.new_body()) as body:
        body.write(MEDIUM)
    assert paths(url) == []
    assert list(scratch.iterdir()) == []


def test_ids_keep_their_path(storage: BucketStorage, url: str) -> None:
    """An object's key is the path of the file, also with `/` and with characters that a URL escapes."""
    files = ["7/66/42.png", "acme.com.png", "a@b.png", "a-b_c.png"]
    for file in files:
        put(storage, file, GIF)
    assert paths(url) == sorted(files)


def test_the_bucket_itself_can_be_the_destination(storage: BucketStorage, url: str, scratch: Path) -> None:
    """A URL without a prefix is the whole bucket, with a last slash or without."""
    put(storage, "br.gif", GIF)
    whole = open_storage(f"s3://{BUCKET}/", scratch)
    assert whole.is_intact(put(whole, f"{token_hex(8)}.gif", GIF))
    assert bytes(outside(f"s3://{BUCKET}").get(f"{url.rsplit('/', 1)[1]}/br.gif").bytes()) == GIF


def test_a_reader_never_sees_part_of_an_object(storage: BucketStorage, url: str) -> None:
    """A reader gets one whole version or the other while an object is replaced."""
    versions = [numbered_gif(number, 400_000) for number in range(2)]
    put(storage, "br.gif", versions[0])
    seen: set[bytes] = set()
    reading = Event()
    done = Event()

    def read() -> None:
        reader = outside(url)
        while not done.is_set():
            seen.add(bytes(reader.get("br.gif").bytes()))
            reading.set()

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        reading.wait(10)
        for number in range(30):
            put(storage, "br.gif", versions[number % 2])
        done.set()
        reader.result(10)
    assert seen <= set(versions)
    assert seen


def test_two_pods_on_one_prefix_end_with_whole_objects(url: str, scratch: Path) -> None:
    """Two runs that write the same keys at once leave whole objects: of each the last version stays."""
    stores = [open_storage(url, scratch / str(number)) for number in range(2)]
    versions = {numbered_gif(number, 100_000) for number in range(40)}
    work = [(stores[at % 2], f"{at % 4}.gif", data) for at, data in enumerate(sorted(versions))]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job: put(*job), work))
    assert paths(url) == ["0.gif", "1.gif", "2.gif", "3.gif"]
    assert {bytes(outside(url).get(path).bytes()) for path in paths(url)} <= versions


@pytest.mark.usefixtures("storage")
def test_opening_leaves_nothing(url: str) -> None:
    """The object that proves the bucket to be writable is deleted again."""
    assert paths(url) == []


def test_opening_deletes_the_probe_of_a_killed_run(url: str, scratch: Path) -> None:
    """The probe of a run that was killed before it deleted it is deleted by the next run."""
    client(url).put(".flagjob/probe-1", b"flagjob\n")
    open_storage(url, scratch)
    assert paths(url) == []


# Intact objects


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "of several chunks"])
def test_a_published_object_is_intact(storage: BucketStorage, url: str, scratch: Path, data: bytes) -> None:
    """An object is intact by its size and its ETag, in the run that published it and in the next one."""
    known = put(storage, "7/br.gif", data)
    assert storage.is_intact(known)
    assert open_storage(url, scratch).is_intact(known)


def test_a_changed_object_is_not_intact(storage: BucketStorage, url: str, scratch: Path) -> None:
    """An object that is gone, has other bytes or has no recorded version is not intact."""
    gone = put(storage, "gone.gif", GIF)
    changed = put(storage, "changed.gif", GIF)
    other = numbered_gif(1, len(GIF) + 100)
    put(storage, "twin-of-gone.gif", GIF)
    outside(url).delete("gone.gif")
    outside(url).put("changed.gif", other)
    after = open_storage(url, scratch)
    longer = Stored("changed.gif", len(GIF), changed.sha256, None, version=put(storage, "x", other).version)
    unknown = Stored("changed.gif", len(other), changed.sha256, None)
    assert [after.is_intact(stored) for stored in (gone, changed, longer, unknown)] == [False] * 4


def test_listing_goes_on_over_pages(storage: BucketStorage, url: str, scratch: Path) -> None:
    """All objects are listed when there are more than a server lists at once."""
    with ThreadPoolExecutor(16) as pool:
        known = list(pool.map(lambda number: put(storage, f"{number}.gif", GIF), range(1010)))
    after = open_storage(url, scratch)
    assert all(map(after.is_intact, known))


def test_a_listing_takes_eight_bytes_an_object() -> None:
    """A listing takes less than 16 bytes an object, with everything that Python adds."""
    etags = [token_hex(16) for _ in range(10)]
    names = [f"{number}.gif" for number in range(50_000)]
    tracemalloc.start()
    try:
        listing = ObjectListing()
        for number, name in enumerate(names):
            listing.add(name, number, etags[number % 10])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(listing.contains(name, number, etags[number % 10]) for number, name in enumerate(names))
    assert not any(listing.contains(name, number, "") for number, name in enumerate(names))
    assert taken < 16 * len(names)


def test_an_object_is_found_while_another_one_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up does not miss an object because another thread publishes one at that moment."""
    listing = ObjectListing()
    with ThreadPoolExecutor(1) as worker:

        def slow_bisect_left(shelf: Sequence[int], key: int) -> int:
            index = bisect_left(shelf, key)
            addition = worker.submit(listing.add, "cn.gif", 1, "etag")
            wait([addition], timeout=0.2)  # in vain, as the addition waits for the lock
            return index

        monkeypatch.setattr("job.storage.bucket._object_hash", lambda _path, size, _etag: size)
        monkeypatch.setattr("job.storage.bucket._SHELVES", 1)
        listing.add("br.gif", 2, "etag")
        monkeypatch.setattr("job.storage.bucket.bisect_left", slow_bisect_left)
        assert listing.contains("br.gif", 2, "etag")


# Failures


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "403 Forbidden (InvalidAccessKeyId)"),
        ({"AWS_SECRET_ACCESS_KEY": "close-sesame"}, "403 Forbidden (SignatureDoesNotMatch)"),
        (READER, "403 Forbidden (AccessDenied)"),
    ],
    ids=["account", "secret", "rights"],
)
def test_wrong_credentials_are_one_error(
    url: str, scratch: Path, variable: SetVariable, change: dict[str, str], said: str
) -> None:
    """`open` raises one error with the object and the cause, and without a secret."""
    for name, value in change.items():
        variable(name, value)
    with pytest.raises(StorageError) as caught:
        open_storage(url, scratch)
    subject, _, problem = str(caught.value).partition(": ")
    assert problem == f"cannot be written: {said}"
    assert subject.startswith(f"{url}/.flagjob/probe-")
    assert "sesame" not in str(caught.value)


@pytest.mark.usefixtures("url")
def test_a_missing_bucket_is_an_error(scratch: Path) -> None:
    """A missing bucket is not created; the error names it."""
    with pytest.raises(StorageError, match=r"^s3://nowhere/x/.*: cannot be written: 404 Not Found \(NoSuchBucket\)$"):
        open_storage("s3://nowhere/x", scratch)


def test_a_refused_connection_is_an_error(url: str, scratch: Path, variable: SetVariable) -> None:
    """A port without a listener is one error."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        variable("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"cannot be written: Connection refused$"):
            open_storage(url, scratch)


@IN_TIME
def test_a_silent_endpoint_is_an_error_in_time(url: str, scratch: Path, variable: SetVariable) -> None:
    """A server that accepts a connection and stays silent costs the configured time-out, not obstore's 45 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variable("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"cannot be written: no answer in time$"):
            open_storage(url, scratch, SHORT)


@IN_TIME
@pytest.mark.usefixtures("url")
def test_dropped_packets_are_an_error_in_time(variable: SetVariable) -> None:
    """An endpoint that drops packets costs the time-out of a connection, whatever that of a request is."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as callers:
        for _ in range(2):  # they fill the backlog, so the kernel drops the next SYN
            caller = callers.enter_context(socket.socket())
            caller.settimeout(0)
            caller.connect_ex(full.getsockname())
        variable("AWS_ENDPOINT_URL", f"http://127.0.0.1:{full.getsockname()[1]}")
        timeouts = BucketTimeouts(connect_seconds=0.3, request_seconds=60, first_retry_seconds=1)
        with pytest.raises(StorageError, match=r"cannot be written: no answer in time$"):
            client(f"s3://{BUCKET}", timeouts).put("br.gif", GIF)


@IN_TIME
@pytest.mark.usefixtures("url")
def test_retries_end_in_time(variable: SetVariable) -> None:
    """No retry begins after `retry_seconds`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variable("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        timeouts = BucketTimeouts(request_seconds=0.3, retry_seconds=0.5)
        with pytest.raises(StorageError, match=r"cannot be written: no answer in time$"):
            client(f"s3://{BUCKET}", timeouts).put("br.gif", GIF)


@IN_TIME
def test_a_server_that_falls_silent_for_seconds_costs_no_error(
    seaweed: Seaweed, url: str, variable: SetVariable
) -> None:
    """Requests that get no answer in time are repeated until the server answers again."""
    with seaweed.gateway() as gateway:
        variable("AWS_ENDPOINT_URL", gateway.url)
        patient = client(url, BucketTimeouts(request_seconds=0.5))
        patient.put("br.gif", GIF)
        patient.expect_answers()
        gateway.pause()
        timer = Timer(3, gateway.resume)
        timer.start()
        patient.put("br.gif", MEDIUM)
        timer.join()
        assert bytes(outside(url).get("br.gif").bytes()) == MEDIUM


@IN_TIME
def test_a_server_that_falls_silent_is_an_error_in_time(
    seaweed: Seaweed, url: str, scratch: Path, variable: SetVariable
) -> None:
    """In mid-run, too, silence is an error in time; when the server is back, the storage works again."""
    with seaweed.gateway() as gateway:
        variable("AWS_ENDPOINT_URL", gateway.url)
        storage = open_storage(url, scratch)
        impatient = client(url, SHORT)
        gateway.pause()
        with pytest.raises(StorageError, match=f"^{url}/br.gif: cannot be written: no answer in time$"):
            impatient.put("br.gif", GIF)
        gateway.resume()
        put(storage, "cn.gif", GIF)
    variable("AWS_ENDPOINT_URL", seaweed.endpoint)
    assert "cn.gif" in paths(url)


@IN_TIME
def test_a_server_that_dies_is_an_error_for_each_worker(
    seaweed: Seaweed, url: str, scratch: Path, variable: SetVariable
) -> None:
    """When the server is killed under eight workers each gets a StorageError, and every object is whole."""
    data = MEDIUM
    ten = Event()
    with seaweed.gateway() as gateway, ThreadPoolExecutor(8) as pool:
        variable("AWS_ENDPOINT_URL", gateway.url)
        storage = open_storage(url, scratch, SHORT)

        def work(worker: int) -> StorageError:
            for number in count():
                try:
                    put(storage, f"{worker}/{number}.gif", data)
                except StorageError as error:
                    return error
                if number == 10:
                    ten.set()
            raise AssertionError

        workers = [pool.submit(work, worker) for worker in range(8)]
        ten.wait(10)
        gateway.kill()
        errors = [worker.result(10) for worker in workers]
    variable("AWS_ENDPOINT_URL", seaweed.endpoint)
    assert {type(error) for error in errors} == {StorageError}
    assert all("cannot be written: " in str(error) for error in errors)
    assert {bytes(outside(url).get(path).bytes()) for path in paths(url)} == {data}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("x" * 1100, "400 Bad Request (KeyTooLongError)"),
        ("a//b", 'Could not parse path: Path "..." contained empty path segment'),
    ],
    ids=["too long", "empty segment"],
)
def test_a_refused_key_concerns_only_its_object(storage: BucketStorage, url: str, file: str, said: str) -> None:
    """An illegal key is a PathError; other objects are published."""
    with pytest.raises(PathError) as caught:
        put(storage, file, GIF)
    put(storage, "cn.gif", GIF)
    assert str(caught.value) == f"{url}/{file}: cannot be written: {said}"
    assert paths(url) == ["cn.gif"]


def test_an_older_object_survives_a_failure(storage: BucketStorage, url: str, variable: SetVariable) -> None:
    """An object that cannot be replaced stays as it was."""
    put(storage, "br.gif", GIF)
    for name, value in READER.items():
        variable(name, value)
    with pytest.raises(StorageError, match=r"AccessDenied"):
        client(url).put("br.gif", MEDIUM)
    assert bytes(outside(url).get("br.gif").bytes()) == GIF


def test_a_panic_of_the_client_is_a_storage_error(storage: BucketStorage, url: str) -> None:
    """A panic in obstore, which is a BaseException, becomes a StorageError as any other failure does."""
    with pytest.raises(StorageError, match=f"^{url}/br.gif: cannot be written: .*InvalidHeaderValue"):
        put(storage, "br.gif", GIF, "image/gif\n")


def test_a_scratch_directory_that_cannot_exist_is_one_error(url: str, tmp_path: Path) -> None:
    """A file at the path of the directory for large bodies makes `open` raise one StorageError."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError) as caught:
        open_storage(url, tmp_path / "file" / "scratch")
    assert str(caught.value) == f"{tmp_path}/file/scratch: Not a directory"


def test_a_missing_account_is_an_error(variable: SetVariable, scratch: Path) -> None:
    """A setting that obstore misses before any request is named in the error."""
    variable("AZURE_STORAGE_ACCOUNT_KEY", "c2VzYW1l")
    with pytest.raises(StorageError) as caught:
        open_storage("az://flags/x", scratch)
    assert str(caught.value) == "az://flags/x: cannot be opened: Account must be specified"


KINDS = {
    "AlreadyExistsError": PathError,
    "BaseError": StorageError,
    "GenericError": StorageError,
    "InvalidPathError": PathError,
    "JoinError": StorageError,
    "NotFoundError": StorageError,
    "NotModifiedError": StorageError,
    "NotSupportedError": StorageError,
    "PermissionDeniedError": StorageError,
    "PreconditionError": PathError,
    "UnauthenticatedError": StorageError,
    "UnknownConfigurationKeyError": StorageError,
}


def test_every_error_of_the_client_is_mapped() -> None:
    """Each exception of obstore, and each that it raises of Python's, becomes the StorageError or PathError listed."""
    names = {name for name, value in vars(obstore.exceptions).items() if isinstance(value, type)}
    assert names == set(KINDS)
    errors = {getattr(obstore.exceptions, name): kind for name, kind in KINDS.items()}
    for error, kind in {
        **errors,
        FileNotFoundError: StorageError,
        OSError: StorageError,
        ValueError: PathError,
    }.items():
        with pytest.raises(StorageError) as caught, map_client_errors("s3://flags/br.gif", "written"):
            raise error("so it is")
        assert (type(caught.value), str(caught.value)) == (kind, "s3://flags/br.gif: cannot be written: so it is")


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_other_exceptions_pass(error: type[BaseException]) -> None:
    """An interrupt or a bug of ours does not become a StorageError."""
    with pytest.raises(error), map_client_errors("s3://flags/br.gif", "written"):
        raise error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Generic S3 error: status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>",
            "503 Service Unavailable (SlowDown)",
        ),
        ("Generic S3 error: status code: 307 Temporary Redirect: \n\nDebug source:\nbody", "307 Temporary Redirect"),
        ("... status code: 403 Forbidden: <Message>the key sesame</Message>", "403 Forbidden"),
        ('HTTP error\n\nDebug source:\nerror: "failed to lookup address: no"', "failed to lookup address: no"),
        ("HTTP error\n\nDebug source:\nhyper::Error(\n IncompleteMessage", "the connection broke"),
        (
            "Generic S3 error: Error performing PUT https://h/x?sig=sesame in 4µs - Received redirect without LOCATION",
            "Received redirect without LOCATION",
        ),
        ("Bad answer from https://h/x?sig=sesame today", "Bad answer from https://h/x?... today"),
        (
            'Generic GCS error: Unable to decode: invalid type: string "sesame"',
            'Unable to decode: invalid type: string "..."',
        ),
        (
            "Error performing PUT http://169.254.169.254/latest/api/token - HTTP error\n\nDebug source:\nkind: Timeout",
            "no credentials from 169.254.169.254: no answer in time",
        ),
        (
            "Error performing POST https://sts.us-east-1.amazonaws.com/?Token=sesame - status code: 403 Forbidden",
            "no credentials from sts.us-east-1.amazonaws.com: 403 Forbidden",
        ),
        ("one\ntwo", "one"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_a_cause_is_short_and_holds_no_secret(text: str, said: str) -> None:
    """The cause is taken from obstore's pages of text: at most 300 characters, and no query or quoted value."""
    assert error_cause(text) == said


# Settings


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ("s3://", " 's3://'"),
        ("s3:///x", " 's3:///x'"),
        ("http://127.0.0.1/flags", " 'http://127.0.0.1/flags'"),
        ("s3://flags/a/../b", " 's3://flags/a/../b'"),
        ("s3://flags/a//b", " 's3://flags/a//b'"),
        ("s3://flags/a?versionId=1", " 's3://flags/a?versionId=1'"),
        ("s3://flags/a\n", " 's3://flags/a\\n'"),
        ("s3://flags:80/a", " 's3://flags:80/a'"),
        ("s3://me:sesame@flags/a", ""),
    ],
)
def test_an_invalid_url_is_a_usage_error(wrong: str, shown: str, scratch: Path) -> None:
    """A URL that is no bucket's is a UsageError with the right syntax; a password in it is not repeated."""
    with pytest.raises(UsageError) as caught:
        BucketStorage(wrong, scratch)
    right = "must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, of letters, digits and . _ = -"
    assert str(caught.value) == f"FLAGJOB_DEST{shown}: {right}"


@pytest.mark.usefixtures("variable")
def test_every_call_on_a_bucket_may_wait_for_a_network(scratch: Path) -> None:
    """A bucket says so before it is opened."""
    assert BucketStorage("s3://flags", scratch).may_block_long is True


def test_a_secret_with_a_line_break_is_a_usage_error(variable: SetVariable, scratch: Path) -> None:
    """Each variable of this cloud whose value has a line break is named; those of other clouds do not matter."""
    for name in ("AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "GOOGLE_BEARER_TOKEN", "GOOGLE_SERVICE_ACCOUNT_KEY"):
        variable(name, "sesame\n")
    variable("AWS_REGION", "us-east-1")
    problem = "has a line break or another control character"
    with pytest.raises(UsageError) as s3:
        BucketStorage("s3://flags", scratch)
    with pytest.raises(UsageError) as gs:
        BucketStorage("gs://flags", scratch)
    assert str(s3.value) == f"AWS_ACCESS_KEY_ID: {problem}; AWS_SESSION_TOKEN: {problem}"
    assert str(gs.value) == f"GOOGLE_BEARER_TOKEN: {problem}"
    BucketStorage("az://flags", scratch)


def test_without_obstore_a_bucket_is_a_usage_error() -> None:
    """Where the extra is not installed, the error names the command that installs it."""
    code = """
import sys
sys.meta_path.insert(0, type("Hidden", (), {"find_spec": staticmethod(lambda name, *_: None)}))
sys.path_importer_cache.clear()
sys.path[:] = [path for path in sys.path if "site-packages" not in path]
from pathlib import Path
from job.storage import BucketStorage
BucketStorage("s3://flags/a", Path("scratch"))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = "job.errors.UsageError: FLAGJOB_DEST 's3://flags/a': buckets need obstore: pip install 'flagjob[objects]'"
    assert ended.stderr.splitlines()[-1] == said


def test_a_run_into_a_directory_does_not_load_the_client() -> None:
    """A bucket's client imports obstore when it is made, not when the storage package is imported."""
    code = "import sys, job.storage; print([name for name in sys.modules if name.startswith('obstore')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# Other clouds, where their protocol differs


def test_azure_lists_etags_as_publishing_gave_them(variable: SetVariable) -> None:
    """An ETag that Azure quotes in a header and not in a listing is one version."""
    listing = (
        '<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>p/br.gif</Name><Properties>'
        "<Last-Modified>Sun, 22 Nov 2026 13:57:56 GMT</Last-Modified><Etag>0x8DC</Etag>"
        "<Content-Length>3</Content-Length><Content-Type>image/gif</Content-Type></Properties></Blob></Blobs>"
        "<NextMarker /></EnumerationResults>"
    )
    script = {"/c/p/br.gif": Answer(201, {"ETag": '"0x8DC"'}), "/c": Answer(200, {}, listing.encode())}
    with ScriptedServer(script) as server:
        variable("AZURE_STORAGE_ENDPOINT", server.url().removesuffix("/"))
        variable("AZURE_STORAGE_ACCOUNT_NAME", "me")
        variable("AZURE_STORAGE_ACCOUNT_KEY", "c2VzYW1l")
        container = client("az://c/p")
        etag = container.put("br.gif", GIF, "image/gif", "00ff")
        (found,) = container.list_objects()
    assert (found.path, found.size, found.etag) == ("br.gif", 3, etag)
    sent = server.requests[0]
    assert (sent.body, sent.headers["x-ms-blob-content-type"], sent.headers["x-ms-meta-sha256"]) == (
        GIF,
        "image/gif",
        "00ff",
    )


def test_google_gets_type_and_digest(variable: SetVariable) -> None:
    """A put sends media type, digest and user agent in the headers of Google Cloud Storage."""
    with ScriptedServer({"/b/p%2Fbr%2Egif": Answer(200, {"ETag": '"77"'})}) as server:
        variable("GOOGLE_BASE_URL", server.url().removesuffix("/"))
        variable("GOOGLE_BEARER_TOKEN", "sesame")
        assert client("gs://b/p").put("br.gif", GIF, "image/gif", "00ff") == "77"
    headers = server.requests[0].headers
    assert (headers["content-type"], headers["x-goog-meta-sha256"]) == ("image/gif", "00ff")
    assert headers["user-agent"] == f"flagjob/{__version__}"


def test_without_a_media_type_the_general_one_is_sent(variable: SetVariable) -> None:
    """Without a media type an object has application/octet-stream, and without a digest no digest."""
    with ScriptedServer({"/b/p%2Fbr%2Egif": Answer(200, {"ETag": '"77"'})}) as server:
        variable("GOOGLE_BASE_URL", server.url().removesuffix("/"))
        variable("GOOGLE_BEARER_TOKEN", "sesame")
        client("gs://b/p").put("br.gif", GIF)
    headers = server.requests[0].headers
    assert headers["content-type"] == "application/octet-stream"
    assert "x-goog-meta-sha256" not in headers


def test_missing_objects_do_not_stop_a_deletion(variable: SetVariable) -> None:
    """Google answers 404 for an object that another pod has deleted; the others are deleted nonetheless."""
    script = {"/b/p%2F1": Answer(404), "/b/p%2F2": Answer(204), "/b/p%2F3": Answer(404)}
    with ScriptedServer(script) as server:
        variable("GOOGLE_BASE_URL", server.url().removesuffix("/"))
        variable("GOOGLE_BEARER_TOKEN", "sesame")
        client("gs://b/p").delete(["1", "2", "3"])
    assert "/b/p%2F2" in [request.target for request in server.requests if request.method == "DELETE"]


@pytest.mark.usefixtures("url")
def test_a_ca_bundle_is_trusted(variable: SetVariable, tmp_path: Path) -> None:
    """A certificate of an unknown authority is refused, and accepted with that authority in the CA bundle."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with ScriptedServer({f"/{BUCKET}/br.gif": Answer(200, {"ETag": '"1"'})}, context) as server:
        variable("AWS_ENDPOINT_URL", server.url().removesuffix("/"))
        with pytest.raises(StorageError, match=r"certificate refused: UnknownIssuer$"):
            client(f"s3://{BUCKET}").put("br.gif", GIF)
        assert BucketClient(location_of(f"s3://{BUCKET}"), DEFAULT_TIMEOUTS, bundle).put("br.gif", GIF) == "1"


# State objects


def test_a_state_object_is_read_as_it_was_written(storage: BucketStorage) -> None:
    """A state object has the bytes that were written last, whatever their number."""
    storage.state.write("manifest/1", b"first")
    storage.state.write("manifest/1", LARGE)
    storage.state.write("manifest/2", b"")
    assert b"".join(storage.state.read("manifest/1")) == LARGE
    assert b"".join(storage.state.read("manifest/2")) == b""


def test_state_objects_are_listed_by_directory(storage: BucketStorage) -> None:
    """Names are listed in order: those in the directory, not those with a longer name, and no item's objects."""
    for name in ("manifest/b", "manifest/a/1", "manifest-3-of-8/c", "changes"):
        storage.state.write(name, b"x")
    put(storage, "manifest/z.gif", GIF)
    assert storage.state.list_names("manifest") == ["manifest/a/1", "manifest/b"]
    assert storage.state.list_names("nothing") == []


@pytest.mark.usefixtures("url")
def test_state_objects_are_sorted_by_name(variable: SetVariable) -> None:
    """Names are sorted, although a cloud may list them in any order."""
    about = "<LastModified>2026-11-22T13:57:56Z</LastModified><ETag>1</ETag><Size>1</Size>"
    items = "".join(f"<Contents><Key>.flagjob/m/{name}</Key>{about}</Contents>" for name in "bca")
    listing = f"<ListBucketResult>{items}</ListBucketResult>"
    with ScriptedServer({f"/{BUCKET}": Answer(200, {}, listing.encode())}) as server:
        variable("AWS_ENDPOINT_URL", server.url().removesuffix("/"))
        assert StateObjects(client(f"s3://{BUCKET}")).list_names("m") == ["m/a", "m/b", "m/c"]


def test_a_state_object_can_be_deleted_twice(storage: BucketStorage) -> None:
    """Deleting a missing object is no error, and reading one yields nothing."""
    for name in ("manifest/1", "manifest/2"):
        storage.state.write(name, b"x")
    storage.state.delete(["manifest/1", "manifest/3"])
    storage.state.delete(["manifest/1"])
    storage.state.delete([])
    assert storage.state.list_names("manifest") == ["manifest/2"]
    assert list(storage.state.read("manifest/1")) == []


@IN_TIME
@pytest.mark.usefixtures("url")
def test_a_truncated_object_is_an_error(variable: SetVariable) -> None:
    """A response that ends early is an error, not a shorter object."""
    head = (
        'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: Sun, 22 Nov 2026 13:57:56 GMT\r\nContent-Length: 1000\r\n\r\n'
    )

    def answer(_: Request) -> Raw:
        return Raw(head.encode() + b"x" * 10)

    with ScriptedServer({f"/{BUCKET}/.flagjob/1": answer}) as server:
        variable("AWS_ENDPOINT_URL", server.url().removesuffix("/"))
        with pytest.raises(StorageError, match=f"^s3://{BUCKET}/.flagjob/1: cannot be read: "):
            list(client(f"s3://{BUCKET}", SHORT).read(".flagjob/1"))
