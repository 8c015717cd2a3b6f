"""The values of a run, where they compute something."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.model import Budget, FileType, Status, Summary


def test_the_words_of_a_run() -> None:
    """Logs, metrics and settings say these words, and no other."""
    assert list(Status) == ["ok", "unchanged", "not_found", "error", "cancelled"]
    assert list(FileType) == ["gif", "png", "jpeg", "webp", "svg", "any"]


def test_no_budget_allows_nothing() -> None:
    """By default the first failure is one too many, and none is none too many."""
    assert Budget().allows(0, 0)
    assert Budget().allows(0, 100)
    assert not Budget().allows(1, 100)


def test_a_number_is_a_number_of_items() -> None:
    """Three may fail, however many there are."""
    assert [Budget(3).allows(failed, 1_000_000) for failed in (2, 3, 4)] == [True, True, False]


@pytest.mark.parametrize(
    ("percent", "items", "most"), [(5, 20, 1), (5, 19, 0), (29, 100, 29), (7, 100, 7), (100, 3, 3), (0, 9, 0)]
)
def test_a_share_is_exact_at_its_border(percent: float, items: int, most: int) -> None:
    """29 % of 100 items are 29, though 0.29 * 100 is a little less."""
    budget = Budget(percent / 100, is_share=True)
    assert budget.allows(most, items)
    assert not budget.allows(most + 1, items)


@settings(deadline=None)
@given(percent=st.integers(0, 100), items=st.integers(0, 10_000_000))
def test_any_share_of_any_list_is_exact(percent: int, items: int) -> None:
    """Whole percentages allow what whole numbers say that they allow."""
    budget = Budget(percent / 100, is_share=True)
    most = percent * items // 100
    assert budget.allows(most, items)
    assert not budget.allows(most + 1, items)


def test_a_summary_counts_its_items() -> None:
    """However items ended, they add up to how many there were."""
    summary = Summary(dict.fromkeys(Status, 2), 0, 0, 0.0, 0, "ok")
    assert summary.items == 10
