"""Generations: readers see the old set or the new one, never a mixture."""

import errno
import fcntl
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from time import time

import pytest
from disk_calls import disk_calls
from hypothesis import example, given, settings
from hypothesis import strategies as st
from images import GIF, PNG
from rows import row

from job.errors import StorageError
from job.layout import sortable_time
from job.model import Stored
from job.storage import Generations, GenerationStorage

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RECORDS = {"before", "number", "generation.lock"}
"""What a set records of itself."""


def put(storage: GenerationStorage, file: str, data: bytes) -> Stored:
    with closing(storage.new_body()) as body:
        body.write(data)
        digest = body.sha256
        return Stored(file, len(data), digest, None, version=storage.publish(body, file, None))


def publish(root: Path, files: dict[str, bytes], keep: int = 3) -> None:
    storage = GenerationStorage(root, keep)
    storage.open()
    for file, data in files.items():
        put(storage, file, data)
    storage.commit()


def current_files(root: Path) -> dict[str, bytes]:
    current = root / "current"
    paths = sorted(path for path in current.rglob("*") if path.is_file() and path.name not in RECORDS)
    return {str(path.relative_to(current)): path.read_bytes() for path in paths}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "generations").iterdir())


def test_a_generation_appears_as_a_whole(tmp_path: Path) -> None:
    """Readers see nothing of a generation before `commit`, and all of it afterwards."""
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", GIF)
    put(storage, "7/66/42.png", PNG)
    assert not (tmp_path / "current").exists()
    storage.commit()
    assert current_files(tmp_path) == {"br.gif": GIF, "7/66/42.png": PNG}


def test_an_unchanged_file_is_a_hard_link(tmp_path: Path) -> None:
    """A new generation begins with hard links to the files of the current one: same inode, and intact."""
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    stored = put(storage, "br.gif", GIF)
    storage.commit()
    inode = (tmp_path / "current" / "br.gif").stat().st_ino
    following = GenerationStorage(tmp_path, 3)
    following.open()
    assert following.is_intact(stored)
    put(following, "cn.gif", PNG)
    following.commit()
    assert current_files(tmp_path) == {"br.gif": GIF, "cn.gif": PNG}
    assert (tmp_path / "current" / "br.gif").stat().st_ino == inode


def test_a_file_of_an_older_generation_is_never_written_to(tmp_path: Path) -> None:
    """A changed file has an inode of its own; the older generation keeps its file and its manifest."""
    publish(tmp_path, {"br.gif": GIF})
    old = (tmp_path / "current").resolve()
    (old / ".flagjob" / "manifest.jsonl").write_bytes(b"old\n")
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", PNG)
    with (storage.own_directory / "manifest.jsonl").open("ab") as manifest:
        manifest.write(b"new\n")
    storage.commit()
    assert (old / "br.gif").read_bytes() == GIF
    assert (old / ".flagjob" / "manifest.jsonl").read_bytes() == b"old\n"
    assert current_files(tmp_path) == {".flagjob/manifest.jsonl": b"old\nnew\n", "br.gif": PNG}


def test_an_abandoned_generation_leaves_nothing(tmp_path: Path) -> None:
    """Readers keep the old generation, and nothing is left of the new one."""
    publish(tmp_path, {"br.gif": GIF})
    before = names(tmp_path)
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", PNG)
    storage.abandon()
    storage.abandon()
    assert (current_files(tmp_path), names(tmp_path)) == ({"br.gif": GIF}, before)


def test_only_so_many_generations_are_kept(tmp_path: Path) -> None:
    """The newest generations stay for a rollback and older ones are removed; the current one always stays."""
    for number in range(5):
        publish(tmp_path, {"br.gif": GIF + bytes([number])}, keep=2)
    assert len(names(tmp_path)) == 2
    generations = Generations(tmp_path)
    generations.roll_back()
    generations.prune(1)
    assert len(names(tmp_path)) == 2
    assert current_files(tmp_path) == {"br.gif": GIF + b"\x03"}


