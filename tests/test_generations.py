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


def test_prepared_generations_of_dead_runs_only_are_swept(tmp_path: Path) -> None:
    """A new run removes the generation that a killed run has prepared, not that of a living one."""
    (tmp_path / "generations" / ".new-dead").mkdir(parents=True)
    living = GenerationStorage(tmp_path, 3)
    living.open()
    put(living, "br.gif", GIF)
    publish(tmp_path, {"cn.gif": PNG})
    assert current_files(tmp_path) == {"cn.gif": PNG}
    assert not (tmp_path / "generations" / ".new-dead").exists()
    living.commit()
    assert current_files(tmp_path) == {"br.gif": GIF}


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
    obstacle = first.with_name(f".new-{first.name}")  # a file at the hidden name: the rename fails
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
