"""The destinations: files, and what is remembered of them, in a directory, as a set, or in a bucket."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

import pytest
from images import GIF, PNG
from obstore.store import S3Store
from seaweed import BUCKET, WRITER, Seaweed

from job.destination import (
    BucketDestination,
    Destination,
    DirectoryDestination,
    GenerationDestination,
    ManifestScope,
    destination_for,
)
from job.errors import StorageError, UsageError
from job.inputs import Inputs
from job.model import Result, Status, Stored, WorkItem
from job.settings import load
from job.shard import Shard
from job.template import UrlTemplate

pytestmark = pytest.mark.s3

ORIGIN = "https://example.org"
ALL = ManifestScope(ORIGIN)
Make = Callable[..., BucketDestination]


def item(code: str) -> WorkItem:
    return WorkItem(code, f"{ORIGIN}/{code}.gif", f"{code}.gif")


def put(target: Destination, code: str, data: bytes = GIF) -> Stored:
    """Do what a run does with a good answer."""
    work = item(code)
    with closing(target.storage.new_body()) as body:
        body.write(data)
        version = target.storage.publish(body, work.file, "image/gif")
        stored = Stored(work.file, body.size, body.sha256, "image/gif", '"1"', None, version)
    remember(target, code, Result(Status.OK, stored, code, attempts=1))
    return stored


def remember(target: Destination, code: str, result: Result) -> None:
    target.manifest.record(item(code), result)
    upload_if_due(target)


def upload_if_due(target: Destination) -> None:
    """Do what a run does after it has told the manifest."""
    due = target.due_upload()
    if due:
        due()


def known(target: Destination, codes: Sequence[str]) -> list[str]:
    """Give the codes whose file is there as it is remembered."""
    entries = ((code, target.manifest.find(code)) for code in codes)
    return [code for code, entry in entries if entry and entry.stored and target.storage.is_intact(entry.stored)]


def opened(target: Destination, *, accept_new_origin: bool = False) -> Destination:
    target.open(accept_new_origin=accept_new_origin)
    return target


# Which one


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
    """A URL of a bucket is one, anything else a directory, or a set of files in it."""
    settings = load([], {"FLAGJOB_DEST": dest, "FLAGJOB_URL": f"{ORIGIN}/{{id}}.gif", **more})
    inputs = Inputs(UrlTemplate.parse(f"{ORIGIN}/{{id}}.gif"), iter(()), None, None)
    with ExitStack() as stack:
        target = destination_for(settings, inputs, stack)
        assert (type(target), target.manifest.origin) == (kind, ORIGIN)


def test_what_goes_into_a_bucket_needs_a_directory_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any temporary directory there is one clear message, by its variable."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # as TMPDIR is read once in a process
    settings = load([], {"FLAGJOB_DEST": "s3://b/p", "FLAGJOB_URL": f"{ORIGIN}/{{id}}.gif"})
    inputs = Inputs(UrlTemplate.parse(f"{ORIGIN}/{{id}}.gif"), iter(()), None, None)
    with ExitStack() as stack, pytest.raises(UsageError) as caught:
        destination_for(settings, inputs, stack)
    assert str(caught.value) == (
        "TMPDIR: must be a directory that can be written, for what goes into a bucket (No such file or directory)"
    )


# A directory


def test_a_directory_shows_each_file_and_remembers_it(tmp_path: Path) -> None:
    """Whether a run went well or not, readers see what was accepted, and the next run knows it."""
    target = opened(DirectoryDestination(tmp_path, ALL))
    put(target, "br")
    assert (tmp_path / "br.gif").read_bytes() == GIF
    assert target.close(publish=False)
    assert known(opened(DirectoryDestination(tmp_path, ALL)), ["br", "cn"]) == ["br"]
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha256(GIF).hexdigest()}  br.gif\n"


# A set


def set_of(root: Path, codes: dict[str, bytes], *, publish: bool = True) -> bool:
    target = opened(GenerationDestination(root, 3, ALL))
    for code, data in codes.items():
        put(target, code, data)
    return target.close(publish=publish)


def prepared(root: Path) -> list[Path]:
    return list((root / "generations").glob(".new-*"))


def test_a_set_appears_as_a_whole_with_what_is_known_of_it(tmp_path: Path) -> None:
    """Its files and its memory are shown together."""
    assert set_of(tmp_path, {"br": GIF})
    assert (tmp_path / "current" / "br.gif").read_bytes() == GIF
    assert known(opened(GenerationDestination(tmp_path, 3, ALL)), ["br"]) == ["br"]


def test_a_set_that_is_not_published_only_tells_its_changes(tmp_path: Path) -> None:
    """Readers go on with the old one; what would have changed can be read beside it."""
    set_of(tmp_path, {"br": GIF})
    assert not set_of(tmp_path, {"br": PNG}, publish=False)
    assert (tmp_path / "current" / "br.gif").read_bytes() == GIF
    assert prepared(tmp_path) == []
    told = (tmp_path / ".flagjob" / "changes.jsonl").read_text()
    assert sha256(GIF).hexdigest() in told
    assert sha256(PNG).hexdigest() in told


def test_a_set_of_another_origin_is_not_begun(tmp_path: Path) -> None:
    """It is refused, and nothing of it is left."""
    set_of(tmp_path, {"br": GIF})
    with pytest.raises(UsageError, match=r"filled from https://example\.org "):
        GenerationDestination(tmp_path, 3, ManifestScope("https://example.com")).open(accept_new_origin=False)
    assert prepared(tmp_path) == []


def test_a_set_that_cannot_be_shown_is_told(tmp_path: Path) -> None:
    """Where the link's name is taken the old state stays, and the run learns why."""
    (tmp_path / "current" / "mine").mkdir(parents=True)
    with pytest.raises(StorageError, match="current"):
        set_of(tmp_path, {"br": GIF})
    assert (prepared(tmp_path), (tmp_path / "current" / "mine").is_dir()) == ([], True)


