"""The exit code of a run: each rule, and the order of the rules."""

import signal
from collections.abc import Iterable
from dataclasses import replace

import pytest

from job.cancellation import Cancellation
from job.errors import Reason
from job.exit_code import ExitCode, RepeatedFailureCutoff, Totals, exit_code, is_over_budget, outcome_name
from job.model import Budget, Result, Status

NOTHING = Budget()
ONE = Budget(1)
FIVE_PERCENT = Budget(0.05, is_share=True)
EVERYTHING = Budget(1.0, is_share=True)

OK = Result(Status.OK, None, "CN", answered=True, http_status=200, attempts=1)
UNCHANGED = Result(Status.UNCHANGED, None, "CN", answered=True, http_status=304, attempts=1)
MISSING = Result(Status.NOT_FOUND, None, "CN", reason="http_404", answered=True, http_status=404, attempts=1)
GUESSED = Result(
    Status.NOT_FOUND, None, "CN", reason="http_404", answered=True, http_status=404, attempts=1, speculative=True
)
BUSY = Result(Status.ERROR, None, "CN", reason="http_503", retryable=True, answered=True, http_status=503, attempts=4)
FORBIDDEN = Result(Status.ERROR, None, "CN", reason="http_403", answered=True, http_status=403, attempts=1)
REFUSED = Result(Status.ERROR, None, "CN", reason=Reason.CONNECTION, retryable=True, attempts=4)
BAD_CERTIFICATE = Result(Status.ERROR, None, "CN", reason=Reason.TLS, attempts=1)
TOO_LARGE = Result(Status.ERROR, None, "CN", reason=Reason.TOO_LARGE, answered=True, http_status=200, attempts=1)
PAGE = Result(
    Status.ERROR, None, "CN", reason=Reason.BAD_CONTENT, retryable=True, answered=True, http_status=200, attempts=4
)
STALLED = replace(PAGE, reason=Reason.TIMEOUT)
THROTTLED = replace(BUSY, reason="http_429", http_status=429)
INVALID = Result(Status.ERROR, None, "C%", reason=Reason.INVALID_CODE)
BUG = Result(Status.ERROR, None, "CN", reason=Reason.INTERNAL, answered=True, http_status=200, attempts=1)
EARLY_BUG = Result(Status.ERROR, None, "CN", reason=Reason.INTERNAL, attempts=1)
FULL_DISK = Result(Status.ERROR, None, "CN", reason=Reason.STORAGE, answered=True, http_status=200, attempts=1)
KNOWN = Result(Status.UNCHANGED, None, "CN")
BELIEVED_MISSING = Result(Status.NOT_FOUND, None, "CN", reason="http_404")
NOT_BEGUN = Result(Status.CANCELLED, None, "CN", reason=Reason.DEADLINE)
BROKEN_OFF = Result(Status.CANCELLED, None, "CN", reason=Reason.DEADLINE, attempts=1)


def totals(results: Iterable[Result]) -> Totals:
    counted = Totals()
    for result in results:
        counted.add(result)
    return counted


def code_of(
    results: Iterable[Result],
    cause: tuple[Reason, int | None] | None = None,
    *,
    errors: Budget = NOTHING,
    not_found: Budget = NOTHING,
) -> int:
    cancellation = Cancellation()
    counted = totals(results)
    if cause:
        cancellation.request(*cause)
        counted.uniform_failure = FORBIDDEN if cause == UNIFORM else None
    return exit_code(counted, cancellation, errors=errors, not_found=not_found)


SIGTERM = (Reason.SIGNAL, signal.SIGTERM)
SIGINT = (Reason.SIGNAL, signal.SIGINT)
STORAGE = (Reason.STORAGE, None)
DEADLINE = (Reason.DEADLINE, None)
DOWN = (Reason.ORIGIN_DOWN, None)
UNIFORM = (Reason.UNIFORM_REFUSAL, None)


