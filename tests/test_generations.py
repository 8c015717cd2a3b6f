"""Generations: readers see the old set or the new one, never a mixture."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from shutil import rmtree

import pytest
from disk_calls import disk_calls
from images import GIF, PNG

from job.errors import StorageError
from job.model import Stored
from job.storage import Generations, GenerationStorage


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
    paths = sorted(path for path in current.rglob("*") if path.is_file() and path.name != "before")
    return {str(path.relative_to(current)): path.read_bytes() for path in paths}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "generations").iterdir())


def test_a_generation_appears_as_a_whole(tmp_path: Path) -> None:
    """Until it is committed readers see nothing of it; then they see all of it."""
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", GIF)
    put(storage, "7/66/42.png", PNG)
    assert not (tmp_path / "current").exists()
    storage.commit()
    assert current_files(tmp_path) == {"br.gif": GIF, "7/66/42.png": PNG}


def test_what_is_unchanged_is_the_same_file(tmp_path: Path) -> None:
    """A new generation costs links, not copies: same inode, and known as it was stored."""
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
    """A file that changes is another file; the older generation keeps its own, and what was remembered then."""
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


def test_an_abandoned_generation_was_never_there(tmp_path: Path) -> None:
    """Readers go on with the old set, and nothing is left of the new one."""
    publish(tmp_path, {"br.gif": GIF})
    before = names(tmp_path)
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", PNG)
    storage.abandon()
    storage.abandon()
    assert (current_files(tmp_path), names(tmp_path)) == ({"br.gif": GIF}, before)


def test_only_so_many_generations_are_kept(tmp_path: Path) -> None:
    """The newest stay for a rollback, older ones go; the current one always stays."""
    for number in range(5):
        publish(tmp_path, {"br.gif": GIF + bytes([number])}, keep=2)
    assert len(names(tmp_path)) == 2
    generations = Generations(tmp_path)
    generations.roll_back()
    generations.prune(1)
    assert len(names(tmp_path)) == 2
    assert current_files(tmp_path) == {"br.gif": GIF + b"\x03"}


def test_a_rollback_shows_the_generation_before(tmp_path: Path) -> None:
    """One step back at a time, as long as there is one."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    assert generations.roll_back().name == names(tmp_path)[0]
    assert current_files(tmp_path) == {"br.gif": GIF}
    with pytest.raises(StorageError, match="no generation before"):
        generations.roll_back()


def test_a_rollback_does_not_show_again_what_was_rolled_back(tmp_path: Path) -> None:
    """The set before is the one from which the current one was made, not the one that readers were taken away from."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    good = generations.roll_back()
    publish(tmp_path, {"cn.gif": PNG})
    assert generations.roll_back() == good
    assert current_files(tmp_path) == {"br.gif": GIF}


@pytest.mark.parametrize("lost", ["the set", "its name"])
def test_a_rollback_beyond_what_is_kept_is_one_step(tmp_path: Path, lost: str) -> None:
    """Where the set before was pruned, or nobody knows which it was, the newest of the older ones is shown."""
    for data in (GIF, PNG):
        publish(tmp_path, {"br.gif": data})
    generations = Generations(tmp_path)
    good = generations.roll_back()
    publish(tmp_path, {"cn.gif": PNG})
    if lost == "the set":
        rmtree(good)
    else:
        (tmp_path / "current" / ".flagjob" / "before").unlink()
    assert generations.roll_back().name == names(tmp_path)[-2]
    assert current_files(tmp_path) == {"br.gif": PNG}


def test_the_current_generation_is_never_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not under a relative destination, nor where another run has prepared a newer one."""
    monkeypatch.chdir(tmp_path)
    first, second = GenerationStorage(Path("out"), 1), GenerationStorage(Path("out"), 1)
    for storage, data in ((first, GIF), (second, PNG)):
        storage.open()
        put(storage, "br.gif", data)
    second.commit()
    first.commit()
    assert current_files(Path("out")) == {"br.gif": GIF}


def test_a_link_that_leads_to_itself_shows_nothing(tmp_path: Path) -> None:
    """It is replaced by the first set."""
    (tmp_path / "current").symlink_to("current")
    assert Generations(tmp_path).current is None
    publish(tmp_path, {"br.gif": GIF})
    assert current_files(tmp_path) == {"br.gif": GIF}