def test_a_rollback_shows_the_generation_before(tmp_path: Path) -> None:
    """Each rollback goes back one generation, until there is none before."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    assert generations.roll_back().name == names(tmp_path)[0]
    assert current_files(tmp_path) == {"br.gif": GIF}
    with pytest.raises(StorageError, match="no generation before"):
        generations.roll_back()


def test_a_rollback_skips_a_generation_that_was_rolled_back(tmp_path: Path) -> None:
    """A rollback shows the generation from which the current one was made, not the next older one."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    good = generations.roll_back()
    publish(tmp_path, {"cn.gif": PNG})
    assert generations.roll_back() == good
    assert current_files(tmp_path) == {"br.gif": GIF}


@pytest.mark.parametrize("lost", ["the parent", "its name"])
def test_a_rollback_without_the_parent_shows_the_next_older_one(tmp_path: Path, lost: str) -> None:
    """If the parent was pruned or its name is lost, a rollback shows the newest of the older generations."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    good = generations.roll_back()
    publish(tmp_path, {"cn.gif": PNG})
    if lost == "the parent":
        rmtree(good)
    else:
        (tmp_path / "current" / ".flagjob" / "before").unlink()
    assert generations.roll_back().name == names(tmp_path)[-2]
    assert current_files(tmp_path) == {"br.gif": PNG}


class Clock:
    """The clock by which sets are named, as a test sets it."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self, _: object) -> datetime:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("job.storage.generations.datetime", made)
    return made


@row(73)
def test_a_set_of_a_clock_that_was_ahead_is_in_its_place(tmp_path: Path, clock: Clock) -> None:
    """A run a year ahead, and then right ones: the older sets are pruned first, and a rollback shows the one before."""
    for number, days in enumerate([0, 365, 1, 2]):
        clock.time = NOON + timedelta(days)
        publish(tmp_path, {"br.gif": GIF + bytes([number])}, keep=3)
    generations = Generations(tmp_path)
    published = [(path / "br.gif").read_bytes()[-1] for path in generations.list_published()]
    assert published == [1, 2, 3]
    assert [(generations.roll_back() / "br.gif").read_bytes()[-1] for _ in "12"] == [2, 1]
    with pytest.raises(StorageError, match="no generation before"):
        generations.roll_back()


@row(73)
def test_a_clock_that_stands_still_names_two_sets(tmp_path: Path, clock: Clock) -> None:
    """Two sets of one time, as of a machine without a clock, are two sets."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    assert clock.time == NOON
    assert current_files(tmp_path) == {"br.gif": PNG}
    Generations(tmp_path).roll_back()
    assert current_files(tmp_path) == {"br.gif": GIF}


STEPS = st.lists(st.integers(-400, 400) | st.none(), max_size=10)
"""What happens to a destination: a set is published while the clock is so many days ahead, or a rollback."""


@row(73)
@settings(deadline=None, max_examples=30)
@given(steps=STEPS, keep=st.integers(1, 3))
@example([0, 365, 1, None, 2, None, None], 3)
def test_the_order_of_sets_is_that_of_their_publication(steps: list[int | None], keep: int) -> None:
    """Whatever the clocks say: the last ones and the current one stay, and a rollback shows the one before."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root, clock = Path(name), Clock()
        patch.setattr("job.storage.generations.datetime", clock)
        generations = Generations(root)
        kept: list[int] = []
        parents: dict[int, int | None] = {}
        current: int | None = None
        for number, days in enumerate(steps):
            if days is not None:
                clock.time = NOON + timedelta(days)
                publish(root, {"br.gif": GIF + bytes([number])}, keep)
                parents[number] = current
                current = number
                kept = [*(other for other in kept if other in kept[len(kept) + 1 - keep :]), number]
            elif current is not None and kept.index(current) > 0:
                before = kept[kept.index(current) - 1]
                parent = parents[current]
                current = parent if parent in kept else before
                generations.roll_back()
            else:
                with pytest.raises(StorageError, match="no generation before"):
                    generations.roll_back()
            assert [(path / "br.gif").read_bytes()[-1] for path in generations.list_published()] == kept
            assert current is None or current_files(root) == {"br.gif": GIF + bytes([current])}


def early_generation(root: Path, name: str, before: str | None = None) -> None:
    """Make a published set as early versions of flagjob did."""
    own = root / "generations" / name / ".flagjob"
    own.mkdir(parents=True)
    if before:
        (own / "before").write_text(before)