@pytest.mark.parametrize(
    ("results", "cause", "code"),
    [
        ([OK, UNCHANGED], None, 0),
        ([OK, GUESSED, GUESSED], None, 0),
        ([], None, 0),
        # each rule alone
        ([OK, NOT_BEGUN], DOWN, 6),
        ([FORBIDDEN, NOT_BEGUN], UNIFORM, 4),
        ([FORBIDDEN, BUG, NOT_BEGUN], UNIFORM, 1),
        ([FORBIDDEN, BUSY, NOT_BEGUN], UNIFORM, 4),
        ([OK, NOT_BEGUN], SIGINT, 130),
        ([OK, NOT_BEGUN], SIGTERM, 143),
        ([OK, FULL_DISK, NOT_BEGUN], STORAGE, 5),
        ([REFUSED, REFUSED], None, 6),
        ([BAD_CERTIFICATE], None, 6),
        ([OK, NOT_BEGUN], DEADLINE, 7),
        ([NOT_BEGUN, NOT_BEGUN], DEADLINE, 7),
        ([OK, BUG], None, 1),
        ([OK, BUSY], None, 3),
        ([OK, REFUSED], None, 3),
        ([OK, FORBIDDEN], None, 4),
        ([OK, MISSING], None, 4),
        ([OK, INVALID], None, 4),
        ([OK, FULL_DISK], None, 4),
        ([INVALID, INVALID], None, 4),
        # which comes first
        ([OK, BUG, FULL_DISK, BUSY, MISSING], SIGTERM, 143),
        ([REFUSED, EARLY_BUG, NOT_BEGUN], SIGINT, 130),
        ([OK], SIGTERM, 143),
        ([REFUSED], STORAGE, 5),
        ([OK, BUG, BUSY, MISSING, FULL_DISK], STORAGE, 5),
        ([REFUSED, BROKEN_OFF], DEADLINE, 6),
        ([REFUSED, INVALID, NOT_BEGUN], None, 6),
        ([REFUSED, EARLY_BUG], None, 1),
        ([OK, BUG, BUSY, MISSING], DEADLINE, 7),
        ([OK, BUG, BUSY, FORBIDDEN, MISSING], None, 1),
        ([OK, BUSY, FORBIDDEN, MISSING], None, 3),
        ([OK, FORBIDDEN, MISSING], None, 4),
    ],
)
def test_the_first_matching_rule_is_the_exit_code(
    results: list[Result], cause: tuple[Reason, int | None] | None, code: int
) -> None:
    """The order is signal, storage, origin, deadline, bug, retryable errors, permanent errors; else the code is 0."""
    assert code_of(results, cause) == code


@pytest.mark.parametrize(
    ("results", "errors", "not_found", "code"),
    [
        ([OK, BUSY], ONE, NOTHING, 0),
        ([OK, BUSY, FORBIDDEN], ONE, NOTHING, 3),
        ([OK, FORBIDDEN, FORBIDDEN], ONE, NOTHING, 4),
        ([OK, MISSING], NOTHING, ONE, 0),
        ([OK, MISSING, MISSING], NOTHING, ONE, 4),
        ([OK, BUSY, MISSING], ONE, ONE, 0),
        ([OK, BUSY, MISSING, MISSING], ONE, ONE, 4),
        ([OK, BUSY, MISSING], NOTHING, ONE, 3),
        ([OK, BUSY, MISSING], ONE, NOTHING, 4),
        ([MISSING] * 3, NOTHING, EVERYTHING, 0),
        ([BUSY] * 3, EVERYTHING, NOTHING, 0),
        ([REFUSED] * 3, EVERYTHING, EVERYTHING, 6),
        ([OK, BUG], EVERYTHING, EVERYTHING, 1),
        ([*[OK] * 19, BUSY], FIVE_PERCENT, NOTHING, 0),
        ([*[OK] * 18, BUSY], FIVE_PERCENT, NOTHING, 3),
        ([*[OK] * 18, BUSY, BUSY], FIVE_PERCENT, NOTHING, 3),
        ([*[OK] * 19, MISSING], NOTHING, FIVE_PERCENT, 0),
        ([*[OK] * 18, MISSING], NOTHING, FIVE_PERCENT, 4),
        ([*[OK] * 38, MISSING, MISSING], NOTHING, FIVE_PERCENT, 0),
        ([*[OK] * 71, *[MISSING] * 29], NOTHING, Budget(0.29, is_share=True), 0),
        ([*[OK] * 70, *[MISSING] * 30], NOTHING, Budget(0.29, is_share=True), 4),
        ([OK, *[GUESSED] * 675], NOTHING, NOTHING, 0),
        ([OK, *[GUESSED] * 674, MISSING], NOTHING, NOTHING, 4),
        ([OK, *[GUESSED] * 18, MISSING], NOTHING, FIVE_PERCENT, 0),
    ],
)
def test_failures_within_their_budgets_cost_nothing(
    results: list[Result], errors: Budget, not_found: Budget, code: int
) -> None:
    """Errors and missing files have a budget each, a number or a percentage; expected missing files are free."""
    assert code_of(results, errors=errors, not_found=not_found) == code


