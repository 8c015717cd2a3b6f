"""Advice: each reason and each outcome has one short sentence, which terminal and documents can rely on."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.advice import OUTCOME_ADVICE, REASON_ADVICE, advice_for, runbook_link
from job.errors import TOO_MANY_CHANGED, Reason
from job.exit_code import ExitCode, outcome_name
from job.manifest import KILLED
from job.settings import OPTIONS

SENTENCES = [*REASON_ADVICE.values(), *OUTCOME_ADVICE.values()]
RUNBOOK = (Path(__file__).parents[1] / "docs" / "runbook.md").read_text("utf-8")


def test_every_reason_has_advice() -> None:
    """Each Reason and the cause `too_many_changed` has a sentence of its own; the others are HTTP statuses."""
    others = set(REASON_ADVICE) - {*Reason, TOO_MANY_CHANGED}
    assert {*Reason, TOO_MANY_CHANGED} - set(REASON_ADVICE) == set()
    assert [name for name in others if not re.fullmatch(r"http_\d(\d\d|NN)", name)] == []


def test_every_outcome_but_success_has_advice() -> None:
    """What to do next depends on the outcome, of which `status` knows one more; after `ok` there is nothing to do."""
    assert set(OUTCOME_ADVICE) == {*(outcome_name(code) for code in ExitCode if code), KILLED}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_advice_is_one_short_sentence(sentence: str) -> None:
    """It is one sentence of plain ASCII, fits two lines of a terminal, and names settings that exist."""
    assert sentence.isascii()
    assert re.fullmatch(r"[A-Z][^.]*[.?]", sentence)
    assert len(sentence) <= 100
    assert set(re.findall(r"FLAGJOB_\w+", sentence)) - {option.variable for option in OPTIONS} == set()


@pytest.mark.parametrize(
    ("reason", "beginning"),
    [
        ("http_403", "Renew the token"),
        ("http_418", "Check the URL"),
        ("http_503", "Try again later"),
        ("http_302", "Look at the result lines"),
        ("cancelled", "Look at the result lines"),
    ],
)
def test_a_status_without_a_line_has_that_of_its_class(reason: str, beginning: str) -> None:
    """Statuses are many: those without a sentence have that of 4xx or 5xx, and everything else a general one."""
    assert advice_for(reason).startswith(beginning)


@given(st.text())
def test_any_text_has_advice(reason: str) -> None:
    """A reason of another version, or a damaged one, is no error."""
    assert advice_for(reason)


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_the_runbook_has_what_the_link_names(code: ExitCode) -> None:
    """The link leads to a heading of the runbook."""
    assert f"\n### {runbook_link(code).partition('#')[2].replace('-', ' ').capitalize()}\n" in RUNBOOK