def test_the_copies_of_changes_do_not_pile_up(tmp_path: Path) -> None:
    """Beside the sets lie the changes of the same runs as in the set itself, where they are bounded."""
    set_of(tmp_path, {"br": GIF})
    (tmp_path / ".flagjob" / "changes-20260101T000000Z.jsonl").write_bytes(b"of a run long ago")
    set_of(tmp_path, {"br": PNG})
    own = {path.name for path in (tmp_path / "current" / ".flagjob").glob("changes*")}
    assert {path.name for path in (tmp_path / ".flagjob").iterdir()} == own
    assert len(own) == 2


def test_changes_that_cannot_be_copied_cost_nothing(tmp_path: Path) -> None:
    """Telling them is a courtesy: the set is published."""
    (tmp_path / ".flagjob").write_bytes(b"mine")
    assert set_of(tmp_path, {"br": GIF})


# A bucket


@pytest.fixture(scope="session")
def seaweed() -> Iterator[Seaweed]:
    with Seaweed() as server:
        yield server


@dataclass
class Site:
    """A prefix of a test's own, with what runs keep on this side."""

    url: str
    root: Path
    seconds: float = 0.0

    def bucket(self, scope: ManifestScope = ALL) -> BucketDestination:
        return BucketDestination(self.url, self.root / token_hex(8), scope, clock=lambda: self.seconds)

    @property
    def outside(self) -> S3Store:
        """Another client's view."""
        store: S3Store = S3Store.from_url(self.url, client_options={"allow_http": True})
        return store

    def listed(self, below: str | None = None) -> dict[str, object]:
        return {item["path"]: item["last_modified"] for page in self.outside.list(below) for item in page}

    def parts(self) -> list[str]:
        return sorted(self.listed(".flagjob/manifest"))

    def read(self, path: str) -> bytes:
        return bytes(self.outside.get(path).bytes())

    def filled(self, codes: dict[str, bytes], scope: ManifestScope = ALL) -> None:
        """Do a whole run."""
        target = opened(self.bucket(scope))
        for code, data in codes.items():
            put(target, code, data)
        assert target.close(publish=True)