@row(73)
@pytest.mark.parametrize(
    ("parents", "order"),
    [
        ({"2026-a": None, "2027-b": "2026-a", "2026-c": "2027-b"}, ["2026-a", "2027-b", "2026-c"]),
        ({"2026-a": None, "2026-b": "2026-a", "2026-c": "2026-a"}, ["2026-a", "2026-b", "2026-c"]),
        ({"2026-a": "2026-b", "2026-b": "2026-a"}, ["2026-a", "2026-b"]),
        ({"2026-a": "2026-a", "2026-b": "pruned"}, ["2026-b", "2026-a"]),
        ({"2026-b": "\0", "2026-a": None}, ["2026-a", "2026-b"]),
    ],
    ids=["ahead", "after a rollback", "a ring", "its own parent", "damaged"],
)
def test_sets_of_early_versions_follow_what_they_record(
    tmp_path: Path, parents: dict[str, str | None], order: list[str]
) -> None:
    """A set without a number comes after its parent, else in the order of names, and before the first numbered one."""
    for name, before in parents.items():
        early_generation(tmp_path, name, before)
    generations = Generations(tmp_path)
    assert [path.name for path in generations.list_published()] == order
    generations.flip(tmp_path / "generations" / order[-1])
    publish(tmp_path, {"br.gif": GIF}, keep=9)
    assert [path.name for path in generations.list_published()][:-1] == order
    assert generations.roll_back().name == order[-1]


TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (hypothesis wants them naive)


@row(73)
@given(now=TIMES, names=st.text(max_size=5) | TIMES.map(lambda time: f"{sortable_time(time)}-x"))
@example(NOON, "99991231T235959.999999Z-x")
@example(NOON, "20269999T999999.999999Z-x")
@example(NOON, "z")
def test_a_name_is_later_than_the_one_before(now: datetime, names: str) -> None:
    """A name of a segment has the time, or the next one after that of the name before it, if that has any."""
    name = sortable_time(now, after=names)
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z", name)
    assert name > names or name == sortable_time(now)
    if names < sortable_time(now):
        assert name == sortable_time(now)


def test_the_current_generation_is_never_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning keeps it below a relative destination, and if another run has prepared a newer one."""
    monkeypatch.chdir(tmp_path)
    first = GenerationStorage(Path("out"), 1)
    second = GenerationStorage(Path("out"), 1)
    for storage, data in ((first, GIF), (second, PNG)):
        storage.open()
        put(storage, "br.gif", data)
    second.commit()
    first.commit()
    assert current_files(Path("out")) == {"br.gif": GIF}


def test_a_link_to_itself_is_no_generation(tmp_path: Path) -> None:
    """A link that leads to itself is replaced by one to the first generation."""
    (tmp_path / "current").symlink_to("current")
    assert Generations(tmp_path).current is None
    publish(tmp_path, {"br.gif": GIF})
    assert current_files(tmp_path) == {"br.gif": GIF}


def test_a_generation_that_cannot_be_shown_is_removed(tmp_path: Path) -> None:
    """If a directory is at the link's path, `abandon` removes the generation, so that no rollback leads to it."""
    (tmp_path / "current" / "mine").mkdir(parents=True)
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", GIF)
    with pytest.raises(StorageError, match="current"):
        storage.commit()
    storage.abandon()
    assert names(tmp_path) == []


def test_a_generation_that_readers_see_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`abandon` keeps a published generation when the disk fails right after the flip (`fsync` is made to fail)."""
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", GIF)

    def fail(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.commit()
    storage.abandon()
    assert current_files(tmp_path) == {"br.gif": GIF}


def test_a_file_system_without_hard_links_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hard links are not permitted there is one error, not one for each file (`os.link` is made to fail)."""
    publish(tmp_path, {f"{number}.gif": GIF for number in range(50)})

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"Operation not permitted.*FLAGJOB_PUBLISH=each") as caught:
        GenerationStorage(tmp_path, 3).open()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["link", "symlink"])
