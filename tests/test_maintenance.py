"""The audit: what is said of a destination is what its bytes say."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from images import GIF, PNG

from job.maintenance import Finding, Verification
from job.model import Entry, Status, Stored
from job.storage import DirectoryStorage

Told = list[tuple[str, str]]


def entry(root: Path, file: str, data: bytes = GIF, status: Status = Status.OK) -> Entry:
    """Put a file where it belongs, and give what a manifest would know of it."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    stored = Stored(file, len(data), sha256(data).hexdigest(), None, version=str(path.stat().st_mtime_ns))
    return Entry(file.upper(), "http://h", file, status, stored, "", None, 1, None)


def audited(root: Path, *entries: Entry, delete: bool = False) -> tuple[Verification, bool, Told]:
    told: Told = []
    verification = Verification(root, lambda finding, file: told.append((finding.value, file)), delete=delete)
    return verification, verification.run(entries), told


def test_whole_files_are_passed_over(tmp_path: Path) -> None:
    """Where all is well nothing is said, and everything is counted."""
    (tmp_path / ".flagjob").mkdir()
    (tmp_path / ".flagjob" / "manifest.jsonl").write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_bytes(b"x")
    verification, well, told = audited(tmp_path, entry(tmp_path, "br.gif"), entry(tmp_path, "7/66/42.png", PNG))
    assert (well, told, verification.counts[Finding.WHOLE]) == (True, [], 2)


@pytest.mark.parametrize("silent", [True, False])
def test_one_flipped_bit_is_found_and_will_be_repaired(tmp_path: Path, *, silent: bool) -> None:
    """Also where size and mtime say nothing; the next run will not take the file for what was stored."""
    known = entry(tmp_path, "br.gif")
    path = tmp_path / "br.gif"
    when = path.stat().st_mtime_ns
    path.write_bytes(bytes([GIF[0] ^ 1]) + GIF[1:])
    os.utime(path, ns=(when, when if silent else when + 1))
    _, well, told = audited(tmp_path, known)
    assert known.stored is not None
    assert (well, told) == (False, [("changed", "br.gif")])
    assert not DirectoryStorage(tmp_path).has(known.stored)


@pytest.mark.parametrize("instead", ["nothing", "directory", "link", "file above"])
def test_what_is_not_there_is_missing(tmp_path: Path, instead: str) -> None:
    """A directory, a link or a file where its directory should be are not the file."""
    known = entry(tmp_path, "7/br.gif")
    path = tmp_path / "7" / "br.gif"
    path.rename(tmp_path / "7" / "other")
    if instead == "directory":
        path.mkdir()
    elif instead == "link":
        path.symlink_to("other")
    elif instead == "file above":
        (tmp_path / "7" / "other").unlink()
        path.parent.rmdir()
        path.parent.write_bytes(b"x")
    _, well, told = audited(tmp_path, known)
    assert (well, told[0]) == (False, ("missing", "7/br.gif"))


def test_files_that_nobody_knows_are_named_but_no_failure(tmp_path: Path) -> None:
    """Somebody's index.html is theirs; that it is there is told."""
    known = entry(tmp_path, "br.gif")
    (tmp_path / "7").mkdir()
    for name in ("index.html", "7/x"):
        (tmp_path / name).write_bytes(b"mine")
    _, well, told = audited(tmp_path, known, delete=True)
    assert (well, sorted(told)) == (True, [("unknown", "7/x"), ("unknown", "index.html")])
    assert (tmp_path / "index.html").exists()


def test_gone_files_stay_until_they_are_to_be_deleted(tmp_path: Path) -> None:
    """A code that turned 404 keeps its file; with delete it goes, and is to be forgotten."""
    kept, gone = entry(tmp_path, "br.gif"), entry(tmp_path, "zz.gif", status=Status.NOT_FOUND)
    first, well, told = audited(tmp_path, kept, gone)
    assert (well, told, first.deleted, (tmp_path / "zz.gif").exists()) == (True, [("gone", "zz.gif")], [], True)
    second, well, told = audited(tmp_path, kept, gone, delete=True)
    assert (well, told, second.deleted) == (True, [("deleted", "zz.gif")], ["ZZ.GIF"])
    assert [path.name for path in tmp_path.iterdir()] == ["br.gif"]


def test_entries_without_a_file_are_no_files(tmp_path: Path) -> None:
    """A code that was never found has nothing to be looked at."""
    verification, well, told = audited(tmp_path, Entry("ZZ", "u", "zz.gif", Status.NOT_FOUND, None, "", None, 1, None))
    assert (well, told, sum(verification.counts.values())) == (True, [], 0)


def test_a_directory_in_a_gone_files_place_is_nobodys_to_delete(tmp_path: Path) -> None:
    """It is told, and holds up none of the others."""
    odd, gone = (entry(tmp_path, name, status=Status.NOT_FOUND) for name in ("yy.gif", "zz.gif"))
    (tmp_path / "yy.gif").unlink()
    (tmp_path / "yy.gif").mkdir()
    verification, well, told = audited(tmp_path, odd, gone, delete=True)
    assert (well, told, verification.deleted) == (False, [("missing", "yy.gif"), ("deleted", "zz.gif")], ["ZZ.GIF"])
    assert [path.name for path in tmp_path.iterdir()] == ["yy.gif"]