@pytest.fixture
def site(seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Give a prefix; the environment is where users put credentials."""
    for name, value in {**WRITER, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": seaweed.endpoint}.items():
        monkeypatch.setenv(name, value)
    return Site(f"s3://{BUCKET}/{token_hex(8)}", tmp_path)


def test_a_bucket_remembers_from_run_to_run(site: Site) -> None:
    """What one run learned the next one knows, from a machine that has nothing."""
    site.filled({"br": GIF, "cn": PNG})
    target = opened(site.bucket())
    assert known(target, ["br", "cn", "fr"]) == ["br", "cn"]
    put(target, "fr")
    assert target.close(publish=False)
    assert known(opened(site.bucket()), ["br", "cn", "fr"]) == ["br", "cn", "fr"]


def test_a_thousand_results_are_pushed(site: Site) -> None:
    """A run that is killed later has lost none of them; one result less is not worth a request."""
    target = opened(site.bucket())
    put(target, "br")
    for _ in range(998):
        upload_if_due(target)
    assert site.parts() == []
    upload_if_due(target)
    assert len(site.parts()) == 1
    assert known(opened(site.bucket()), ["br"]) == ["br"]


def test_ten_seconds_are_pushed(site: Site) -> None:
    """Where results come slowly, time counts, from push to push; what was pushed is not pushed again."""
    target = opened(site.bucket())
    put(target, "br")
    site.seconds = 9.9
    upload_if_due(target)
    assert site.parts() == []
    site.seconds = 10.0
    upload_if_due(target)
    put(target, "cn")
    assert len(site.parts()) == 1
    site.seconds = 20.0
    upload_if_due(target)
    assert len(site.parts()) == 2
    assert [site.read(part).count(b'"code":') for part in site.parts()] == [1, 1]
    assert known(opened(site.bucket()), ["br", "cn"]) == ["br", "cn"]


def test_a_push_that_fails_is_tried_again_only_at_the_end(
    site: Site, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dead server the other results do not wait for the same failure, and the end tells it once more."""
    with seaweed.gateway() as gateway:
        monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
        target = opened(site.bucket())
        put(target, "br")
    site.seconds = 10.0
    with pytest.raises(StorageError, match="cannot be written"):
        upload_if_due(target)
    for _ in range(2000):
        upload_if_due(target)
    with pytest.raises(StorageError, match="cannot be written"):
        target.close(publish=True)


def test_another_number_of_shards_inherits(site: Site) -> None:
    """What two shards knew, one knows, and keeps as its own, so that only its own is fetched from then on."""
    codes = ["br", "cn", "fr", "de", "id", "us"]
    for index in (0, 1):
        scope = ManifestScope(ORIGIN, Shard(index, 2))
        site.filled({code: GIF for code in codes if scope.shard.owns(code)}, scope)
    target = opened(site.bucket())
    assert known(target, codes) == codes
    target.close(publish=True)
    own = [part for part in site.parts() if "/0-of-1/" in part]
    assert [site.read(part).count(b'"code":') for part in own] == [len(codes)]
    again = site.bucket()
    assert known(opened(again), codes) == codes
    assert [path.name for path in again.manifest.directory.glob("manifest*.jsonl")] == ["manifest.jsonl"]
    scope = ManifestScope(ORIGIN, Shard(1, 3))
    assert known(opened(site.bucket(scope)), codes) == [code for code in codes if scope.shard.owns(code)]


def test_a_bucket_of_another_origin_is_refused(site: Site) -> None:
    """Files of two origins must not mix by mistake; and nothing was written but the probe, which is gone."""
    site.filled({"br": GIF})
    before = site.listed()
    with pytest.raises(UsageError, match=r"filled from https://example\.org \(manifest.jsonl\)"):
        site.bucket(ManifestScope("https://example.com")).open(accept_new_origin=False)
    assert site.listed() == before


def test_a_new_origin_is_accepted_once(site: Site) -> None:
    """From then on the parts name the new one, even if the run that accepted it was killed at once."""
    other = ManifestScope("https://example.com")
    site.filled({"br": GIF})
    opened(site.bucket(other), accept_new_origin=True)
    assert len(site.parts()) == 1
    assert known(opened(site.bucket(other)), ["br"]) == ["br"]


def test_many_parts_become_few(site: Site) -> None:
    """A large manifest is not written anew for each run, but never lies in more than some dozen parts."""
    header = b'{"flagjob_manifest":1,"origin":"https://example.org"}\n'
    row = (
        '{{"code":"c{}","url":"{}","file":"c.gif","status":"ok","sha256":"00","bytes":1,"content_type":null,"etag":null,'
        '"last_modified":null,"version":"1","checked_at":"","changed_at":null,"attempts":1,"reason":null}}\n'
    )
    for part in range(21):
        lines = "".join(row.format(400 * part + n, "u" * 1000) for n in range(400))
        site.outside.put(f".flagjob/manifest/0-of-1/2026-{part:02}", header + lines.encode())
    site.filled({})
    assert len(site.parts()) == 21
    site.filled({"br": GIF})
    parts = site.parts()
    assert len(parts) == 2
    assert all(site.read(part).startswith(header) for part in parts)
    assert opened(site.bucket()).manifest.find("c8399")


def test_the_sums_are_put_when_they_differ_or_are_not_there(site: Site) -> None:
    """The same files in another order are the same sums; they are put again where somebody changed or removed them."""
    two = [f"{sha256(data).hexdigest()}  {code}.gif" for code, data in (("br", GIF), ("cn", PNG))]
    site.filled({"br": GIF, "cn": PNG})
    before = site.read("SHA256SUMS")
    target = opened(site.bucket())
    for code in ("cn", "br"):
        entry = target.manifest.find(code)
        assert entry
        remember(target, code, Result(Status.UNCHANGED, entry.stored, code, attempts=1))
        upload_if_due(target)
    when = site.listed()["SHA256SUMS"]
    target.close(publish=True)
    assert (site.read("SHA256SUMS"), site.listed()["SHA256SUMS"]) == (before, when)

    for spoil in (lambda: site.outside.delete("SHA256SUMS"), lambda: site.outside.put("SHA256SUMS", b"mine")):
        spoil()
        site.filled({})
        assert sorted(site.read("SHA256SUMS").decode().splitlines()) == sorted(two)
    site.filled({"br": PNG})
    assert f"{sha256(PNG).hexdigest()}  br.gif\n".encode() in site.read("SHA256SUMS")


def test_a_local_disk_that_refuses_is_a_storage_error(site: Site) -> None:
    """The copy that is worked on lies on this side: its trouble is told with its path, too."""
    target = opened(site.bucket())
    put(target, "br")
    (copy,) = site.root.glob("*/.flagjob/manifest.jsonl")
    copy.unlink()
    with pytest.raises(StorageError, match=f"^{copy}: No such file or directory"):
        target.close(publish=True)
