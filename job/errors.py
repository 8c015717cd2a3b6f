"""What can go wrong: the tree of exceptions, the reasons, and the failure of an attempt as a value.

The tree:

    FlagjobError
    ├── UsageError                 bad input, all faults at once: exit 2, nothing attempted
    ├── StorageError               the destination or a local limit failed: the run ends, exit 5
    │   └── PathError              only this one file cannot be put where it belongs
    ├── LogError                   standard output cannot be written: the run ends, exit 5
    ├── Cancelled                  the run was told to end (signal, deadline): the item is cancelled
    ├── Deferred                   the item's origin, one of several, is away or pauses: the item comes again later
    └── AttemptError               one attempt failed, as its Failure says
        ├── NetworkError           no usable answer: timeout, connection, dns, tls, proxy, protocol
        ├── HttpError              an answer that is not the file: http_NNN
        │   └── NotFoundError      204, 404 and 410
        │       └── PlaceholderError   a file that the origin serves for every one that it has not
        ├── RedirectError          redirect_refused, too_many_redirects
        ├── ContentError           a body that is not the file: truncated, empty, too_large, ...
        └── OriginDownError        no attempt any more: the origin, one of several, was given up
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class Reason(StrEnum):
    """The closed list of reasons; an unexpected HTTP status is `http_NNN` instead."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    PROXY = "proxy"
    PROTOCOL = "protocol"
    REDIRECT_REFUSED = "redirect_refused"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNEXPECTED_ENCODING = "unexpected_encoding"
    BAD_CONTENT = "bad_content"
    CHECKSUM = "checksum"
    PLACEHOLDER = "placeholder"
    INVALID_CODE = "invalid_code"
    INVALID_ROW = "invalid_row"
    STORAGE = "storage"
    ORIGIN_DOWN = "origin_down"
    UNIFORM_REFUSAL = "uniform_refusal"
    DEADLINE = "deadline"
    SIGNAL = "signal"
    INTERNAL = "internal"


LOCAL_REASONS = frozenset({Reason.INVALID_CODE, Reason.INVALID_ROW, Reason.STORAGE, Reason.SIGNAL, Reason.INTERNAL})
"""The reasons that are none of the origin's."""
TOO_MANY_CHANGED = "too_many_changed"
"""The cause of a run whose failures are within their budgets, but which changed more files than its budget allows."""


class Outcome(StrEnum):
    """The classes that attempts are counted by: few, so that they can be labels of a metric."""

    OK = "2xx"
    NOT_MODIFIED = "304"
    REDIRECT = "3xx"
    CLIENT_ERROR = "4xx"
    TOO_MANY_REQUESTS = "429"
    SERVER_ERROR = "5xx"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    INVALID = "invalid"


