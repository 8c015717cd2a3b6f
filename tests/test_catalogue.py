"""The catalogue of faults cannot drift: its rows have tests, and what it says is what errors.py says."""

from failures import failure_of
from rows import claims, line_of, lines

from job.errors import Reason
from job.exit_code import ExitCode
from job.model import Status

NO_ANSWER = {Reason.TIMEOUT, Reason.CONNECTION, Reason.DNS, Reason.TLS, Reason.PROXY, Reason.PROTOCOL}
"""Where the origin may be down: no item that ends like this has heard of it."""
RESULTS = [line for line in lines() if line.words[:1] in (["error"], ["not_found"])]


def test_the_rows_are_numbered() -> None:
    """A row keeps its number: they run from 1 to the last without a gap, and forms of a row stand together."""
    numbers = [line.number for line in lines()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 57))


def test_every_row_has_a_test() -> None:
    """No promise without a test, and no test of a row that nobody promised."""
    assert {number for number, _ in claims()} == {line.number for line in lines()}


def test_every_reason_is_in_the_catalogue() -> None:
    """Whoever finds a reason in a log finds what it means; of http_NNN there are examples."""
    said = {word for line in lines() for word in line.words[1:]}
    assert set(Reason) - said == set()
    assert {word for word in said - set(Reason) if not word.startswith("http_")} == set()


def test_every_status_and_exit_code_is_in_the_catalogue() -> None:
    """So are the ways that an item and a run can end; `unchanged` is no fault."""
    assert {line.words[0] for line in lines() if line.words} == {*Status} - {Status.UNCHANGED}
    codes = {int(code) for line in lines() for code in line.exit.replace(",", " ").split() if code.isdigit()}
    assert codes - {137} == set(ExitCode)


def test_what_is_tried_again() -> None:
    """The catalogue tries again what errors.py takes for passing, and the exit code says so, too."""
    assert [
        line for line in RESULTS if (line.again in {"yes", "once", "later"}) != failure_of(line.words[1]).retryable
    ] == []
    healing = {(line.exit_code, failure_of(line.words[1]).retryable) for line in RESULTS if line.exit_code in {3, 4}}
    assert healing == {(ExitCode.RETRYABLE, True), (ExitCode.PERMANENT, False)}


def test_what_speaks_of_a_dead_origin() -> None:
    """Only where no answer came does the catalogue know another exit code for a run in which nothing else happened."""
    assert [line for line in RESULTS if ("(6)" in line.exit) != (line.words[1] in NO_ANSWER)] == []


def test_a_fault_has_one_line() -> None:
    """Tests find a line by its words."""
    assert [line for line in lines() if line_of(line.fault) is not line] == []
