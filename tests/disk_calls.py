"""The calls of a run to the disk: those that decide what a power cut takes back, in order, and some made to fail."""

import os
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
