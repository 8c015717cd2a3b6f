"""What a bucket's client or server says, as one clear message with the object that it is about."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError

from job.errors import PathError, StorageError

_ONE_OBJECT_ONLY = (InvalidPathError, AlreadyExistsError, PreconditionError, ValueError)
"""Errors that concern one object (ValueError: its key); any other means that the bucket as a whole cannot be used."""
_ONE_OBJECT_CODES = {"KeyTooLong", "KeyTooLongError", "EntityTooLarge", "InvalidResourceName", "RequestBodyTooLarge"}
"""The same, by the codes in the answers of S3, Google Cloud Storage and Azure Blob Storage."""
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_INNER = [
    (re.compile(r"kind: Timeout"), "no answer in time"),
    (re.compile(r'message: "([^"]+)"'), r"\1"),
    (re.compile(r'error: "(failed to lookup [^"]+)"'), r"\1"),
    (re.compile(r"InvalidCertificate\(\s*(\w+)"), r"certificate refused: \1"),
    (re.compile(r"IncompleteMessage|kind: Body"), "the connection broke"),
]
"""What the client's own account of a request shows when no answer came, and what it means."""
_PREAMBLE = re.compile(r"^Generic \S+ error: |Error performing .*? - ")
_HIDDEN = re.compile(r'(?<=[?"])[^\s"]+')
"""Queries of URLs can carry signatures, and parts of a broken key file are quoted."""


@contextmanager
def told(what: str, act: str) -> Iterator[None]:
    """Turn what the client says into one clear message: `what` could not be `act` (past participle), and the cause.

    Raises PathError where that concerns one object only, else StorageError.
    """
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, (BaseError, OSError, ValueError)) or type(error).__name__ == "PanicException"):
            raise  # not of the client: an interrupt, a bug of ours
        code = _CODE.search(str(error))
        one_only = isinstance(error, _ONE_OBJECT_ONLY) or (code is not None and code[1] in _ONE_OBJECT_CODES)
        raise (PathError if one_only else StorageError)(f"{what}: cannot be {act}: {cause(str(error))}") from error


def cause(text: str) -> str:
    """Return the one thing to know in the client's account of a failure, without anything secret."""
    said, _, inner = text.partition("\n\nDebug source:")
    if status := _STATUS.search(said):
        code = _CODE.search(said)
        return status[1].strip() + (f" ({code[1]})" if code else "")
    for pattern, words in _INNER:
        if found := pattern.search(inner):
            return found.expand(words)
    first = said.split("\n", 1)[0]
    return _HIDDEN.sub("...", _PREAMBLE.sub("", first))[:300]