@pytest.mark.parametrize(
    ("cause", "code"),
    [(Reason.UNIFORM_REFUSAL, 5), (Reason.DEADLINE, 5), (Reason.ORIGIN_DOWN, 5), (Reason.SIGNAL, 143)],
)
def test_a_storage_failure_at_the_end_counts(cause: Reason, code: int) -> None:
    """A storage failure outranks every earlier cause but a signal: downloaded files may be missing."""
    cancellation = Cancellation()
    cancellation.request(cause, 15 if cause is Reason.SIGNAL else None)
    cancellation.request(Reason.STORAGE)
    assert exit_code(Totals(), cancellation, errors=NOTHING, not_found=NOTHING) == code


def test_totals_count_each_result() -> None:
    """Each result counts under its status, and in every total that the exit code depends on."""
    counted = totals(
        [OK, OK, UNCHANGED, MISSING, GUESSED, BUSY, REFUSED, FORBIDDEN, INVALID, BUG, NOT_BEGUN, BROKEN_OFF]
    )
    assert counted.counts == {
        Status.OK: 2,
        Status.UNCHANGED: 1,
        Status.NOT_FOUND: 2,
        Status.ERROR: 5,
        Status.CANCELLED: 2,
    }
    assert (counted.items, counted.attempted, counted.answered) == (12, 10, 8)
    assert (counted.expected_missing, counted.retryable, counted.internal, counted.retries) == (1, 2, 1, 6)


def test_nothing_is_counted_before_the_first_result() -> None:
    """New totals have every status with 0, and share nothing with other totals."""
    totals([OK])
    assert Totals().counts == dict.fromkeys(Status, 0)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "ok"),
        (1, "bug"),
        (2, "usage"),
        (3, "retryable"),
        (4, "permanent"),
        (5, "storage"),
        (6, "origin_down"),
        (7, "deadline"),
        (130, "sigint"),
        (143, "sigterm"),
        (129, "sighup"),
        (138, "signal_10"),
    ],
)
def test_each_exit_code_has_a_name(code: int, name: str) -> None:
    """Logs name every exit code, also that of an unexpected signal."""
    assert outcome_name(code) == name