def test_links_are_proved_before_the_first_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A file system without links of either kind takes no set, which is known at its beginning, not at its end."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, kind, refuse)
    storage = GenerationStorage(tmp_path, 3)
    with pytest.raises(StorageError, match=r"Input/output error.*FLAGJOB_PUBLISH=each"):
        storage.open()
    storage.abandon()
    assert names(tmp_path) == []


def test_a_generation_is_durable_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directories are synced, then its own name, then the link: a power cut leaves one generation or the other."""
    publish(tmp_path, {"br.gif": GIF})
    calls = disk_calls(monkeypatch, tmp_path)
    publish(tmp_path, {"7/66/42.png": PNG})
    (name,) = {path.name for path in Generations(tmp_path).list_published()[1:]}
    prepared = f"generations/.new-{name}"
    flipped_at = calls.index("current is named")
    for before in (f"{prepared}/7/66 is synced", f"{prepared}/7 is synced", f"{prepared} is synced"):
        assert calls.index(before) < calls.index(f"generations/{name} is named") < flipped_at
    assert calls[flipped_at - 1 : flipped_at + 2] == ["generations is synced", "current is named", ". is synced"]


def test_without_a_generation_a_rollback_fails(tmp_path: Path) -> None:
    """An empty destination has no current generation, and a rollback raises a StorageError."""
    generations = Generations(tmp_path)
    assert (generations.current, generations.list_published()) == (None, [])
    with pytest.raises(StorageError, match="no generation before"):
        generations.roll_back()


@row(43)
def test_prepared_generations_of_dead_runs_only_are_swept(tmp_path: Path) -> None:
    """A new run removes the generation that a killed run has prepared, not that of a living one."""
    killed = GenerationStorage(tmp_path, 3)
    killed.open()
    living = GenerationStorage(tmp_path, 3)
    living.open()
    put(living, "br.gif", GIF)
    for_all = GenerationStorage(tmp_path, 3)
    for_all.open()
    assert killed.root.exists()
    kill(killed)
    publish(tmp_path, {"cn.gif": PNG})
    assert current_files(tmp_path) == {"cn.gif": PNG}
    assert (killed.root.exists(), living.root.exists(), for_all.root.exists()) == (False, True, True)
    living.commit()
    assert current_files(tmp_path) == {"br.gif": GIF}


def kill(storage: GenerationStorage) -> None:
    """Do what the kernel does when a run is killed: its locks are released, and nothing else happens."""
    assert storage._lock  # noqa: SLF001
    storage._lock.close()  # noqa: SLF001


def age(root: Path, seconds: float) -> None:
    """Set the times of all that is below a directory so many seconds back."""
    now = time()
    for path in [root, *root.rglob("*")]:
        os.utime(path, (now - seconds, now - seconds), follow_symlinks=False)


HOUR = 3600


@row(74)
@pytest.mark.parametrize(
    ("lock", "quiet", "is_swept"),
    [
        ("this machine's", 0, True),
        ("another machine's", 0, False),
        ("another machine's", HOUR - 60, False),
        ("another machine's", HOUR + 60, True),
        ("another machine's", -HOUR - 60, True),
        ("empty", HOUR - 60, False),
        ("none", 0, False),
        ("none", HOUR + 60, True),
        ("held", HOUR + 60, False),
        ("held", -HOUR - 60, False),
        ("unsupported", HOUR + 60, False),
        ("of no known machine", 0, False),
        ("of no known machine", HOUR + 60, True),
    ],
)
def test_a_leftover_is_swept_if_its_run_is_certainly_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, quiet: float, *, is_swept: bool
) -> None:
    """Its lock must be free, and unless this machine had it nothing may have changed for an hour."""
    publish(tmp_path, {"br.gif": GIF})
    boot_id = tmp_path / "boot_id"
    monkeypatch.setattr("job.storage.generations._BOOT_ID", boot_id)
    if lock != "of no known machine":
        boot_id.write_text("a\n")
    leftover = GenerationStorage(tmp_path, 3)
    leftover.open()
    if lock != "held":
        kill(leftover)
    file = leftover.own_directory / "generation.lock"
    if lock == "none":
        file.unlink()
    elif lock in {"empty", "another machine's"}:
        file.write_text("" if lock == "empty" else "b\n")
    age(leftover.root, quiet)
    if lock == "unsupported":
        monkeypatch.setattr(fcntl, "flock", refuse_locks)
    publish(tmp_path, {"cn.gif": PNG})
    assert leftover.root.exists() is not is_swept
    assert current_files(tmp_path) == {"br.gif": GIF, "cn.gif": PNG}


def refuse_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@row(74)
@pytest.mark.parametrize("sign", ["br.gif", ".flagjob/manifest.jsonl", ".flagjob/tmp/1"])
def test_any_sign_of_life_keeps_another_machines_generation(tmp_path: Path, sign: str) -> None:
    """A file, a line of the manifest or a temporary file that is young is enough."""
    leftover = GenerationStorage(tmp_path, 3)
    leftover.open()
    kill(leftover)
    (leftover.own_directory / "generation.lock").write_text("of another machine")
    (leftover.own_directory / "manifest.jsonl").touch()
    age(leftover.root, HOUR + 60)
    (leftover.root / sign).touch()
    if "/" in sign:
        os.utime((leftover.root / sign).parent, (0, 0))
    publish(tmp_path, {"cn.gif": PNG})
    assert leftover.root.exists()
    age(leftover.root, HOUR + 60)
    publish(tmp_path, {"cn.gif": PNG})
    assert not leftover.root.exists()


@row(43)
def test_what_was_being_removed_is_removed_at_once(tmp_path: Path) -> None:
    """A generation that a killed run was removing, perhaps without its lock already, is swept by the next run."""
    publish(tmp_path, {"br.gif": GIF})
    (tmp_path / "generations" / ".old-1" / ".flagjob").mkdir(parents=True)
    publish(tmp_path, {"br.gif": PNG})
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_the_lock_of_a_set_is_its_own(tmp_path: Path) -> None:
    """A set that is made from another one locks a file of its own, and both keep theirs."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    locks = [path / ".flagjob" / "generation.lock" for path in Generations(tmp_path).list_published()]
    assert len({path.stat().st_ino for path in locks}) == 2