_RETRYABLE_REASONS = {
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.PROXY,
    Reason.TRUNCATED,
    Reason.EMPTY,
    Reason.BAD_CONTENT,
    Reason.CHECKSUM,
}
_RETRYABLE_STATUSES = {202, 408, 420, 421, 423, 425, 429, 499, 500, 502, 503, 504, 507, 509, 511, *range(520, 600)}
"""What passes by waiting: not made yet (202), rate limits under other numbers (420, 509), a connection for another host
(421), a lock (423), a proxy that gave its own request up (499), no room (507), a captive portal (511); certificates do
not heal."""
_OUTCOMES = {
    Reason.TIMEOUT: Outcome.TIMEOUT,
    Reason.CONNECTION: Outcome.CONNECTION,
    Reason.DNS: Outcome.CONNECTION,
    Reason.TLS: Outcome.CONNECTION,
    Reason.PROXY: Outcome.CONNECTION,
    Reason.REDIRECT_REFUSED: Outcome.REDIRECT,
    Reason.TOO_MANY_REDIRECTS: Outcome.REDIRECT,
}
_STATUS_OUTCOMES: dict[int, Outcome] = {
    HTTPStatus.NO_CONTENT: Outcome.OK,
    HTTPStatus.NOT_MODIFIED: Outcome.NOT_MODIFIED,
    HTTPStatus.TOO_MANY_REQUESTS: Outcome.TOO_MANY_REQUESTS,
}
_HUNDREDS_OUTCOMES = {3: Outcome.REDIRECT, 4: Outcome.CLIENT_ERROR, 5: Outcome.SERVER_ERROR}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, as a value. Immutable, so any thread may use it."""

    kind: Reason | None
    """From the closed list; None where the answer's HTTP status is the reason."""
    http_status: int | None = None
    """The status of the last answer; None where no answer came."""
    is_deferred: bool = False
    """It is not the last word, whatever the status is: the answer's Retry-After asked to come back later, or the origin
    refuses what it gave before."""

    @property
    def reason(self) -> str:
        """Return the reason as logs, metrics and the manifest have it: a Reason, or `http_NNN`."""
        return self.kind or f"http_{self.http_status}"

    @property
    def retryable(self) -> bool:
        """Return whether another attempt, now or in a later run, may succeed."""
        if self.is_deferred:
            return True
        return self.http_status in _RETRYABLE_STATUSES if self.kind is None else self.kind in _RETRYABLE_REASONS

    @property
    def outcome(self) -> Outcome:
        """Return the class that an attempt with this failure is counted by."""
        if self.kind is not None:
            return _OUTCOMES.get(self.kind, Outcome.INVALID)
        status = self.http_status or 0
        hundreds = _HUNDREDS_OUTCOMES.get(status // 100, Outcome.INVALID)
        return _STATUS_OUTCOMES.get(status, hundreds)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the input: which setting, the value it had, and what would be right."""

    setting: str
    value: str | None
    problem: str

    def __str__(self) -> str:
        """Return the one clear message."""
        shown = "" if self.value is None else f" {self.value!r}"
        return f"{self.setting}{shown}: {self.problem}"


class FlagjobError(Exception):
    """Base of everything that flagjob raises itself."""


class UsageError(FlagjobError):
    """Settings or arguments that cannot be run with; holds every fault that was found."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


class StorageError(FlagjobError):
    """The destination or a local limit (descriptors, threads, memory) failed; retrying over the network cannot help."""


class PathError(StorageError):
    """One file cannot be stored: its name is refused, its directory is not writable, or a directory has its name."""


class LogError(FlagjobError):
    """Standard output cannot be written: its reader is gone, or its disk is full. The run ends, exit 5."""


class Cancelled(FlagjobError):  # noqa: N818  (a request to end, not a failure)
    """The run was told to end while an item was under way."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"cancelled: {reason}")
        self.reason = reason


class Deferred(FlagjobError):  # noqa: N818  (a request to come again, not a failure)
    """The origin of an item, one of several, is away or pauses: the worker should turn to items of the others."""


class AttemptError(FlagjobError):
    """One attempt at a URL failed; `failure` says what that means for the item."""

    retry_after: float | None = None
    """Seconds that the origin asked to wait (RFC 9110, 10.2.3), if it did."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class NetworkError(AttemptError):
    """No usable answer came back."""

    is_unconnected = False
    """The time for a connection was over before there was one."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(Failure(reason), message)


class HttpError(AttemptError):
    """An answer came back, with a status that is not the file."""

    def __init__(self, http_status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(Failure(None, http_status, is_deferred=bool(retry_after)), message)
        self.retry_after = retry_after


class NotFoundError(HttpError):
    """204, 404 or 410: the origin says that there is no such file."""


class PlaceholderError(NotFoundError):
    """A body came that the user knows for the origin's way to say that there is no such file."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.OK, "the body is a placeholder for files that do not exist (FLAGJOB_PLACEHOLDERS)")
        self.failure = Failure(Reason.PLACEHOLDER, HTTPStatus.OK)


class RedirectError(AttemptError):
    """A redirect led where it may not, or on and on; whoever knows the redirect's status adds it to the failure."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(Failure(reason), message)


class ContentError(AttemptError):
    """A body came that is not the whole file that was asked for."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(Failure(reason, 200), message)


class OriginDownError(AttemptError):
    """One of several origins was given up, so that the attempt is not made; a later run may find it back."""

    def __init__(self, message: str) -> None:
        super().__init__(Failure(Reason.ORIGIN_DOWN, is_deferred=True), message)


@contextmanager
def map_exceptions(translators: Mapping[type[E], Callable[[Any], Exception | None]]) -> Iterator[None]:
    """Raise, in place of a foreign exception, the one of ours that its translator returns.

    The first class in the mapping that matches decides; a translator that returns None lets the exception pass. Every
    module that calls a foreign library translates its exceptions with this, at the call, so that no other module
    has to know them (the shape is httpcore's).
    """
    try:
        yield
    except tuple(translators) as error:
        translate = next(translator for kind, translator in translators.items() if isinstance(error, kind))
        ours = translate(error)
        if ours is None:
            raise
        raise ours from ours.__cause__ or error  # a translator that had to look further keeps what it found
