"""What is believed of earlier runs, as functions of what they learned."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from job.model import Entry, Refresh, Status, Stored, Validators
from job.revalidation import PriorState, RevalidationPolicy, status_without_request, validators_to_send

NOW = datetime(2026, 11, 22, 4, 17, tzinfo=UTC)
STORED = Stored("br.gif", 359, "7101", "image/gif", etag='"a"', last_modified="then", version="1")
ENTRY = Entry("BR", "http://h/br.gif", "br.gif", Status.OK, STORED, NOW.isoformat(), NOW.isoformat(), 1, None)
KNOWN = PriorState(ENTRY, STORED, ENTRY.url)


def absent(age: timedelta | str, *, same_url: bool = True) -> PriorState:
    checked = age if isinstance(age, str) else (NOW - age).isoformat()
    entry = replace(ENTRY, status=Status.NOT_FOUND, stored=None, checked_at=checked)
    return PriorState(entry, url=ENTRY.url if same_url else "http://localhost/other")


@pytest.mark.parametrize("refresh", Refresh)
def test_what_nobody_knows_is_asked_for(refresh: Refresh) -> None:
    """Without an entry there is nothing to believe, and no condition."""
    policy = RevalidationPolicy(refresh, not_found_ttl=1e9)
    assert status_without_request(PriorState(), policy, NOW) is None
    assert validators_to_send(PriorState(), policy) is None


@pytest.mark.parametrize(
    ("refresh", "status", "condition"),
    [
        (Refresh.CONDITIONAL, None, Validators('"a"', "then")),
        (Refresh.MISSING, Status.UNCHANGED, None),
        (Refresh.ALWAYS, None, None),
    ],
)
def test_an_intact_file_is_treated_as_the_user_asked(
    refresh: Refresh, status: Status | None, condition: Validators | None
) -> None:
    """Asked for on a condition, left alone, or fetched again."""
    assert status_without_request(KNOWN, RevalidationPolicy(refresh), NOW) is status
    assert validators_to_send(KNOWN, RevalidationPolicy(refresh)) == condition


@pytest.mark.parametrize(
    "known",
    [
        replace(KNOWN, intact=None),
        replace(KNOWN, url="http://localhost/other"),
        replace(KNOWN, intact=replace(STORED, etag=None, last_modified=None)),
    ],
)
def test_without_file_or_validators_there_is_no_condition(known: PriorState) -> None:
    """A condition about a file that is not there, or another URL's, could bring a wrong 304."""
    assert validators_to_send(known, RevalidationPolicy()) is None


def test_validators_say_what_url_they_are_of() -> None:
    """Where redirects led to another than was asked for, that one's."""
    known = replace(KNOWN, intact=replace(STORED, redirected_to="0a1b"))
    assert validators_to_send(known, RevalidationPolicy()) == Validators('"a"', "then", "0a1b")


def test_one_validator_is_enough() -> None:
    """An origin that sends only one of the two gets that one."""
    assert validators_to_send(replace(KNOWN, intact=replace(STORED, etag=None)), RevalidationPolicy()) == Validators(
        None, "then"
    )
    assert validators_to_send(
        replace(KNOWN, intact=replace(STORED, last_modified=None)), RevalidationPolicy()
    ) == Validators('"a"', None)


@pytest.mark.parametrize(
    ("known", "believed"),
    [
        (absent(timedelta(seconds=59)), True),
        (absent(timedelta(seconds=60)), False),
        (absent(timedelta(seconds=-1)), False),
        (absent("2026-11-22T04:16:59"), True),
        (absent("yesterday"), False),
        (absent(""), False),
        (absent(timedelta(seconds=1), same_url=False), False),
        (KNOWN, False),
    ],
)
def test_an_absence_is_believed_for_its_time(known: PriorState, *, believed: bool) -> None:
    """Only for the same URL, only so long, and never one from the future."""
    assert (status_without_request(known, RevalidationPolicy(not_found_ttl=60), NOW) is Status.NOT_FOUND) is believed
    assert status_without_request(known, RevalidationPolicy(Refresh.ALWAYS, not_found_ttl=60), NOW) is None


def test_by_default_an_absence_is_not_believed() -> None:
    """Without a time to live every run asks."""
    assert status_without_request(absent(timedelta(0)), RevalidationPolicy(), NOW) is None


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (ENTRY.url, Status.UNCHANGED),
        (f"{ENTRY.url}?0123456789ab", Status.UNCHANGED),  # a signature is another one each time
        ("http://localhost/large/br.gif", None),
        ("http://elsewhere/br.gif", None),
    ],
)
def test_a_file_from_another_place_is_not_the_one_that_is_missing(url: str, status: Status | None) -> None:
    """With `missing` a file is only left alone that came from where it would be fetched now."""
    assert status_without_request(replace(KNOWN, url=url), RevalidationPolicy(Refresh.MISSING), NOW) is status
