"""The error tree: the reason, status, retryability and outcome of each failure."""

import pytest

from job import errors
from job.errors import Failure, Fault, Outcome, Reason, UsageError, map_exceptions

STATUSES = range(100, 1000)

EXPECTED_FAILURES = {
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
    Reason.PLACEHOLDER: (False, "invalid"),
    Reason.INVALID_CODE: (False, "invalid"),
    Reason.INVALID_ROW: (False, "invalid"),
    Reason.STORAGE: (False, "invalid"),
    Reason.DEADLINE: (False, "invalid"),
    Reason.SIGNAL: (False, "invalid"),
    Reason.ORIGIN_DOWN: (False, "invalid"),
    Reason.UNIFORM_REFUSAL: (False, "invalid"),
    Reason.INTERNAL: (False, "invalid"),
}
"""Whether a failure with the reason is retryable, and the outcome that its attempt is counted by."""

TREE = {
    "FlagjobError": "Exception",
    "UsageError": "FlagjobError",
    "StorageError": "FlagjobError",
    "PathError": "StorageError",
    "LogError": "FlagjobError",
    "Cancelled": "FlagjobError",
    "Deferred": "FlagjobError",
    "AttemptError": "FlagjobError",
    "NetworkError": "AttemptError",
    "HttpError": "AttemptError",
    "NotFoundError": "HttpError",
    "PlaceholderError": "NotFoundError",
    "RedirectError": "AttemptError",
    "ContentError": "AttemptError",
    "OriginDownError": "AttemptError",
}


def test_the_tree_matches_its_drawing() -> None:
    """The exception classes form the tree that the module's docstring draws."""
    classes = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {name: kind.__base__ and kind.__base__.__name__ for name, kind in classes.items()} == TREE
    assert [name for name in TREE if name not in (errors.__doc__ or "")] == []


def test_the_list_of_reasons_is_closed() -> None:
    """The reasons are exactly those listed here, because operators build on them."""
    assert {reason.name.lower(): str(reason) for reason in Reason} == {
        str(reason): str(reason) for reason in EXPECTED_FAILURES
    }


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_retryability_and_outcome(reason: Reason) -> None:
    """Each reason is retryable or not, and has its outcome in the metrics."""
    assert (Failure(reason).retryable, Failure(reason).outcome) == EXPECTED_FAILURES[reason]


def test_retryable_statuses() -> None:
    """Only the statuses of a busy or broken origin are retryable."""
    expected = [202, 408, 420, 421, 423, 425, 429, 499, 500, 502, 503, 504, 507, 509, 511, *range(520, 600)]
    assert [status for status in STATUSES if Failure(None, status).retryable] == expected


def test_each_status_has_its_outcome() -> None:
    """Each status has one of few outcomes; a 2xx that is no file is invalid, but 204 is an answer like any other."""
    classes = {204: "2xx", 304: "304", 429: "429"}
    hundreds = {3: "3xx", 4: "4xx", 5: "5xx"}
    expected = {status: classes.get(status) or hundreds.get(status // 100, "invalid") for status in STATUSES}
    assert {status: Failure(None, status).outcome for status in STATUSES} == expected


def test_every_outcome_can_occur() -> None:
    """The outcomes are exactly those that attempts can have."""
    failures = [*map(Failure, Reason), *(Failure(None, status) for status in STATUSES)]
    assert {failure.outcome for failure in failures} == set(Outcome)
    assert len(Outcome) == 9


def test_an_http_error_has_its_status() -> None:
    """An HttpError has its status, a reason made of it, and the Retry-After in seconds."""
    error = errors.HttpError(503, "HTTP error 503 - Busy", 7.0)
    assert (error.failure.reason, error.failure.http_status, error.retry_after) == ("http_503", 503, 7.0)
    assert (error.failure.retryable, str(error)) == (True, "HTTP error 503 - Busy")


def test_a_not_found_error_is_permanent() -> None:
    """A NotFoundError has its status and is not retryable."""
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
def test_an_attempt_error_has_its_failure(
    error: errors.AttemptError,
    http_status: int | None,
    retryable: bool,  # noqa: FBT001  (a parameter of a table)
) -> None:
    """Each class of AttemptError has the HTTP status of its answer, and is retryable by its reason."""
    assert (error.failure.http_status, error.failure.retryable) == (http_status, retryable)
    assert error.retry_after is None


def test_a_cancellation_has_its_reason() -> None:
    """A Cancelled error has the reason of the cancellation."""
    error = errors.Cancelled(Reason.DEADLINE)
    assert (error.reason, str(error)) == (Reason.DEADLINE, "cancelled: deadline")


def test_a_fault_is_one_message() -> None:
    """A Fault names the setting, its value if it may be shown, and the problem."""
    assert str(Fault("--workers", "many", "must be a number")) == "--workers 'many': must be a number"
    assert str(Fault("FLAGJOB_URL", None, "must be a URL")) == "FLAGJOB_URL: must be a URL"
    assert str(Fault("codes", "a\nb", "is odd")) == r"codes 'a\nb': is odd"


def test_a_usage_error_has_every_fault() -> None:
    """A UsageError has all faults, in order, and its message names each."""
    faults = (Fault("a", "1", "is wrong"), Fault("b", None, "is missing"))
    error = UsageError(*faults)
    assert error.faults == faults
    assert str(error) == "a '1': is wrong; b: is missing"


def test_a_foreign_exception_becomes_the_first_match() -> None:
    """The first class in the mapping that matches decides, and the foreign exception is the cause."""
    mapping = {
        FileNotFoundError: lambda _: errors.PathError("gone"),
        OSError: lambda _: errors.StorageError("disk"),
    }
    for foreign, ours in ((FileNotFoundError(), errors.PathError), (PermissionError(), errors.StorageError)):
        with pytest.raises(errors.StorageError) as caught, map_exceptions(mapping):
            raise foreign
        assert (type(caught.value), caught.value.__cause__) == (ours, foreign)


def test_a_translator_may_let_an_exception_pass() -> None:
    """An exception passes unchanged if its translator returns None, or if no class matches."""
    for foreign in (OSError("pass"), ValueError("pass")):
        with pytest.raises((OSError, ValueError)) as caught, map_exceptions({OSError: lambda _: None}):
            raise foreign
        assert caught.value is foreign
