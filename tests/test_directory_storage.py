"""DirectoryStorage: a file under its final name is whole, and the last good copy survives any failure."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import pytest
from disk_calls import disk_calls, refuse_fsync, refuse_names
from hypothesis import example, given, settings
from hypothesis import strategies as st
from images import GIF, numbered_gif
from limits import files_limited_to
from rows import row

from job.body import Body
from job.errors import PathError, StorageError
from job.model import Stored
from job.storage import DirectoryStorage, GenerationStorage
from job.storage.directory import is_network_file_system, is_same_time

LARGE = numbered_gif(1, 300_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


@pytest.fixture
def storage(root: Path) -> DirectoryStorage:
    storage = DirectoryStorage(root)
    storage.open()
    return storage


def put(storage: DirectoryStorage, file: str, data: bytes) -> None:
    with closing(storage.new_body()) as body:
        body.write(data)
        storage.publish(body, file, None)


def temporary_files(root: Path) -> list[str]:
    return [path.name for path in (root / ".flagjob" / "tmp").iterdir()]


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def files_below(root: Path) -> Iterator[str]:
    return (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_published_file_has_the_bytes_of_its_body(storage: DirectoryStorage, root: Path, data: bytes) -> None:
    """A body, small or large, becomes a file of the same bytes, and no temporary file is left."""
    put(storage, "br.gif", data)
    assert (root / "br.gif").read_bytes() == data
    assert list(files_below(root)) == ["br.gif"]


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_power_cut_leaves_whole_files(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """A file is synced before it gets its name, and the directories above it when the storage is synced."""
    calls = disk_calls(monkeypatch, root)
    put(storage, "7/66/42.png", data)
    first, second = calls
    assert first.startswith(".flagjob/tmp/")
    assert first.endswith(" is synced")
    assert second == "7/66/42.png is named"
    storage.sync()
    assert {". is synced", "7 is synced", "7/66 is synced"} <= set(calls[2:])


def test_a_temporary_file_that_cannot_be_removed_is_ignored(storage: DirectoryStorage, root: Path) -> None:
    """Closing a body does not fail for it: the cause is reported already, and a later run removes the file."""
    with closing(storage.new_body()) as body:
        body.write(LARGE)
        for path in (root / ".flagjob" / "tmp").iterdir():
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_body_that_is_not_published_leaves_nothing(storage: DirectoryStorage, root: Path, data: bytes) -> None:
    """A body that is closed before it is published leaves no file."""
    with closing(storage.new_body()) as body:
        body.write(data)
    assert list(files_below(root)) == []


def test_a_body_has_its_size_digest_and_head(storage: DirectoryStorage) -> None:
    """A body counts and hashes its bytes as they are written, keeps the first 512, and can be read again."""
    with closing(storage.new_body()) as body:
        for start in range(0, len(LARGE), 1000):
            body.write(LARGE[start : start + 1000])
        body.rewind()
        assert (body.size, body.sha256, body.head) == (len(LARGE), sha256(LARGE).hexdigest(), LARGE[:512])
        assert body.read(10) + body.read() == LARGE


def test_a_body_goes_to_disk_above_64_kib(storage: DirectoryStorage, root: Path) -> None:
    """Up to 64 KiB stay in memory; a larger body has a temporary file."""
    with closing(storage.new_body()) as small, closing(storage.new_body()) as large:
        small.write(b"x" * 65536)
        assert temporary_files(root) == []
        large.write(b"x" * 65537)
        assert len(temporary_files(root)) == 1


def test_a_path_makes_its_directories(storage: DirectoryStorage, root: Path) -> None:
    """Directories are made when a file needs them."""
    put(storage, "7/66/42.png", GIF)
    put(storage, "7/66/43.png", GIF)
    assert list(files_below(root)) == ["7/66/42.png", "7/66/43.png"]


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_write_that_comes_back_short_is_completed(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """The system may write a part of what it is given; the file has all of it. (`write` is made to do so.)."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2 + 1]))
    put(storage, "br.gif", data)
    assert (root / "br.gif").read_bytes() == data


