"""What each failure means: its status, whether it passes, and what it is counted as."""

import pytest

from job import errors
from job.errors import Failure, Fault, Outcome, Reason, UsageError, map_exceptions

STATUSES = range(100, 1000)

MEANING = {
    Reason.TIMEOUT: (True, "timeout"),
    Reason.CONNECTION: (True, "connection"),
    Reason.DNS: (True, "connection"),
    Reason.TLS: (False, "connection"),
    Reason.PROXY: (True, "connection"),
    Reason.PROTOCOL: (False, "invalid"),
    Reason.REDIRECT_REFUSED: (False, "3xx"),
    Reason.TOO_MANY_REDIRECTS: (False, "3xx"),
    Reason.TRUNCATED: (True, "invalid"),
    Reason.EMPTY: (True, "invalid"),
    Reason.TOO_LARGE: (False, "invalid"),
    Reason.UNEXPECTED_ENCODING: (False, "invalid"),
    Reason.BAD_CONTENT: (True, "invalid"),
    Reason.CHECKSUM: (True, "invalid"),
    Reason.INVALID_CODE: (False, "invalid"),
    Reason.STORAGE: (False, "invalid"),
    Reason.DEADLINE: (False, "invalid"),
    Reason.SIGNAL: (False, "invalid"),
    Reason.ORIGIN_DOWN: (False, "invalid"),
    Reason.UNIFORM_REFUSAL: (False, "invalid"),
    Reason.INTERNAL: (False, "invalid"),
}
"""Whether a reason may pass by waiting, and what its attempts are counted as."""

TREE = {
    "FlagjobError": "Exception",
    "UsageError": "FlagjobError",
    "StorageError": "FlagjobError",
    "PathError": "StorageError",
    "LogError": "FlagjobError",
    "Cancelled": "FlagjobError",
    "AttemptError": "FlagjobError",
    "NetworkError": "AttemptError",
    "HttpError": "AttemptError",
    "NotFoundError": "HttpError",
    "RedirectError": "AttemptError",
    "ContentError": "AttemptError",
}


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """Whoever catches a class catches what the drawing at the top of the module says, and the drawing is whole."""
    classes = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {name: kind.__base__ and kind.__base__.__name__ for name, kind in classes.items()} == TREE
    assert [name for name in TREE if name not in (errors.__doc__ or "")] == []


def test_the_list_of_reasons_is_closed() -> None:
    """Operators build on these words: one more, or another name, is a decision."""
    assert {reason.name.lower(): str(reason) for reason in Reason} == {str(reason): str(reason) for reason in MEANING}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_meaning(reason: Reason) -> None:
    """What passes by waiting is tried again, what does not is not, and each has its class in the metrics."""
    assert (Failure(reason).retryable, Failure(reason).outcome) == MEANING[reason]


def test_the_statuses_that_are_tried_again() -> None:
    """A busy or broken origin is asked again; a refusal is an answer."""
    expected = [408, 425, 429, 500, 502, 503, 504, *range(520, 600)]
    assert [status for status in STATUSES if Failure(None, status).retryable] == expected


def test_each_status_has_its_outcome() -> None:
    """Every status that a server can send falls into one of few classes; a 2xx that is no file is invalid."""
    classes = {304: "304", 429: "429"}
    hundreds = {3: "3xx", 4: "4xx", 5: "5xx"}
    expected = {status: classes.get(status) or hundreds.get(status // 100, "invalid") for status in STATUSES}
    assert {status: Failure(None, status).outcome for status in STATUSES} == expected


def test_every_outcome_is_on_the_list() -> None:
    """The labels of the metric are all there before the first attempt, and all of them can occur."""
    failures = [*map(Failure, Reason), *(Failure(None, status) for status in STATUSES)]
    assert {failure.outcome for failure in failures} == set(Outcome) - {Outcome.OK}
    assert len(Outcome) == 9


def test_an_http_error_knows_its_status() -> None:
    """An unexpected status is its own reason, and keeps what the origin asked for."""
    error = errors.HttpError(503, "HTTP error 503 - Busy", 7.0)
    assert (error.failure.reason, error.failure.http_status, error.retry_after) == ("http_503", 503, 7.0)
    assert (error.failure.retryable, str(error)) == (True, "HTTP error 503 - Busy")


def test_what_is_not_there_is_not_an_error() -> None:
    """404 and 410 are an answer of their own, and final."""
    error = errors.NotFoundError(410, "HTTP error 410 - Gone")
    assert (error.failure.reason, error.failure.http_status, error.retry_after) == (
        "http_410",
        410,
        None,
    )
    assert not error.failure.retryable


@pytest.mark.parametrize(
    ("error", "http_status", "retryable"),
    [
        (errors.NetworkError(Reason.TIMEOUT, "silence"), None, True),
        (errors.NetworkError(Reason.TLS, "expired"), None, False),
        (errors.RedirectError(Reason.REDIRECT_REFUSED, "elsewhere"), None, False),
        (errors.ContentError(Reason.EMPTY, "nothing"), 200, True),
        (errors.ContentError(Reason.TOO_LARGE, "too much"), 200, False),
    ],
)
def test_an_attempt_error_says_what_it_means(
    error: errors.AttemptError,
    http_status: int | None,
    retryable: bool,  # noqa: FBT001  (a parameter of a table)
) -> None:
    """Each kind knows whether an answer came, and whether another attempt may fare better."""
    assert (error.failure.http_status, error.failure.retryable) == (http_status, retryable)
    assert error.retry_after is None


def test_a_stop_says_why() -> None:
    """An item that was broken off can tell what for."""
    error = errors.Cancelled(Reason.DEADLINE)
    assert (error.reason, str(error)) == (Reason.DEADLINE, "cancelled: deadline")


def test_a_fault_is_one_clear_message() -> None:
    """Which setting, what it was, and what would be right; a value that is secret or missing is left out."""
    assert str(Fault("--workers", "many", "must be a number")) == "--workers 'many': must be a number"
    assert str(Fault("FLAGJOB_URL", None, "must be a URL")) == "FLAGJOB_URL: must be a URL"
    assert str(Fault("codes", "a\nb", "is odd")) == r"codes 'a\nb': is odd"


def test_a_usage_error_holds_every_fault() -> None:
    """Whoever fixes the first fault has read of the second."""
    faults = (Fault("a", "1", "is wrong"), Fault("b", None, "is missing"))
    error = UsageError(*faults)
    assert error.faults == faults
    assert str(error) == "a '1': is wrong; b: is missing"


def test_a_foreign_exception_becomes_the_first_match() -> None:
    """The first class in the mapping that matches decides, and the foreign exception is the cause."""
    translators = {
        FileNotFoundError: lambda _: errors.PathError("gone"),
        OSError: lambda _: errors.StorageError("disk"),
    }
    for foreign, ours in ((FileNotFoundError(), errors.PathError), (PermissionError(), errors.StorageError)):
        with pytest.raises(errors.StorageError) as caught, map_exceptions(translators):
            raise foreign
        assert (type(caught.value), caught.value.__cause__) == (ours, foreign)


def test_a_translator_may_let_an_exception_pass() -> None:
    """What has no counterpart comes out as it is, and so does what no class in the mapping matches."""
    for foreign in (OSError("pass"), ValueError("pass")):
        with pytest.raises((OSError, ValueError)) as caught, map_exceptions({OSError: lambda _: None}):
            raise foreign
        assert caught.value is foreign
