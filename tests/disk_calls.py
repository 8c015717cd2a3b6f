"""The calls of a run to the disk: those that decide what a power cut takes back, in order, and some made to fail."""

import os
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest


def disk_calls(patch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Return a list to which each fsync and rename below `root` is appended from now on, as text."""
    calls: list[str] = []

    def relative(name: str) -> str:
        return str(Path(name).relative_to(root))

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        calls.append(f"{relative(str(Path(f'/proc/self/fd/{descriptor}').readlink()))} is synced")

    def replace(source: Any, target: Any, **more: Any) -> None:
        real_replace(source, target, **more)
        calls.append(f"{relative(target)} is named")

    def rename(source: Any, target: Any, **more: Any) -> None:
        real_rename(source, target, **more)
        calls.append(f"{relative(target)} is named")

    real_fsync = os.fsync
    real_replace = os.replace
    real_rename = os.rename
    patch.setattr(os, "fsync", fsync)
    patch.setattr(os, "replace", replace)
    patch.setattr(os, "rename", rename)
    return calls


def refuse_names(patch: pytest.MonkeyPatch, directory: Path, number: int) -> None:
    """Make every mkdir and rename fail from now on that would give a name to `directory`, or to what is below it."""

    def refuse_below(path: Any) -> None:
        if Path(path) == directory or directory in Path(path).parents:
            raise OSError(number, os.strerror(number))

    def mkdir(path: Any, *more: Any, **named: Any) -> None:
        refuse_below(path)
        real_mkdir(path, *more, **named)

    def rename(source: Any, target: Any, **named: Any) -> None:
        refuse_below(target)
        real_rename(source, target, **named)

    real_mkdir = os.mkdir
    real_rename = os.rename
    patch.setattr(os, "mkdir", mkdir)
    patch.setattr(os, "rename", rename)


def refuse_fsync(patch: pytest.MonkeyPatch, number: int, *, directories: bool) -> None:
    """Make every fsync of a directory, or else of a file, fail from now on."""

    def fsync(descriptor: int) -> None:
        if S_ISDIR(os.fstat(descriptor).st_mode) is directories:
            raise OSError(number, os.strerror(number))
        real_fsync(descriptor)

    real_fsync = os.fsync
    patch.setattr(os, "fsync", fsync)


def fold_names(patch: pytest.MonkeyPatch, root: Path, fold: Callable[[str], str]) -> None:
    """Make the file system below `root` take names for one from now on if `fold` returns the same text for them.

    As with vfat, APFS, SMB and casefold of ext4, a file keeps the name by which it was made.
    """

    def found(name: Any) -> Any:
        path = Path(name) if isinstance(name, str | os.PathLike) else None
        if path is None or not path.is_relative_to(root):
            return name
        present = root
        for part in path.relative_to(root).parts:
            others = [other.name for other in present.iterdir()] if real_isdir(present) else []
            same = [other for other in others if fold(other) == fold(part)]
            present /= part if part in same or not same else same[0]
        return str(present)

    def one_name(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *more, **named: call(found(path), *more, **named)

    def two_names(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda source, target, **named: call(found(source), found(target), **named)

    stat = os.stat

    def real_isdir(path: Path) -> bool:
        try:
            return S_ISDIR(stat(path).st_mode)
        except OSError:
            return False

    for name in ("open", "stat", "lstat", "mkdir", "unlink"):
        patch.setattr(os, name, one_name(getattr(os, name)))
    for name in ("rename", "replace", "link"):
        patch.setattr(os, name, two_names(getattr(os, name)))