def test_runs_that_begin_at_once_do_not_sweep_each_other(tmp_path: Path) -> None:
    """No run removes a generation that another one has made and not locked yet."""

    def begin_and_abandon(_: int) -> None:
        storage = GenerationStorage(tmp_path, 3)
        storage.open()
        put(storage, "br.gif", GIF)
        storage.abandon()

    with ThreadPoolExecutor(4) as runs:
        list(runs.map(begin_and_abandon, range(400)))
    assert names(tmp_path) == []


def test_an_old_prepared_link_is_swept(tmp_path: Path) -> None:
    """The link of a run that was killed in mid-flip is removed when it is old, not while it may be in use."""
    publish(tmp_path, {"br.gif": GIF})
    old, new = (tmp_path / "generations" / f".new-{name}" for name in ("old", "new"))
    for link in (old, new):
        link.symlink_to("generations/x")
    os.utime(old, (0, 0), follow_symlinks=False)
    publish(tmp_path, {"cn.gif": PNG})
    assert (old.is_symlink(), new.is_symlink()) == (False, True)


def test_a_pruned_generation_is_never_half_visible(tmp_path: Path) -> None:
    """A generation is hidden before it is removed: if it cannot be hidden, all of it stays until the next prune."""
    publish(tmp_path, {"br.gif": GIF})
    (first,) = Generations(tmp_path).list_published()
    obstacle = first.with_name(f".old-{first.name}")  # a file at the hidden name: the rename fails
    obstacle.write_bytes(b"x")
    publish(tmp_path, {"br.gif": PNG}, keep=1)
    assert (first / "br.gif").read_bytes() == GIF
    obstacle.unlink()
    Generations(tmp_path).prune(1)
    assert names(tmp_path) == [Generations(tmp_path).list_published()[0].name]
    assert current_files(tmp_path) == {"br.gif": PNG}


def test_a_destination_that_is_not_writable_is_one_error(tmp_path: Path) -> None:
    """A file at the path of the generations makes `open` raise a StorageError that names it."""
    (tmp_path / "generations").write_bytes(b"mine")
    with pytest.raises(StorageError, match="generations"):
        GenerationStorage(tmp_path, 3).open()
