"""What a result changes in what is known of its code: functions of values."""

from dataclasses import replace
from enum import StrEnum

from job.manifest.lines import Row
from job.model import Entry, Result, Status, Stored, WorkItem

_ANSWERS = {Status.OK, Status.UNCHANGED, Status.NOT_FOUND}


class Change(StrEnum):
    """What became of a code's file in a run."""

    NEW = "new"
    """It is here for the first time, under a new name, or again after it was gone."""
    CHANGED = "changed"
    GONE = "gone"
    """The origin has it no more; told once, and the file stays."""
    UNCHANGED = "unchanged"


def is_news(known: Row | None, result: Result) -> bool:
    """Tell whether a result is worth a line: not if nobody asked the origin, unless there is something to learn."""
    if result.attempts:
        return True
    if known is None:
        return result.status is not Status.CANCELLED
    return result.data not in {None, known.entry.stored}


def change(known: Row | None, result: Result) -> Change | None:
    """Return what became of the file, or None where that cannot be told, or where there is none."""
    had = known.entry.stored if known else None
    here = None if known and known.gone else had
    if result.status is Status.NOT_FOUND:
        return Change.GONE if here else None
    if result.data is None:
        return None
    if here is None or here.path != result.data.path:
        return Change.NEW
    return Change.UNCHANGED if here.sha256 == result.data.sha256 else Change.CHANGED


def learned(known: Row | None, item: WorkItem, url: str, result: Result, at: str) -> Row:
    """Return what is known after a result; `url` is the item's as it is recorded, `at` the time as text."""
    before = known.entry if known else Entry(item.code, url, item.file, result.status, None, "", None, 0, None)
    stored = result.data or _kept(before, url, item.file)
    entry = Entry(
        code=item.code,
        url=url,
        file=stored.path if stored else item.file,
        status=result.status,
        stored=stored,
        checked_at=at if result.status in _ANSWERS else before.checked_at,
        changed_at=at if _differ(before.stored, result.data) else before.changed_at,
        attempts=result.attempts,
        reason=result.reason,
    )
    return Row(entry, gone=stored is not None and _is_gone(known, result))


def _kept(before: Entry, url: str, file: str) -> Stored | None:
    """Return the file that stays; about another URL it proves nothing, so its validators and version are dropped."""
    if before.stored is None or (before.url, before.file) == (url, file):
        return before.stored
    return replace(before.stored, etag=None, last_modified=None, version=None)


def _differ(before: Stored | None, now: Stored | None) -> bool:
    return now is not None and (before is None or before.sha256 != now.sha256)


def _is_gone(known: Row | None, result: Result) -> bool:
    """Tell whether the file is one that the origin has no more: an error says nothing about that."""
    if result.status in _ANSWERS:
        return result.status is Status.NOT_FOUND
    return known is not None and known.gone
