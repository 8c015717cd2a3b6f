"""Entries to lines of JSON and back: whatever a line holds, reading it raises nothing."""

from dataclasses import dataclass
from operator import itemgetter
from types import NoneType

import orjson

from job.model import Entry, Status, Stored

_VERSION = 1
_START = b'{"code":'
_FORGOTTEN = b'"forgotten":true}'
_TEXT = (str,)
_MAYBE_TEXT = (str, NoneType)
_TYPES: dict[str, tuple[type, ...]] = {
    "code": _TEXT,
    "url": _TEXT,
    "file": _TEXT,
    "status": _TEXT,
    "sha256": _MAYBE_TEXT,
    "bytes": (int, NoneType),
    "content_type": _MAYBE_TEXT,
    "etag": _MAYBE_TEXT,
    "last_modified": _MAYBE_TEXT,
    "version": _MAYBE_TEXT,
    "checked_at": _TEXT,
    "changed_at": _MAYBE_TEXT,
    "attempts": (int,),
    "reason": _MAYBE_TEXT,
}
_FIELDS = itemgetter(*_TYPES)
_STATUSES = {status.value: status for status in Status}


@dataclass(frozen=True, slots=True)
class Row:
    """An entry, and what only the manifest itself needs to know."""

    entry: Entry
    gone: bool = False
    """It was told that the origin has this code no more, although its file is still here."""


def header(origin: str) -> bytes:
    """Return the first line of a manifest."""
    return orjson.dumps({"flagjob_manifest": _VERSION, "origin": origin})


def origin_of(line: bytes) -> str | None:
    """Return the origin that a first line names, or None if it is not that."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or found.get("flagjob_manifest") != _VERSION:
        return None
    origin = found.get("origin")
    return origin if isinstance(origin, str) else None


def dump(row: Row) -> bytes:
    """Return an entry as a line, its code first."""
    entry, stored = row.entry, row.entry.stored
    return orjson.dumps(
        {
            "code": entry.code,
            "url": entry.url,
            "file": entry.file,
            "status": entry.status,
            "sha256": stored and stored.sha256,
            "bytes": stored and stored.bytes,
            "content_type": stored and stored.content_type,
            "etag": stored and stored.etag,
            "last_modified": stored and stored.last_modified,
            "version": stored and stored.version,
            "checked_at": entry.checked_at,
            "changed_at": entry.changed_at,
            "attempts": entry.attempts,
            "reason": entry.reason,
            **({"redirected_to": stored.redirected_to} if stored and stored.redirected_to else {}),
            **({"gone": True} if row.gone else {}),
        }
    )


def forgotten(code: str) -> bytes:
    """Return the line that takes back all earlier ones of a code."""
    return orjson.dumps({"code": code, "forgotten": True})


def is_forgotten(line: bytes) -> bool:
    """Tell whether a line takes back those before it."""
    return line.endswith(_FORGOTTEN)


def code_of(line: bytes) -> str | None:
    """Return the code that a line is about, or None if it is damaged or not about one."""
    if not line.startswith(_START):
        return None
    try:
        code = orjson.loads(line)["code"]
    except orjson.JSONDecodeError:
        return None
    return code if isinstance(code, str) else None


def load(line: bytes) -> Row | None:
    """Return what a line says, or None if it is no entry."""
    try:
        row = orjson.loads(line)
        values = _FIELDS(row)
    except (orjson.JSONDecodeError, KeyError, TypeError):  # no JSON, no such field, no object
        return None
    redirected_to = row.get("redirected_to")
    if not all(map(isinstance, values, _TYPES.values())) or not isinstance(redirected_to, _MAYBE_TEXT):
        return None
    code, url, file, status, sha256, size, *facts, checked_at, changed_at, attempts, reason = values
    if status not in _STATUSES:
        return None
    stored = None if sha256 is None or size is None else Stored(file, size, sha256, *(*facts, redirected_to))
    entry = Entry(code, url, file, _STATUSES[status], stored, checked_at, changed_at, attempts, reason)
    return Row(entry, gone=row.get("gone") is True)
