"""What can go wrong, with the reason and the retry class of each failure.

The tree:

    FlagjobError
    ├── UsageError                 bad input, all faults at once: exit 2, nothing attempted
    ├── StorageError               the destination or a local limit failed: the run ends, exit 5
    │   └── PathError              only this one file cannot be put where it belongs
    ├── LogError                   nobody takes the log: the run ends, exit 5
    ├── Stopped                    the run was told to end (signal, deadline): the item is cancelled
    └── AttemptError               one attempt failed
        ├── NetworkError           no usable answer: timeout, connection, dns, tls, proxy, protocol
        ├── HttpError              an answer that is not the file: http_NNN
        │   └── NotFoundError      404 and 410
        ├── RedirectError          redirect_refused, too_many_redirects
        └── ContentError           a body that is not the file: truncated, empty, too_large, ...
"""

from dataclasses import dataclass
from enum import StrEnum

from job.model import Status


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
    INVALID_CODE = "invalid_code"
    STORAGE = "storage"
    ORIGIN_DOWN = "origin_down"
    UNIFORM_REFUSAL = "uniform_refusal"
    DEADLINE = "deadline"
    SIGNAL = "signal"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the input: which setting, the value it had, and what would be right."""

    setting: str
    value: str | None
    problem: str

    def __str__(self) -> str:
        """Give the one clear message."""
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
    """The destination or a local limit (descriptors, threads, memory) failed; no retry over the network heals it."""


class PathError(StorageError):
    """Something is in the way of one file only: a directory of its name, or a file where its directory should be."""


class LogError(FlagjobError):
    """Nobody takes the log any more: its reader is gone, or its disk is full. The run ends, exit 5."""


class Cancelled(FlagjobError):  # noqa: N818  (a request to end, not a failure)
    """The run was told to end while an item was under way."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"stopped: {reason}")
        self.reason = reason


class AttemptError(FlagjobError):
    """One attempt at a URL failed; its attributes say what that means for the item."""

    status = Status.ERROR
    http_status: int | None = None
    """The last answer's status, or None where no answer came."""
    retry_after: float | None = None
    """Seconds that the origin asked us to wait (RFC 9110, 10.2.3), if it did."""
    excused = False
    """No fault of the item: everyone waits for the origin, and then it is tried again."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Whether another attempt, now or in a later run, may fare better."""
        return is_retryable(self.reason)


class NetworkError(AttemptError):
    """No usable answer came back."""


class HttpError(AttemptError):
    """An answer came back, with a status that is not the file."""

    def __init__(self, http_status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"http_{http_status}", message)
        self.http_status = http_status
        self.retry_after = retry_after


class NotFoundError(HttpError):
    """404 or 410: the origin says that there is no such file."""

    status = Status.NOT_FOUND


class RedirectError(AttemptError):
    """A redirect led where it may not, or on and on."""


class ContentError(AttemptError):
    """A body came that is not the whole file that was asked for."""

    http_status = 200


_PASSING = {
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.PROXY,
    Reason.TRUNCATED,
    Reason.EMPTY,
    Reason.BAD_CONTENT,
    Reason.CHECKSUM,
}
_PASSING_HTTP = {408, 425, 429, 500, 502, 503, 504, *range(520, 600)}


def is_retryable(reason: str) -> bool:
    """Tell what passes by waiting from what does not (curl retries much the same list; certificates do not heal)."""
    if reason.startswith("http_"):
        return int(reason.removeprefix("http_")) in _PASSING_HTTP
    return reason in _PASSING


OUTCOMES = ("2xx", "304", "3xx", "4xx", "429", "5xx", "timeout", "connection", "invalid")
"""The classes that attempts are counted by: few, so that they can be labels of a metric."""
_NO_ANSWER = {Reason.CONNECTION, Reason.DNS, Reason.TLS, Reason.PROXY}


def outcome(reason: str | None) -> str:
    """Return the class, one of OUTCOMES, of an attempt that failed with this reason (None: it did not)."""
    if reason is None:
        return "2xx"
    if reason == Reason.TIMEOUT:
        return "timeout"
    if reason in _NO_ANSWER:
        return "connection"
    if reason in {Reason.REDIRECT_REFUSED, Reason.TOO_MANY_REDIRECTS}:
        return "3xx"
    status = reason.removeprefix("http_")
    return next((name for name in (status, f"{status[0]}xx") if name in OUTCOMES and name != "2xx"), "invalid")