def test_exit_codes_keep_their_numbers() -> None:
    """A podFailurePolicy relies on these numbers."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "BUG": 1,
        "USAGE": 2,
        "RETRYABLE": 3,
        "PERMANENT": 4,
        "STORAGE": 5,
        "ORIGIN_DOWN": 6,
        "DEADLINE": 7,
        "SIGHUP": 129,
        "SIGINT": 130,
        "SIGTERM": 143,
    }


def cutoffs(*results: Result) -> list[str | None]:
    """Return the reason that a cutoff with the threshold 3 reports for each result."""
    cutoff = RepeatedFailureCutoff(3)
    failures = [cutoff.add(result) for result in results]
    return [failure.reason if failure else None for failure in failures]


@pytest.mark.parametrize(
    "result", [FORBIDDEN, MISSING, TOO_LARGE, PAGE, replace(PAGE, reason="http_408", http_status=408)]
)
def test_the_same_failure_is_reported_from_the_threshold_on(result: Result) -> None:
    """The reason is returned for the third failure of one kind, and for every further one."""
    assert cutoffs(*[result] * 4) == [None, None, result.reason, result.reason]


@pytest.mark.parametrize("other", [OK, UNCHANGED, MISSING, BUSY, REFUSED, BAD_CERTIFICATE, BUG, FULL_DISK, BROKEN_OFF])
def test_any_other_result_disables_the_cutoff(other: Result) -> None:
    """One result of another kind proves that the origin does not refuse everything, now or later."""
    assert cutoffs(FORBIDDEN, other, *[FORBIDDEN] * 9) == [None] * 11
    assert cutoffs(*[FORBIDDEN] * 3, other, *[FORBIDDEN] * 9)[3:] == [None] * 10


def test_invalid_codes_do_not_count() -> None:
    """Invalid codes in the list say nothing about the origin."""
    assert cutoffs(INVALID, FORBIDDEN, INVALID, FORBIDDEN, INVALID, FORBIDDEN) == [None] * 5 + ["http_403"]


@pytest.mark.parametrize("nothing", [GUESSED, NOT_BEGUN, KNOWN, BELIEVED_MISSING])
def test_unrequested_and_expected_results_do_not_count(nothing: Result) -> None:
    """Items without a request, and missing items that were only generated, do not disable the cutoff."""
    assert cutoffs(nothing, *[FORBIDDEN, nothing] * 3) == [None] * 5 + ["http_403", None]


def test_a_generated_code_that_is_forbidden_counts() -> None:
    """A 404 for ZZ is expected, a 403 is not."""
    assert cutoffs(*[replace(FORBIDDEN, speculative=True)] * 3)[-1] == "http_403"


def test_404_and_410_are_the_same_failure() -> None:
    """An origin that answers some items with 404 and others with 410 refuses everything."""
    gone = replace(MISSING, reason="http_410", http_status=410)
    assert cutoffs(MISSING, gone, gone, MISSING) == [None, None, "http_404", "http_404"]
    assert cutoffs(MISSING, gone, FORBIDDEN, MISSING) == [None] * 4


@pytest.mark.parametrize(
    ("items", "errors", "not_found", "is_over"),
    [
        (10, NOTHING, EVERYTHING, True),
        (10, ONE, ONE, False),
        (10, EVERYTHING, NOTHING, True),
        (39, FIVE_PERCENT, EVERYTHING, False),
        (19, FIVE_PERCENT, EVERYTHING, True),
    ],
)
def test_a_percentage_is_one_of_all_items(items: int, errors: Budget, not_found: Budget, *, is_over: bool) -> None:
    """Whether one error and one missing file are too many depends on the number of all items, ended or not."""
    assert is_over_budget(totals([FORBIDDEN, MISSING, GUESSED]), items, errors=errors, not_found=not_found) is is_over


@pytest.mark.parametrize("trouble", [BUSY, THROTTLED, STALLED, REFUSED])
def test_an_origin_in_trouble_is_not_the_cutoffs(trouble: Result) -> None:
    """The throttle and the circuit breaker judge an origin that is overloaded, broken or away, not the cutoff."""
    assert cutoffs(*[trouble] * 9) == [None] * 9


@pytest.mark.parametrize(("failure", "code"), [(FORBIDDEN, 4), (MISSING, 4), (PAGE, 3)])
def test_a_uniform_failure_that_may_pass_is_retryable(failure: Result, code: int) -> None:
    """The exit code of a run that the cutoff ended is that of the failure that all items have in common."""
    counted, cancellation = totals([failure, NOT_BEGUN]), Cancellation()
    counted.uniform_failure = failure
    cancellation.request(Reason.UNIFORM_REFUSAL)
    assert exit_code(counted, cancellation, errors=NOTHING, not_found=NOTHING) == code


def test_an_origin_that_refuses_what_it_gave_is_retryable() -> None:
    """Without a failure from the start that all items share, the origin came to refuse them: a token expired."""
    cancellation = Cancellation()
    cancellation.request(Reason.UNIFORM_REFUSAL)
    assert exit_code(totals([OK, FORBIDDEN, NOT_BEGUN]), cancellation, errors=EVERYTHING, not_found=NOTHING) == 3
    assert exit_code(totals([OK, BUG, NOT_BEGUN]), cancellation, errors=NOTHING, not_found=NOTHING) == 1


@pytest.mark.parametrize("ours", [BUG, FULL_DISK])
def test_failures_of_flagjob_itself_disable_the_cutoff(ours: Result) -> None:
    """Bugs and storage errors say nothing about the origin, however many there are."""
    assert cutoffs(*[ours] * 9) == [None] * 9
