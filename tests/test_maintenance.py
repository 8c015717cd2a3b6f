"""The verification of a destination finds of each file what its bytes show."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from images import GIF, PNG

from job.maintenance import Finding, Verification
from job.model import Entry, Status, Stored
from job.storage import DirectoryStorage

Findings = list[tuple[str, str]]


def entry(root: Path, file: str, data: bytes = GIF, status: Status = Status.OK) -> Entry:
    """Write a file, and return the entry that a manifest would have of it."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    stored = Stored(file, len(data), sha256(data).hexdigest(), None, version=str(path.stat().st_mtime_ns))
    return Entry(file.upper(), "http://h", file, status, stored, "", None, 1, None)


def verify(root: Path, *entries: Entry, delete: bool = False) -> tuple[Verification, bool, Findings]:
    """Return a verification that has run, whether no file is changed or missing, and the findings that it reported."""
    findings: Findings = []
    verification = Verification(root, lambda finding, file: findings.append((finding.value, file)), delete=delete)
    return verification, verification.run(entries), findings


def test_whole_files_are_only_counted(tmp_path: Path) -> None:
    """If every file is whole, nothing is reported, and all files are counted."""
    (tmp_path / ".flagjob").mkdir()
    (tmp_path / ".flagjob" / "manifest.jsonl").write_bytes(b"x")
    (tmp_path / "SHA256SUMS").write_bytes(b"x")
    verification, is_intact, findings = verify(tmp_path, entry(tmp_path, "br.gif"), entry(tmp_path, "7/66/42.png", PNG))
    assert (is_intact, findings, verification.counts[Finding.WHOLE]) == (True, [], 2)


@pytest.mark.parametrize("silent", [True, False])
def test_one_flipped_bit_is_found_and_will_be_repaired(tmp_path: Path, *, silent: bool) -> None:
    """Also if size and mtime are unchanged; the next run does not take the file for the stored one."""
    known = entry(tmp_path, "br.gif")
    path = tmp_path / "br.gif"
    when = path.stat().st_mtime_ns
    path.write_bytes(bytes([GIF[0] ^ 1]) + GIF[1:])
    os.utime(path, ns=(when, when if silent else when + 1))
    _, is_intact, findings = verify(tmp_path, known)
    assert known.stored is not None
    assert (is_intact, findings) == (False, [("changed", "br.gif")])
    assert not DirectoryStorage(tmp_path).is_intact(known.stored)


@pytest.mark.parametrize("instead", ["nothing", "directory", "link", "file above"])
def test_a_file_that_is_not_there_is_missing(tmp_path: Path, instead: str) -> None:
    """A directory, a symbolic link, or a file in the place of its directory is not the file."""
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
    _, is_intact, findings = verify(tmp_path, known)
    assert (is_intact, findings[0]) == (False, ("missing", "7/br.gif"))


def test_a_file_system_may_list_names_in_another_form(tmp_path: Path) -> None:
    """A name that is listed in NFD, as on HFS+, is that of the file that was stored in NFC."""
    known = entry(tmp_path, "\u00e4.gif")
    (tmp_path / "a\u0308.gif").write_bytes(GIF)
    _, is_intact, findings = verify(tmp_path, known)
    assert (is_intact, findings) == (True, [])


def test_unknown_files_are_reported_and_are_no_failure(tmp_path: Path) -> None:
    """A file in no entry, such as a user's index.html, is reported and never deleted."""
    known = entry(tmp_path, "br.gif")
    (tmp_path / "7").mkdir()
    for name in ("index.html", "7/x"):
        (tmp_path / name).write_bytes(b"mine")
    _, is_intact, findings = verify(tmp_path, known, delete=True)
    assert (is_intact, sorted(findings)) == (True, [("unknown", "7/x"), ("unknown", "index.html")])
    assert (tmp_path / "index.html").exists()


def test_gone_files_stay_until_they_are_to_be_deleted(tmp_path: Path) -> None:
    """A code that turned 404 keeps its file; with `delete` the file is deleted, and the code is to be forgotten."""
    kept, gone = entry(tmp_path, "br.gif"), entry(tmp_path, "zz.gif", status=Status.NOT_FOUND)
    first, is_intact, findings = verify(tmp_path, kept, gone)
    assert (is_intact, findings, first.deleted_files, (tmp_path / "zz.gif").exists()) == (
        True,
        [("gone", "zz.gif")],
        [],
        True,
    )
    second, is_intact, findings = verify(tmp_path, kept, gone, delete=True)
    assert (is_intact, findings, second.deleted_files) == (True, [("deleted", "zz.gif")], ["zz.gif"])
    assert [path.name for path in tmp_path.iterdir()] == ["br.gif"]


def test_entries_without_a_file_are_no_files(tmp_path: Path) -> None:
    """A code that was never found has no file to be read."""
    verification, is_intact, findings = verify(
        tmp_path, Entry("ZZ", "u", "zz.gif", Status.NOT_FOUND, None, "", None, 1, None)
    )
    assert (is_intact, findings, sum(verification.counts.values())) == (True, [], 0)


def test_a_directory_in_the_place_of_a_gone_file_is_not_deleted(tmp_path: Path) -> None:
    """It is reported as missing, and the other files are deleted."""
    odd, gone = (entry(tmp_path, name, status=Status.NOT_FOUND) for name in ("yy.gif", "zz.gif"))
    (tmp_path / "yy.gif").unlink()
    (tmp_path / "yy.gif").mkdir()
    verification, is_intact, findings = verify(tmp_path, odd, gone, delete=True)
    assert (is_intact, findings, verification.deleted_files) == (
        False,
        [("missing", "yy.gif"), ("deleted", "zz.gif")],
        ["zz.gif"],
    )
    assert [path.name for path in tmp_path.iterdir()] == ["yy.gif"]
