"""The model: budgets, the words of a run and its summary."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.model import Budget, FileType, Status, Summary


def test_the_names_of_statuses_and_file_types() -> None:
    """The statuses and file types have exactly these names in logs, metrics and settings."""
    assert list(Status) == ["ok", "unchanged", "not_found", "error", "cancelled"]
    types = ["gif", "png", "jpeg", "webp", "svg", "avif", "ico", "pdf", "zip", "gzip", "json", "xml", "binary", "any"]
    assert list(FileType) == types


def test_the_default_budget_allows_no_failure() -> None:
    """The default budget allows no failure at all."""
    assert Budget().allows(0, 0)
    assert Budget().allows(0, 100)
    assert not Budget().allows(1, 100)


def test_a_budget_can_be_a_number_of_items() -> None:
    """A budget of 3 allows three failures, however many items there are."""
    assert [Budget(3).allows(failed, 1_000_000) for failed in (2, 3, 4)] == [True, True, False]


@pytest.mark.parametrize(
    ("percent", "items", "most"), [(5, 20, 1), (5, 19, 0), (29, 100, 29), (7, 100, 7), (100, 3, 3), (0, 9, 0)]
)
def test_a_share_is_exact_at_its_limit(percent: float, items: int, most: int) -> None:
    """A share of 29 % of 100 items allows 29, though 0.29 * 100 is a little less in floating point."""
    budget = Budget(percent / 100, is_share=True)
    assert budget.allows(most, items)
    assert not budget.allows(most + 1, items)


@settings(deadline=None)
@given(percent=st.integers(0, 100), items=st.integers(0, 10_000_000))
def test_any_share_of_any_list_is_exact(percent: int, items: int) -> None:
    """Any whole percentage allows exactly as many items as integer arithmetic yields."""
    budget = Budget(percent / 100, is_share=True)
    most = percent * items // 100
    assert budget.allows(most, items)
    assert not budget.allows(most + 1, items)


def test_a_summary_counts_its_items() -> None:
    """The number of items is the sum of the counts of all statuses."""
    summary = Summary(dict.fromkeys(Status, 2), 0, 0, 0.0, 0, "ok")
    assert summary.items == 10