def test_bodies_of_all_threads_and_runs_have_their_own_files(storage: DirectoryStorage, root: Path) -> None:
    """No two bodies share a temporary file, whichever threads, or other runs in the same directory, make them."""
    other = DirectoryStorage(root)

    def make_body(number: int) -> Body:
        body = (storage, other)[number % 2].new_body()
        body.write(LARGE)
        return body

    with ThreadPoolExecutor(8) as workers:
        bodies = list(workers.map(make_body, range(64)))
    assert len(temporary_files(root)) == 64
    for body in bodies:
        body.close()
    assert temporary_files(root) == []


def test_a_committed_body_leaves_its_temporary_path_alone(tmp_path: Path) -> None:
    """Once a body has its final name, closing it, also twice, removes nothing."""
    temporary = tmp_path / "temporary"
    body = Body(str(temporary))
    body.write(GIF)
    body.commit(str(tmp_path / "br.gif"))
    temporary.write_bytes(b"another's")
    body.close()
    body.close()
    assert temporary.read_bytes() == b"another's"
    assert body.sha256 == sha256(GIF).hexdigest()


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_temporary_file_is_made_and_never_opened(tmp_path: Path, data: bytes) -> None:
    """A file or a link that is there already is an error; it is neither written through nor removed."""

    def write_and_commit(body: Body) -> None:
        body.write(data)
        body.commit(str(tmp_path / "br.gif"))

    temporary = tmp_path / "temporary"
    temporary.symlink_to("mine")
    with closing(Body(str(temporary))) as body, pytest.raises(PathError) as caught:
        write_and_commit(body)
    assert str(caught.value) == f"{temporary}: File exists"
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_a_small_body_is_locked_while_it_is_open(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other run can lock, and so sweep, the file of a small body when it is synced. (Only a hook sees that.)."""
    refusals: list[type[OSError]] = []
    fsync = os.fsync

    def lock_and_sync(descriptor: int) -> None:
        with Path(f"/proc/self/fd/{descriptor}").open("rb") as file, pytest.raises(OSError) as caught:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refusals.append(caught.type)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", lock_and_sync)
    put(storage, "br.gif", GIF)
    assert refusals == [BlockingIOError]
    assert (root / "br.gif").read_bytes() == GIF


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_a_file_system_without_locks_is_no_error(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """Files are published where they cannot be locked. (`flock` is made to fail.)."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    put(storage, "br.gif", data)
    assert (root / "br.gif").read_bytes() == data


@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
@pytest.mark.parametrize("step", ["fsync", "close", "rename"])
def test_a_step_that_fails_costs_no_old_file(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, step: str
) -> None:
    """Whichever call of a publication fails, the older file stays and nothing else. (The call is made to fail.)."""
    put(storage, "br.gif", b"old")
    before = open_descriptors()
    call: Callable[..., object] = getattr(os, step)

    def fail(*values: object) -> None:
        if step == "close":
            call(*values)  # as on a network file system, which closes the descriptor all the same
        raise OSError(errno.EIO, "Input/output error")

    body = storage.new_body()
    body.write(data)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StorageError) as caught:
            storage.publish(body, "br.gif", None)
    with Path(os.devnull).open("rb") as other:  # it may get the descriptor that the body had
        body.close()
        assert other.read() == b""
    name = "br.gif" if step == "rename" else ".flagjob/tmp/"
    assert type(caught.value) is StorageError
    assert str(caught.value).startswith(f"{root}/{name}")
    assert str(caught.value).endswith(": Input/output error")
    assert (root / "br.gif").read_bytes() == b"old"
    assert list(files_below(root)) == ["br.gif"]
    assert open_descriptors() == before


@row(45)
def test_files_have_the_mode_that_the_umask_leaves(storage: DirectoryStorage, root: Path) -> None:
    """Another pod may read the files: their mode is 0666 less the umask, not the 0600 of a temporary file."""
    old = os.umask(0o027)
    try:
        put(storage, "br.gif", GIF)
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "br.gif").stat().st_mode) == 0o640


