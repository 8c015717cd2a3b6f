"""Exit code of a run: computed from the totals of its results, the cause of its end, and the failure budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus

from job.cancellation import Cancellation
from job.errors import TOO_MANY_CHANGED, Reason
from job.model import Budget, Cause, Result, Status

_NO_ANSWER_REASONS = {Reason.TIMEOUT, Reason.CONNECTION, Reason.DNS, Reason.PROXY}
"""Retryable reasons of attempts without a usable answer: the circuit breaker judges these."""
_MOST_FREQUENT = 5
_SIGNAL_BASE = 128
"""POSIX shells report a process that a signal ended with 128 plus the signal's number."""


class ExitCode(IntEnum):
    """Exit codes, designed for a Kubernetes podFailurePolicy: 2 and 4 must not be retried."""

    OK = 0
    BUG = 1
    USAGE = 2
    RETRYABLE = 3
    PERMANENT = 4
    STORAGE = 5
    ORIGIN_DOWN = 6
    DEADLINE = 7
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143


_CAUSE_REASONS: Mapping[int, Reason] = {
    ExitCode.BUG: Reason.INTERNAL,
    ExitCode.DEADLINE: Reason.DEADLINE,
    ExitCode.SIGHUP: Reason.SIGNAL,
    ExitCode.SIGINT: Reason.SIGNAL,
    ExitCode.SIGTERM: Reason.SIGNAL,
}
"""The causes that an exit code names itself."""


@dataclass(slots=True)
class Totals:
    """The numbers that the exit code depends on, counted as results arrive. For the main thread only."""

    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    expected_missing: int = 0
    """Items that were not found, but that only EVERY or a letter had generated: they cost no budget."""
    retryable: int = 0
    """Errors that a later run may not have."""
    internal: int = 0
    """Errors that are bugs of flagjob."""
    answered: int = 0
    """Items with at least one HTTP response."""
    attempted: int = 0
    """Items with at least one attempt."""
    retries: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many items are neither ok nor unchanged, by reason."""
    failures: dict[str, int] = field(default_factory=dict)
    """The same of those that cost a budget: errors, and items that should have been found."""
    first_errors: dict[str, str] = field(default_factory=dict)
    """The first error of each reason, in one line for people."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first item of each reason, in one line for people: its code, and its error if it has one."""
    uniform_failure: Result | None = None
    """The failure that all items have in common, if the repeated-failure cutoff ended the run for it.

    None also where the origin came to refuse what it gave before, which ends a run with the same reason.
    """

    def add(self, result: Result) -> None:
        """Count one result."""
        self.counts[result.status] += 1
        if result.status is not Status.OK and result.status is not Status.UNCHANGED:
            self._add_reason(result)
        if result.answered:
            self.answered += 1
        if result.attempts > 0:
            self.attempted += 1
            self.retries += result.attempts - 1

    def _add_reason(self, result: Result) -> None:
        """Count why an item is neither ok nor unchanged."""
        reason = str(result.reason or result.status)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        if result.error:
            self.first_errors.setdefault(reason, result.error)
        self.examples.setdefault(reason, _example_text(result))
        if result.status is Status.NOT_FOUND and result.speculative:
            self.expected_missing += 1
        elif result.status is not Status.CANCELLED:
            self.failures[reason] = self.failures.get(reason, 0) + 1
        if result.status is Status.ERROR and result.retryable:
            self.retryable += 1
        if reason == Reason.INTERNAL:
            self.internal += 1

    @property
    def items(self) -> int:
        """Return the number of results."""
        return sum(self.counts.values())

    @property
    def most_frequent_reasons(self) -> dict[str, int]:
        """Return the five most frequent reasons with their numbers, the most frequent first."""
        by_number = sorted(self.reasons.items(), key=lambda counted: -counted[1])
        return dict(by_number[:_MOST_FREQUENT])


def _example_text(result: Result) -> str:
    return f"{result.code}: {result.error}" if result.error else result.code


def signal_exit_code(signal: int) -> int:
    """Return the exit code of a program that a signal has ended, as POSIX shells report it: 128 and the number."""
    return _SIGNAL_BASE + signal


