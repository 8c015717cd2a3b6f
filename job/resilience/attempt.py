"""One attempt: the innermost wrappers, which validate the answer and measure the time and outcome of each attempt."""

from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from time import monotonic

from job import validation
from job.client import Client, wait_seconds
from job.errors import AttemptError, ContentError, FlagjobError, Outcome
from job.model import FileType, NotModified, Reply
from job.resilience.types import ItemRequest, Source


class Validated:
    """Wraps the client: an answer is only one if its body is the file that was asked for.

    `expected_digests` are sha256 in hex, by the file's path below the destination; `placeholders` are those of bodies
    that stand for no file. Thread-safe.
    """

    def __init__(
        self,
        client: Client,
        accepted: tuple[FileType, ...],
        expected_digests: Mapping[str, str],
        placeholders: Collection[str] = (),
    ) -> None:
        self._client = client
        self._accepted = accepted
        self._expected_digests = expected_digests
        self._placeholders = placeholders

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return the answer, with the media type of its body; raise ContentError or PlaceholderError for any other."""
        reply = self._client.get(request.item.url, request.validators)
        if isinstance(reply, NotModified):
            return reply
        request.received_bytes = reply.received_bytes
        try:
            digest = self._expected_digests.get(request.item.file)
            reply.media_type = validation.validate(reply, self._accepted, digest, self._placeholders)
        except ContentError as error:
            error.retry_after = wait_seconds(reply.retry_after)
            reply.body.close()
            raise
        except BaseException:
            reply.body.close()
            raise
        return reply


class Measured:
    """Wraps `get`: counts each attempt, and reports its outcome and its time, which ends with the answer's last byte.

    `on_attempt` takes the outcome, seconds and the size of the body in bytes. It is called in worker threads and must
    not raise. Attempts that this machine broke off, by a full disk or a lack of sockets, are not reported: they are not
    the origin's. Attempts that the end of the run broke off are, as `connection`.
    Thread-safe.
    """

    def __init__(self, source: Source, on_attempt: Callable[[Outcome, float, int], None]) -> None:
        self._source = source
        self._on_attempt = on_attempt

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns."""
        request.attempts += 1
        request.received_bytes = 0
        began = monotonic()
        try:
            reply = self._source.get(request)
        except AttemptError as error:
            request.record_status(error.failure.http_status)
            self._on_attempt(error.failure.outcome, monotonic() - began, request.received_bytes)
            raise
        except FlagjobError:
            raise
        except Exception:  # a bug: it must not hide among the attempts that succeeded
            self._on_attempt(Outcome.INVALID, monotonic() - began, request.received_bytes)
            raise
        if isinstance(reply, NotModified):
            request.record_status(HTTPStatus.NOT_MODIFIED)
            self._on_attempt(Outcome.NOT_MODIFIED, monotonic() - began, 0)
        else:
            request.record_status(HTTPStatus.OK)
            self._on_attempt(Outcome.OK, monotonic() - began, request.received_bytes)
        return reply
