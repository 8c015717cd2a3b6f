"""What the exceptions of requests mean for an item: foreign errors become ours here."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import requests

from job.errors import AttemptError, ContentError, NetworkError, Reason, StorageError
from job.transport import SHORTAGES, NameResolutionError, TooLargeError

_REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (NameResolutionError, Reason.DNS),
    (TooLargeError, Reason.TOO_LARGE),
    (requests.exceptions.ProxyError, Reason.PROXY),
    (requests.exceptions.SSLError, Reason.TLS),
    (requests.exceptions.Timeout, Reason.TIMEOUT),
    (requests.exceptions.ChunkedEncodingError, Reason.TRUNCATED),
    (requests.exceptions.ContentDecodingError, Reason.UNEXPECTED_ENCODING),
    (requests.exceptions.ConnectionError, Reason.CONNECTION),
    (requests.exceptions.RequestException, Reason.PROTOCOL),
)
"""What each of requests' exceptions means; the first that fits."""
_OF_CONTENT = {Reason.TOO_LARGE, Reason.TRUNCATED, Reason.UNEXPECTED_ENCODING}
_BY_CAUSE = {"ReadTimeoutError": Reason.TIMEOUT, "NameResolutionError": Reason.DNS}
"""urllib3's causes that requests reports as a plain ConnectionError (psf/requests#4882), by the name of their class."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk down what an exception says it was caused by; requests hides it in `args` and `reason`."""
    found: BaseException | None = error
    while isinstance(found, BaseException):
        yield found
        inner = (*found.args, getattr(found, "reason", None), found.__cause__, found.__context__)
        found = next((cause for cause in inner if isinstance(cause, BaseException)), None)


def translated(error: OSError) -> AttemptError | StorageError:
    """Give an exception of requests the meaning that it has for an item, by its cause rather than by its class."""
    ours = next((cause for cause in _causes(error) if getattr(cause, "errno", None) in SHORTAGES), None)
    if ours or not isinstance(error, requests.RequestException):
        return StorageError(f"no connection could be opened on this machine: {ours or error}")
    reason = _reason_of(error)
    if reason is Reason.TOO_LARGE:
        return ContentError(reason, str(error))
    kind = ContentError if reason in _OF_CONTENT else NetworkError
    return kind(reason, f"{type(error).__name__}: {error}{_where(error)}")


def _where(error: requests.RequestException) -> str:
    """Name the host, unless the message does: it need not be the template's, and a certificate is one host's."""
    there = urlsplit((error.request and error.request.url) or "")
    return "" if not there.hostname or there.hostname in str(error) else f" ({there.hostname})"


def _reason_of(error: requests.RequestException) -> Reason:
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    if reason is not Reason.CONNECTION:
        return reason
    return next((found for cause in _causes(error) if (found := _BY_CAUSE.get(type(cause).__name__))), reason)
