"""Every test of a row of the catalogue of faults that runs the whole job does so with each executor."""

from collections.abc import Iterator

import command
import pytest
from hypothesis import settings

_WHOLE_JOB = ("test_faults", "test_job", "test_mirror", "test_limits", "test_origin_down", "test_crash")
"""The beginnings of the names of test modules that run the whole job."""
_EXECUTORS = ("threads", pytest.param("greenlets", marks=pytest.mark.slow))

settings.register_profile("quick", max_examples=25)
"""For `make test`: the coverage run tries four times as many examples of each property."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that hold a row once with each executor."""
    if metafunc.module.__name__.rpartition(".")[2].startswith(_WHOLE_JOB) and _holds_a_row(metafunc):
        metafunc.parametrize("executor", _EXECUTORS, indirect=True)


@pytest.fixture(autouse=True)
def executor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Make an executor the one of all jobs that the test runs, unless it names one itself."""
    name: str = getattr(request, "param", "threads")
    command.defaults["FLAGJOB_EXECUTOR"] = name
    yield name
    command.defaults.clear()


def _holds_a_row(metafunc: pytest.Metafunc) -> bool:
    """Return whether a test has the marker, for itself or for one of its cases."""
    cases = [case for mark in metafunc.definition.iter_markers("parametrize") for case in mark.args[1]]
    marks = [mark for case in cases for mark in getattr(case, "marks", ())]
    return any(mark.name == "row" for mark in [*marks, *metafunc.definition.iter_markers("row")])
