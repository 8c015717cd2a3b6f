"""The catalogue of faults matches the tests that claim its rows, and matches job/errors.py."""

from dataclasses import replace

from failures import failure_of
from rows import Line, claims, line_of, lines

from job.errors import Reason
from job.exit_code import ExitCode
from job.model import Status

NO_ANSWER = {Reason.TIMEOUT, Reason.CONNECTION, Reason.DNS, Reason.TLS, Reason.PROXY, Reason.PROTOCOL}
"""The reasons of items that got no answer from the origin, which may be down."""
RESULTS = [line for line in lines() if line.words[:1] in (["error"], ["not_found"])]


def is_retryable(line: Line) -> bool:
    """Return whether the failure of a line is retryable; only a Retry-After can put an item off to a later run."""
    return replace(failure_of(line.words[1]), is_deferred=line.again == "later").retryable


def test_rows_are_numbered_in_order() -> None:
    """The rows are numbered in order, and the forms of a row stand together."""
    numbers = [line.number for line in lines()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 78))


def test_every_row_has_a_test() -> None:
    """Every row is claimed by a test, and no test claims a row that does not exist."""
    assert {number for number, _ in claims()} == {line.number for line in lines()}


def test_every_reason_is_in_the_catalogue() -> None:
    """Every reason is in the catalogue, and every one in the catalogue exists or is an http_NNN."""
    reasons = {word for line in lines() for word in line.words[1:]}
    assert set(Reason) - reasons == set()
    assert {word for word in reasons - set(Reason) if not word.startswith("http_")} == set()


def test_every_status_and_exit_code_is_in_the_catalogue() -> None:
    """Every status and every exit code is in the catalogue."""
    assert {line.words[0] for line in lines() if line.words} == set(Status)
    codes = {int(code) for line in lines() for code in line.exit.replace(",", " ").split() if code.isdigit()}
    assert codes - {137} == set(ExitCode)


def test_retries_match_the_error_tree() -> None:
    """The catalogue retries exactly the retryable reasons, and their exit codes match."""
    assert [line for line in RESULTS if (line.again in {"yes", "once", "later"}) != is_retryable(line)] == []
    retryability = {(line.exit_code, is_retryable(line)) for line in RESULTS if line.exit_code in {3, 4}}
    assert retryability == {(ExitCode.RETRYABLE, True), (ExitCode.PERMANENT, False)}


def test_exit_code_6_is_for_items_without_an_answer() -> None:
    """The catalogue gives exit code 6 for exactly the reasons of items that got no answer."""
    assert [line for line in RESULTS if ("(6)" in line.exit) != (line.words[1] in NO_ANSWER)] == []


def test_the_words_of_a_fault_are_unique() -> None:
    """Each line of the catalogue is found by the beginning of its words."""
    assert [line for line in lines() if line_of(line.fault) is not line] == []
