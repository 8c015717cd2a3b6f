"""Records of a manifest as lines of JSON: encode and parse; parsing damaged bytes returns None and raises nothing."""

from dataclasses import dataclass
from operator import itemgetter
from types import NoneType
from typing import Any

import orjson

from job.model import Entry, Status, Stored

_FORMAT_VERSION = 1
_CODE_PREFIX = b'{"code":'
Fields = dict[str, Any]
"""The JSON object of a line. Its code is text; anything may be in its other fields."""

_TEXT = (str,)
_OPTIONAL_TEXT = (str, NoneType)
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "code": _TEXT,
    "url": _TEXT,
    "file": _TEXT,
    "status": _TEXT,
    "sha256": _OPTIONAL_TEXT,
    "bytes": (int, NoneType),
    "content_type": _OPTIONAL_TEXT,
    "etag": _OPTIONAL_TEXT,
    "last_modified": _OPTIONAL_TEXT,
    "version": _OPTIONAL_TEXT,
    "checked_at": _TEXT,
    "changed_at": _OPTIONAL_TEXT,
    "attempts": (int,),
    "reason": _OPTIONAL_TEXT,
}
"""The fields of every record, in the order in which they are written, and the types that each may have."""
_field_values = itemgetter(*_FIELD_TYPES)
_STATUSES = {status.value: status for status in Status}


@dataclass(slots=True)
class Record:
    """The content of one line of a manifest: the entry of a file, and a mark that only the manifest uses."""

    entry: Entry
    gone: bool = False
    """The change `gone` has been reported for this file, which is still at the destination."""


def encode_header(origin: str) -> bytes:
    """Return the first line of a manifest, without its line end."""
    return orjson.dumps({"flagjob_manifest": _FORMAT_VERSION, "origin": origin})


def decode_origin(line: bytes) -> str | None:
    """Return the origin that a first line names, or None if the line is no header of this format."""
    try:
        header = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(header, dict) or header.get("flagjob_manifest") != _FORMAT_VERSION:
        return None
    origin = header.get("origin")
    return origin if isinstance(origin, str) else None


def encode(record: Record) -> bytes:
    """Return a record as a line, without its line end; the code is the first field."""
    entry = record.entry
    stored = record.entry.stored
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
            **_rare_fields(record),
        }
    )


def _rare_fields(record: Record) -> Fields:
    """Return the fields that few records have."""
    stored = record.entry.stored
    fields: Fields = {}
    if stored and stored.redirected_to:
        fields["redirected_to"] = stored.redirected_to
    if stored and stored.md5:
        fields["md5"] = stored.md5
    if record.gone:
        fields["gone"] = True
    return fields


def parse(line: bytes) -> Fields | None:
    """Return the JSON object of a line that is about a code, or None if it is about none, or is damaged."""
    if not line.startswith(_CODE_PREFIX):
        return None
    try:
        fields: Fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields["code"], str) else None


def file_of(fields: Fields) -> str | None:
    """Return the file that a line is about, or None if it names none."""
    file = fields.get("file")
    return file if isinstance(file, str) else None


def record_of(fields: Fields) -> Record | None:
    """Return the record that a line holds, or None if a field is missing or is of another type."""
    try:
        values = _field_values(fields)
    except KeyError:
        return None
    redirected_to = fields.get("redirected_to")
    md5 = fields.get("md5")
    are_optional_right = isinstance(redirected_to, _OPTIONAL_TEXT) and isinstance(md5, _OPTIONAL_TEXT)
    if not all(map(isinstance, values, _FIELD_TYPES.values())) or not are_optional_right:
        return None
    code, url, file, status, sha256, size, content_type, etag, last_modified, version, *outcome = values
    if status not in _STATUSES:
        return None
    stored = None
    if sha256 is not None and size is not None:
        stored = Stored(file, size, sha256, content_type, etag, last_modified, version, redirected_to, md5)
    entry = Entry(code, url, file, _STATUSES[status], stored, *outcome)
    return Record(entry, gone=fields.get("gone") is True)


def encode_forgotten(code: str, file: str) -> bytes:
    """Return the line that takes back all earlier lines of a file; the code is the one that had the file last."""
    return orjson.dumps({"code": code, "file": file, "forgotten": True})


def is_forgotten(fields: Fields) -> bool:
    """Return whether a line takes back earlier lines."""
    return fields.get("forgotten") is True