def test_a_generation_that_cannot_be_shown_is_not_left(tmp_path: Path) -> None:
    """A directory in the link's place costs no room at each run, and no rollback may lead to what nobody saw."""
    (tmp_path / "current" / "mine").mkdir(parents=True)
    storage = GenerationStorage(tmp_path, 3)
    storage.open()
    put(storage, "br.gif", GIF)
    with pytest.raises(StorageError, match="current"):
        storage.commit()
    storage.abandon()
    assert names(tmp_path) == []


def test_a_set_that_readers_see_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk fails the moment after; no disk here fails when it should, so the call is made to."""
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


def test_a_file_system_without_hard_links_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each file; there is none to try it on, so the call is made to fail as there."""
    publish(tmp_path, {f"{number}.gif": GIF for number in range(50)})

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"Operation not permitted.*FLAGJOB_PUBLISH=each") as caught:
        GenerationStorage(tmp_path, 3).open()
    assert len(str(caught.value)) < 1000


def test_a_set_is_shown_when_all_of_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directories, then its own name, then the link: a power cut finds the one set or the other."""
    publish(tmp_path, {"br.gif": GIF})
    calls = disk_calls(monkeypatch, tmp_path)
    publish(tmp_path, {"7/66/42.png": PNG})
    (name,) = {path.name for path in Generations(tmp_path).list_published()[1:]}
    prepared = f"generations/.new-{name}"
    shown_at = calls.index("current is named")
    for before in (f"{prepared}/7/66 is synced", f"{prepared}/7 is synced", f"{prepared} is synced"):
        assert calls.index(before) < calls.index(f"generations/{name} is named") < shown_at
    assert calls[shown_at - 1 : shown_at + 2] == ["generations is synced", "current is named", ". is synced"]


def test_without_any_generation_there_is_nothing_to_roll_back_to(tmp_path: Path) -> None:
    """An empty destination has no current set."""
    generations = Generations(tmp_path)
    assert (generations.current, generations.list_published()) == (None, [])
    with pytest.raises(StorageError, match="no generation before"):
        generations.roll_back()


def test_what_a_dead_run_prepared_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """A killed run's half generation goes at the next start; another run's that is under way stays."""
    (tmp_path / "generations" / ".new-dead").mkdir(parents=True)
    living = GenerationStorage(tmp_path, 3)
    living.open()
    put(living, "br.gif", GIF)
    publish(tmp_path, {"cn.gif": PNG})
    assert current_files(tmp_path) == {"cn.gif": PNG}
    assert not (tmp_path / "generations" / ".new-dead").exists()
    living.commit()
    assert current_files(tmp_path) == {"br.gif": GIF}


def test_runs_that_begin_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    """What one has made and not locked yet is never swept by another as a dead one's."""

    def begin_and_abandon(_: int) -> None:
        storage = GenerationStorage(tmp_path, 3)
        storage.open()
        put(storage, "br.gif", GIF)
        storage.abandon()

    with ThreadPoolExecutor(4) as runs:
        list(runs.map(begin_and_abandon, range(400)))
    assert names(tmp_path) == []


def test_a_link_that_was_never_flipped_is_swept(tmp_path: Path) -> None:
    """A run that was killed in mid-flip leaves a link: it goes when it is old, not while it may be in use."""
    publish(tmp_path, {"br.gif": GIF})
    old, new = (tmp_path / "generations" / f".new-{name}" for name in ("old", "new"))
    for link in (old, new):
        link.symlink_to("generations/x")
    os.utime(old, (0, 0), follow_symlinks=False)
    publish(tmp_path, {"cn.gif": PNG})
    assert (old.is_symlink(), new.is_symlink()) == (False, True)


def test_what_is_pruned_is_never_half_there_under_its_name(tmp_path: Path) -> None:
    """A generation that cannot be removed as a whole, or whose run is killed meanwhile, is none to roll back to."""
    publish(tmp_path, {"br.gif": GIF})
    (first,) = Generations(tmp_path).list_published()
    held = first.with_name(f".new-{first.name}")  # in the way, as a file: the rename fails, and nothing is removed
    held.write_bytes(b"x")
    publish(tmp_path, {"br.gif": PNG}, keep=1)
    assert (first / "br.gif").read_bytes() == GIF
    held.unlink()
    Generations(tmp_path).prune(1)
    assert names(tmp_path) == [Generations(tmp_path).list_published()[0].name]
    assert current_files(tmp_path) == {"br.gif": PNG}


def test_a_destination_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """One clear message, before anything."""
    (tmp_path / "generations").write_bytes(b"mine")
    with pytest.raises(StorageError, match="generations"):
        GenerationStorage(tmp_path, 3).open()