def test_a_symbolic_link_is_replaced_and_not_written_through(
    storage: DirectoryStorage, root: Path, tmp_path: Path
) -> None:
    """Publishing replaces a symbolic link and leaves its target alone."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (root / "br.gif").symlink_to(victim)
    put(storage, "br.gif", GIF)
    assert victim.read_bytes() == b"precious"
    assert not (root / "br.gif").is_symlink()
    assert (root / "br.gif").read_bytes() == GIF


@pytest.mark.parametrize(("way", "file"), [("br.gif/x", "br.gif"), ("7", "7/66.gif")])
def test_an_obstacle_to_one_file_concerns_only_that_file(
    storage: DirectoryStorage, root: Path, way: str, file: str
) -> None:
    """A directory at the file's path, or a file at its directory's, is a PathError; other files are published."""
    (root / way).parent.mkdir(exist_ok=True)
    (root / way).write_bytes(b"mine")
    with pytest.raises(PathError) as caught:
        put(storage, file, GIF)
    put(storage, "cn.gif", GIF)
    assert str(root / file.split("/", 1)[0]) in str(caught.value)
    assert (root / way).read_bytes() == b"mine"
    assert temporary_files(root) == []


def test_a_name_too_long_for_the_disk_concerns_only_its_file(storage: DirectoryStorage, root: Path) -> None:
    """A name above the file system's limit is a PathError."""
    with pytest.raises(PathError, match="File name too long"):
        put(storage, "x" * 300, GIF)
    assert list(files_below(root)) == []


@row(57)
@settings(deadline=None)
@given(number=st.sampled_from(sorted(errno.errorcode)), call=st.sampled_from(["mkdir", "rename"]), is_one=st.booleans())
@example(number=errno.ENOSPC, call="rename", is_one=True)  # a directory of ext4 that can get no more names
@example(number=errno.EXDEV, call="rename", is_one=True)  # a directory with another project quota, or a mount point
@example(number=errno.EROFS, call="mkdir", is_one=True)  # a directory that is mounted read-only
def test_an_error_concerns_one_file_or_all(number: int, call: str, *, is_one: bool) -> None:
    """Whatever the error: a file whose name is refused is a PathError if other names are taken, else a StorageError."""
    with TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        root = Path(temporary)
        storage = DirectoryStorage(root)
        storage.open()
        if call == "rename":
            (root / "7").mkdir()
        refuse_names(patch, root / "7" if is_one else root, number)
        with pytest.raises(StorageError) as caught:
            put(storage, "7/66.gif", GIF)
        assert isinstance(caught.value, PathError) is is_one
        assert str(caught.value) == f"{root}/7/66.gif: {os.strerror(number)}"
        if is_one:
            put(storage, "cn.gif", GIF)
        assert list(files_below(root)) == ["cn.gif"] * is_one


UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
"""What fsync says where there is none."""
UNABLE_FOR_DIRECTORIES = {*UNABLE, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


@row(58)
@settings(deadline=None)
@given(number=st.sampled_from(sorted(errno.errorcode)), directories=st.booleans())
@example(number=errno.EIO, directories=True)
@example(number=errno.ENOSPC, directories=False)
@example(number=errno.EINVAL, directories=False)
@example(number=errno.EBADF, directories=False)
@example(number=errno.EBADF, directories=True)
def test_an_fsync_that_does_not_exist_is_no_error(number: int, *, directories: bool) -> None:
    """What a file system cannot do is told and passed over; bytes or names that are lost are a StorageError."""
    said: list[str] = []
    is_unable = number in (UNABLE_FOR_DIRECTORIES if directories else UNABLE)
    with TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        refuse_fsync(patch, number, directories=directories)
        storage = DirectoryStorage(Path(temporary))
        storage.on_limitation = said.append
        if is_unable:
            storage.open()
            put(storage, "7/66.gif", GIF)
            storage.sync()
        else:
            with pytest.raises(StorageError, match=os.strerror(number)):
                storage.open()
        assert list(files_below(Path(temporary))) == ["7/66.gif"] * is_unable
    assert [problem.partition(":")[0] for problem in dict.fromkeys(said)] == [
        f"it cannot flush {'directories' if directories else 'files'} to the disk"
    ] * is_unable


@row(58)
@pytest.mark.parametrize("free", [0, None])
def test_a_figure_of_zero_is_no_figure(root: Path, monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    """Where the file system reports 0 bytes free, or nothing, a run begins. (`statvfs` is made to say that.)."""

    def statvfs(_: object) -> os.statvfs_result:
        if free is None:
            raise OSError(errno.ENOSYS, "Function not implemented")
        return os.statvfs_result((4096, 4096, free, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    said: list[str] = []
    storage = DirectoryStorage(root, required_free_bytes=1 << 60)
    storage.on_limitation = said.append
    storage.open()
    put(storage, "br.gif", GIF)
    assert said == ["it does not report free space: a run may start that does not fit"]


def test_a_destination_that_cannot_exist_is_one_error(tmp_path: Path) -> None:
    """A file at the directory's path makes `open` raise one StorageError with the path, and is not changed."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError) as caught:
        DirectoryStorage(tmp_path / "file" / "flags").open()
    assert str(caught.value) == f"{tmp_path}/file/flags/.flagjob/tmp: Not a directory"
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_probe_leaves_nothing(storage: DirectoryStorage, root: Path) -> None:
    """The file that proves the directory to be writable is removed again."""
    storage.open()
    assert list(files_below(root)) == []


def test_too_little_free_space_is_an_error(root: Path) -> None:
    """`open` raises a StorageError if the file system has less free space than the run may need."""
    pattern = r"bytes are free, 1152921504606846976 may be needed \(FLAGJOB_WORKERS x FLAGJOB_MAX_BYTES\)$"
    with pytest.raises(StorageError, match=pattern):
        DirectoryStorage(root, required_free_bytes=1 << 60).open()
    assert list(files_below(root)) == []


def test_a_destination_that_vanishes_is_a_storage_error(storage: DirectoryStorage, root: Path) -> None:
    """A body that outgrows memory when its directory is gone raises a StorageError with the cause."""
    (root / ".flagjob" / "tmp").rmdir()
    with closing(storage.new_body()) as body, pytest.raises(StorageError) as caught:
        body.write(LARGE)
    assert not isinstance(caught.value, PathError)
    assert "No such file or directory" in str(caught.value)


@row(41)
@pytest.mark.parametrize("data", [numbered_gif(1, 60_000), LARGE], ids=["in memory", "on disk"])
def test_a_full_disk_costs_no_old_file(storage: DirectoryStorage, root: Path, data: bytes) -> None:
    """A write that fails is a StorageError; the older file stays as it was, and no part of the new one is left."""
    put(storage, "br.gif", GIF)
    with files_limited_to(50_000), pytest.raises(StorageError) as caught:
        put(storage, "br.gif", data)
    assert "File too large" in str(caught.value)
    assert (root / "br.gif").read_bytes() == GIF
    assert list(files_below(root)) == ["br.gif"]


def test_names_are_made_durable_in_batches(storage: DirectoryStorage, root: Path) -> None:
    """At most 1,000 directories wait for their sync, however many a run writes to, and `sync` leaves none."""
    for number in range(1001):
        put(storage, f"{number}/x.gif", GIF)
    waiting = len(storage._unsynced)  # noqa: SLF001  (only a power cut would show it)
    storage.sync()
    assert 0 < waiting < 10
    assert storage._unsynced == set()  # noqa: SLF001
    assert len(list(files_below(root))) == 1001


def test_a_directory_that_is_added_during_a_sync_is_synced(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a worker publishes while another thread syncs is durable after that sync or the next one."""
    adding = Event()
    synced = Event()

    class SlowSet(set[str]):
        def add(self, element: str, /) -> None:
            adding.set()
            synced.wait(0.2)  # in vain, as the sync waits for the lock
            super().add(element)

    storage._unsynced = SlowSet()  # noqa: SLF001  (a moment made long)
    calls = disk_calls(monkeypatch, root)
    with ThreadPoolExecutor(1) as worker:
        publication = worker.submit(put, storage, "7/x.gif", GIF)
        assert adding.wait(10)
        storage.sync()
        synced.set()
        publication.result(10)
    storage.sync()
    assert "7 is synced" in calls


def test_a_name_that_is_given_during_a_sync_is_synced(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync right before a file gets its name, in a directory that waits for it, does not make that name durable."""

    class LateBody(Body):
        def commit(self, final: str) -> str:
            storage.sync()
            return super().commit(final)

    put(storage, "7/x.gif", GIF)
    calls = disk_calls(monkeypatch, root)
    with closing(LateBody(str(root / ".flagjob" / "tmp" / "late"))) as body:
        body.write(GIF)
        storage.publish(body, "7/y.gif", None)
    storage.sync()
    assert "7 is synced" in calls[: calls.index("7/y.gif is named")]
    assert "7 is synced" in calls[calls.index("7/y.gif is named") :]


def test_the_working_directory_is_a_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `.` a path in a message, and on the disk, is the file's own."""
    monkeypatch.chdir(tmp_path)
    storage = DirectoryStorage(Path())
    storage.open()
    (tmp_path / "br.gif").mkdir()
    with pytest.raises(PathError) as caught:
        put(storage, "br.gif", GIF)
    put(storage, "7/x.gif", GIF)
    storage.sync()
    assert str(caught.value) == "br.gif: Is a directory"
    assert list(files_below(tmp_path)) == ["7/x.gif"]
    assert storage.is_intact(publish_gif(storage, "cn.gif"))


def test_a_directory_that_vanished_before_its_sync_is_an_error(storage: DirectoryStorage, root: Path) -> None:
    """`sync` raises a StorageError if it cannot make names durable."""
    put(storage, "7/x.gif", GIF)
    (root / "7" / "x.gif").unlink()
    (root / "7").rmdir()
    with pytest.raises(StorageError, match="No such file or directory"):
        storage.sync()


def publish_gif(storage: DirectoryStorage, file: str = "br.gif") -> Stored:
    with closing(storage.new_body()) as body:
        body.write(GIF)
        version = storage.publish(body, file, "image/gif")
    return Stored(file, len(GIF), sha256(GIF).hexdigest(), "image/gif", version=version)


def test_a_published_file_is_intact(storage: DirectoryStorage) -> None:
    """A file has the size and the version that `publish` returned."""
    assert storage.is_intact(publish_gif(storage))


@pytest.mark.parametrize("change", ["gone", "longer", "touched", "a link", "a directory"])
def test_a_changed_file_is_not_intact(storage: DirectoryStorage, root: Path, change: str) -> None:
    """A file is not intact if it is missing, has another size or mtime, or is not a regular file."""
    known = publish_gif(storage)
    path = root / "br.gif"
    data = path.read_bytes()
    when = path.stat().st_mtime_ns
    path.unlink()
    if change == "longer":
        path.write_bytes(data + b"x")
        os.utime(path, ns=(when, when))
    elif change == "touched":
        path.write_bytes(data)
        os.utime(path, ns=(when, when + 1))
    elif change == "a link":
        (root / "elsewhere").write_bytes(data)
        os.utime(root / "elsewhere", ns=(when, when))
        path.symlink_to("elsewhere")
    elif change == "a directory":
        path.mkdir()
    assert not storage.is_intact(known)


@row(59)
@pytest.mark.parametrize("step", ["close", "rename"])
@pytest.mark.parametrize("data", [GIF, LARGE], ids=["in memory", "on disk"])
def test_the_time_is_read_after_the_last_step(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, data: bytes, step: str
) -> None:
    """A file whose destination sets another time when it is closed or renamed is intact. (Both are made to do so.)."""
    call: Callable[..., object] = getattr(os, step)

    def set_another_time(*values: Any) -> None:
        path = values[1] if step == "rename" else Path(f"/proc/self/fd/{values[0]}").readlink()
        call(*values)
        os.utime(path, (7, 7))

    with monkeypatch.context() as patch, closing(storage.new_body()) as body:
        body.write(data)
        patch.setattr(os, step, set_another_time)
        version = storage.publish(body, "br.gif", None)
    assert version == "7000000000"
    assert storage.is_intact(Stored("br.gif", len(data), "", None, version=version))


@row(59)
@pytest.mark.parametrize("then", ["gone", "longer"])
def test_a_file_that_is_replaced_at_once_has_no_version(
    storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """What another process did to the name since the rename is not taken for this run's file."""
    rename = os.rename

    def rename_and_replace(source: str, target: str) -> None:
        rename(source, target)
        Path(target).unlink()
        if then == "longer":
            Path(target).write_bytes(LARGE)

    monkeypatch.setattr(os, "rename", rename_and_replace)
    known = publish_gif(storage)
    assert (known.version, storage.is_intact(known), storage.verified_version(known)) == ("", False, None)


@row(59)
@given(
    recorded=st.integers(10**18, 2 * 10**18),
    unit=st.sampled_from([100, 10**3, 10**6, 10**9, 2 * 10**9]),
    other=st.integers(-3 * 10**9, 3 * 10**9),
)
def test_a_coarser_clock_is_tolerated(recorded: int, unit: int, other: int) -> None:
    """A time that was cut to a unit that clocks have is the same time; no other is, nor does a damaged record fit."""
    found = recorded - recorded % unit
    assert is_same_time(str(recorded), found)
    cut = {recorded - recorded % each for each in (1, 100, 10**3, 10**6, 10**9, 2 * 10**9)}
    assert is_same_time(str(recorded), recorded + other) is (recorded + other in cut)
    assert not any(is_same_time(version, found) for version in (None, "", "-", "0x", "W/1", "²", "9" * 5000))


@row(59)
@pytest.mark.parametrize(
    "change", ["another time", "other bytes", "longer", "unreadable", "a link", "gone", "no version"]
)
def test_the_same_bytes_at_another_time_are_verified(
    storage: DirectoryStorage, root: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The digest decides, where the size fits; what is remembered is the time that the file has now."""
    said: list[str] = []
    storage.on_limitation = said.append
    known = publish_gif(storage)
    path = root / "br.gif"
    path.write_bytes({"other bytes": GIF[:-1] + b"x", "longer": GIF + b"x"}.get(change, GIF))
    os.utime(path, (7, 7))
    if change == "a link":
        path.rename(root / "elsewhere")
        path.symlink_to("elsewhere")
    elif change == "gone":
        path.unlink()
    elif change == "no version":
        known = replace(known, version=None)
    elif change == "unreadable":
        monkeypatch.setattr(Path, "open", refuse_open)
    is_same = change == "another time"
    assert not storage.is_intact(known)
    assert storage.verified_version(known) == ("7000000000" if is_same else None)
    assert len(said) == is_same


def refuse_open(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def age(path: Path) -> None:
    os.utime(path, (0, 0))


@row(43)
def test_temporary_files_of_dead_runs_only_are_swept(root: Path, storage: DirectoryStorage) -> None:
    """Opening removes an old temporary file without a lock, not a young or a locked one."""
    tmp = root / ".flagjob" / "tmp"
    for name in ("dead", "young"):
        (tmp / name).write_bytes(b"x")
    age(tmp / "dead")
    with closing(storage.new_body()) as living:
        living.write(LARGE)
        (locked,) = set(tmp.iterdir()) - {tmp / "dead", tmp / "young"}
        age(locked)
        DirectoryStorage(root).open()
        assert set(tmp.iterdir()) == {locked, tmp / "young"}
        storage.publish(living, "br.gif", None)
    assert (root / "br.gif").read_bytes() == LARGE


@row(74)
def test_a_young_temporary_file_is_young_by_any_clock(
    root: Path, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The age is that by the file system's clock, though this machine's is a year ahead; a future one is old."""
    tmp = root / ".flagjob" / "tmp"
    for name in ("young", "future"):
        (tmp / name).write_bytes(b"x")
    os.utime(tmp / "future", (2**33, 2**33))
    monkeypatch.setattr("time.time", lambda: 2.0**33)
    DirectoryStorage(root).open()
    assert [path.name for path in tmp.iterdir()] == ["young"]
    assert storage.root == root


def test_without_a_clock_nothing_is_swept(
    root: Path, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system refuses to set a time the age of a file is unknown (`utime` is made to fail)."""
    tmp = root / ".flagjob" / "tmp"
    (tmp / "dead").write_bytes(b"x")
    age(tmp / "dead")
    monkeypatch.setattr(os, "utime", refuse_open)
    DirectoryStorage(root).open()
    assert [path.name for path in tmp.iterdir()] == ["dead"]
    assert storage.root == root


# File systems that wait for a network

MOUNTS = rb"""20 27 0:19 / /early rw,relatime - nfs h:/ rw
22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime shared:4 - tmpfs tmpfs rw,size=24684096k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 27 0:30 / /srv/flags rw,noatime shared:7 master:2 - nfs4 10.0.0.7:/export rw,vers=4.2,hard,addr=10.0.0.7
32 31 0:31 / /srv/flags/cache rw,relatime - ext4 /dev/vdb rw
33 27 0:32 / /srv/my\040flags\134new rw - cifs //files/flags rw
34 27 0:33 / /srv/\303\244 rw - nfs h:/ rw
35 27 0:34 / /srv/below rw - nfs h:/ rw
36 35 0:35 / /srv/below rw - tmpfs - rw
37 27 0:36 / /srv/above rw - tmpfs tmpfs rw
38 37 0:37 / /srv/above rw - fuse.s3fs s3fs rw
40 27 8:1 / /srv/ntfs rw - fuseblk /dev/sda1 rw
41 27 0:40 / /srv/host rw - virtiofs host rw
"""


def mounts_in(tmp_path: Path, lines: bytes = MOUNTS) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(lines)
    return path


@pytest.mark.parametrize(
    ("directory", "is_remote"),
    [
        ("/", False),
        ("/srv", False),
        ("/srv/flags", True),
        ("/srv/flags/a/b", True),
        ("/srv/flags/../flags", True),
        ("/srv/flags2", False),
        ("/srv/flags/cache", False),
        ("/srv/flags/cached", True),
        ("/srv/my flags\\new/a", True),
        ("/srv/\u00e4/a", True),
        ("/srv/below/a", False),
        ("/srv/above/a", True),
        ("/early/a", True),
        ("/srv/ntfs", False),
        ("/srv/host", False),
        ("/dev/shm/a", False),  # noqa: S108  (nothing is written there)
    ],
)
def test_the_last_and_longest_mount_point_decides(tmp_path: Path, directory: str, *, is_remote: bool) -> None:
    """A directory is on the file system of the longest mount point above it, of equal ones the last."""
    assert is_network_file_system(Path(directory), mounts_in(tmp_path)) is is_remote


@pytest.mark.parametrize(
    ("file_system", "is_remote"),
    [
        *dict.fromkeys("nfs nfs4 cifs smb3 smbfs ceph glusterfs lustre 9p afs beegfs gpfs fuse".split(), True).items(),
        *dict.fromkeys("fuse.sshfs fuse.rclone fuse.glusterfs fuse.".split(), True).items(),
        *dict.fromkeys("ext4 xfs btrfs zfs tmpfs overlay fuseblk fusectl virtiofs nfsd ceph2 9".split(), False).items(),
    ],
)
def test_some_file_systems_wait_for_a_network(tmp_path: Path, file_system: str, *, is_remote: bool) -> None:
    """NFS, SMB, cluster file systems and all of FUSE do; what is on a local device or in memory does not."""
    line = f"27 1 0:9 / / rw,relatime - {file_system} source rw\n"
    assert is_network_file_system(Path("/srv"), mounts_in(tmp_path, line.encode())) is is_remote


def test_a_link_to_a_network_file_system_is_followed(tmp_path: Path) -> None:
    """The directory that counts is the one that files are written to."""
    (tmp_path / "link").symlink_to("remote/flags")
    mounts = mounts_in(tmp_path, MOUNTS + f"50 27 0:9 / {tmp_path}/remote rw - nfs h:/ rw\n".encode())
    assert is_network_file_system(tmp_path / "link", mounts)
    assert not is_network_file_system(tmp_path, mounts)


@pytest.mark.parametrize("lines", [b"", b"\n\n", b"nonsense", b"27 1 0:9 / / rw\n", b"- nfs h:/ rw", b"\xff\0\\777"])
def test_what_is_no_list_of_mounts_says_nothing(tmp_path: Path, lines: bytes) -> None:
    """Without a list of mounts, or a line for the directory, it counts as local."""
    assert not is_network_file_system(tmp_path, mounts_in(tmp_path, lines))
    assert not is_network_file_system(tmp_path, tmp_path / "missing")


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("make", [DirectoryStorage, lambda root: GenerationStorage(root, 3)], ids=["each", "set"])
def test_an_open_directory_knows_whether_it_may_block(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], DirectoryStorage],
    *,
    is_remote: bool,
) -> None:
    """A storage asks for the directory that it has made. (A network file system cannot be mounted by a test.)."""
    monkeypatch.setattr(
        "job.storage.directory.is_network_file_system", lambda directory: is_remote and directory.is_dir()
    )
    storage = make(root)
    assert storage.may_block_long is False
    storage.open()
    assert storage.may_block_long is is_remote