class RepeatedFailureCutoff:
    """Detects that the first N items of a run are all answered with the same failure. For the main thread only.

    A wrong path in the URL, an invalid token or a login page in place of the files fails every item, so the run may end
    early. Results that say nothing about the origin are ignored: items that were never requested, and missing items
    that were only generated. Any other result than a failure of the first kind disables the cutoff for the rest of the
    run, and so does an origin in trouble: throttle and circuit breaker judge that.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._first: Result | None = None
        self._count = 0
        self._is_disabled = False

    def add(self, result: Result) -> Result | None:
        """Count one result; return the first failure if at least `threshold` items failed like it."""
        is_expected = result.status is Status.NOT_FOUND and result.speculative
        if self._is_disabled or is_expected or result.attempts == 0:
            return None
        if self._first is None:
            self._first = result
        if not _is_failing_answer(result) or not _is_same_failure(self._first, result):
            self._is_disabled = True
            return None
        self._count += 1
        return self._first if self._count >= self._threshold else None


def _is_failing_answer(result: Result) -> bool:
    """Return whether the origin is well and answered, but not with the file."""
    if not result.answered:
        return False
    if result.status is Status.NOT_FOUND:
        return True
    if result.status is not Status.ERROR or result.reason in {Reason.INTERNAL, Reason.STORAGE}:
        return False
    return not (result.retryable and _is_trouble(result))


def _is_trouble(result: Result) -> bool:
    """Return whether a retryable failure is one of an origin that is overloaded, broken or away."""
    status = result.http_status or 0
    is_busy = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return is_busy or result.reason in _NO_ANSWER_REASONS


def _is_same_failure(first: Result, other: Result) -> bool:
    """Compare two failures; 204, 404 and 410 are the same, because all have the status not_found."""
    if first.status is Status.NOT_FOUND:
        return other.status is Status.NOT_FOUND
    return first.reason == other.reason


def is_over_budget(totals: Totals, items: int, *, errors: Budget, not_found: Budget) -> bool:
    """Return whether more errors or missing files occurred than the budgets allow for this number of items."""
    unexpected_missing = totals.counts[Status.NOT_FOUND] - totals.expected_missing
    if not errors.allows(totals.counts[Status.ERROR], items):
        return True
    return not not_found.allows(unexpected_missing, items)


def exit_code(
    totals: Totals, cancellation: Cancellation, *, errors: Budget, not_found: Budget, too_many_changed: bool = False
) -> int:
    """Return the exit code of a run, 0 if no rule matches.

    A bug comes before the budgets, or it would be hidden by failures that flagjob did not cause.
    """
    too_many_errors = not errors.allows(totals.counts[Status.ERROR], totals.items)
    uniform = totals.uniform_failure
    uniform_code = ExitCode.PERMANENT if uniform and not uniform.retryable else ExitCode.RETRYABLE
    over_budget = is_over_budget(totals, totals.items, errors=errors, not_found=not_found)
    no_answer = totals.attempted > 0 and totals.answered == 0 and totals.internal == 0
    # Checked in this order; the first match is the exit code.
    rules = (
        (cancellation.signal is not None, signal_exit_code(cancellation.signal or 0)),
        (cancellation.storage_failed, ExitCode.STORAGE),
        (cancellation.reason is Reason.ORIGIN_DOWN, ExitCode.ORIGIN_DOWN),
        (no_answer, ExitCode.ORIGIN_DOWN),
        (cancellation.reason is Reason.DEADLINE, ExitCode.DEADLINE),
        (totals.internal > 0, ExitCode.BUG),
        (cancellation.reason is Reason.UNIFORM_REFUSAL, uniform_code),
        (too_many_errors and totals.retryable > 0, ExitCode.RETRYABLE),
        (over_budget, ExitCode.PERMANENT),
        (too_many_changed, ExitCode.PERMANENT),  # the set is not published, and a person must look at it
    )
    return next((code for matches, code in rules if matches), ExitCode.OK)


def find_cause(code: int, totals: Totals, endings: Mapping[int, Cause], *, is_over_budget: bool) -> Cause | None:
    """Return why a run has an exit code, without the host; None for 0.

    `endings` has what ended a run, by the exit code that it leads to. Where it has nothing, the cause is the most
    frequent failure. The error is the first of its kind.
    """
    ending = endings.get(code)
    if code in {ExitCode.OK, ExitCode.STORAGE}:
        return ending
    if ending:
        return Cause(ending.reason, totals.first_errors.get(ending.reason, ending.error))
    reason = _cause_reason(code, totals, is_over_budget=is_over_budget)
    return Cause(reason, totals.first_errors.get(reason))


def _cause_reason(code: int, totals: Totals, *, is_over_budget: bool) -> str:
    """Return the reason of an exit code that nothing which ended the run has led to."""
    if code in _CAUSE_REASONS:
        return _CAUSE_REASONS[code]
    if totals.uniform_failure:
        return str(totals.uniform_failure.reason)
    if code == ExitCode.PERMANENT and not is_over_budget:
        return TOO_MANY_CHANGED
    counted = totals.failures or totals.reasons  # without a failure the items were cancelled before one had an answer
    return max(counted, key=counted.__getitem__, default=Reason.ORIGIN_DOWN)


def outcome_name(code: int) -> str:
    """Return the name of an exit code for logs, such as `origin_down` or `sigterm`."""
    if code in set(ExitCode):
        return ExitCode(code).name.lower()
    return f"signal_{code - _SIGNAL_BASE}"
