"""Which items need no request, and which requests are conditional, by the state that earlier runs left."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from job.model import Entry, Refresh, Status, Stored, Validators
from job.revalidation import PriorState, RevalidationPolicy, status_without_request, validators_to_send

NOW = datetime(2026, 11, 22, 4, 17, tzinfo=UTC)
STORED = Stored("br.gif", 359, "7101", "image/gif", etag='"a"', last_modified="then", version="1")
ENTRY = Entry("BR", "http://h/br.gif", "br.gif", Status.OK, STORED, NOW.isoformat(), NOW.isoformat(), 1, None)
PRIOR = PriorState(ENTRY, STORED, ENTRY.url)


def not_found(age: timedelta | str, *, same_url: bool = True) -> PriorState:
    checked = age if isinstance(age, str) else (NOW - age).isoformat()
    entry = replace(ENTRY, status=Status.NOT_FOUND, stored=None, checked_at=checked)
    return PriorState(entry, url=ENTRY.url if same_url else "http://localhost/other")


@pytest.mark.parametrize("refresh", Refresh)
def test_an_unknown_item_is_requested_unconditionally(refresh: Refresh) -> None:
    """Without an entry there is neither a status nor a validator."""
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
def test_an_intact_file_is_treated_as_configured(
    refresh: Refresh, status: Status | None, condition: Validators | None
) -> None:
    """It is revalidated, left alone, or downloaded again."""
    assert status_without_request(PRIOR, RevalidationPolicy(refresh), NOW) is status
    assert validators_to_send(PRIOR, RevalidationPolicy(refresh)) == condition


@pytest.mark.parametrize(
    "prior",
    [
        replace(PRIOR, intact_file=None),
        replace(PRIOR, url="http://localhost/other"),
        replace(PRIOR, intact_file=replace(STORED, etag=None, last_modified=None)),
    ],
)
def test_without_file_or_validators_a_request_is_unconditional(prior: PriorState) -> None:
    """Validators of a file that is missing, or of another URL, could bring a 304 that is wrong."""
    assert validators_to_send(prior, RevalidationPolicy()) is None


def test_validators_name_the_url_after_redirects() -> None:
    """Validators of a redirected request have the digest of the URL that answered."""
    prior = replace(PRIOR, intact_file=replace(STORED, redirected_to="0a1b"))
    assert validators_to_send(prior, RevalidationPolicy()) == Validators('"a"', "then", "0a1b")


def test_one_validator_is_enough() -> None:
    """If an origin sends only one of the two validators, that one is sent back."""
    assert validators_to_send(
        replace(PRIOR, intact_file=replace(STORED, etag=None)), RevalidationPolicy()
    ) == Validators(None, "then")
    assert validators_to_send(
        replace(PRIOR, intact_file=replace(STORED, last_modified=None)), RevalidationPolicy()
    ) == Validators('"a"', None)


@pytest.mark.parametrize(
    ("prior", "is_fresh"),
    [
        (not_found(timedelta(seconds=59)), True),
        (not_found(timedelta(seconds=60)), False),
        (not_found(timedelta(seconds=-1)), False),
        (not_found("2026-11-22T04:16:59"), True),
        (not_found("yesterday"), False),
        (not_found(""), False),
        (not_found(timedelta(seconds=1), same_url=False), False),
        (PRIOR, False),
    ],
)
def test_a_404_is_fresh_for_its_ttl(prior: PriorState, *, is_fresh: bool) -> None:
    """A 404 is used without a request only for the same URL, within the TTL, and never if it lies in the future."""
    assert (status_without_request(prior, RevalidationPolicy(not_found_ttl=60), NOW) is Status.NOT_FOUND) is is_fresh
    assert status_without_request(prior, RevalidationPolicy(Refresh.ALWAYS, not_found_ttl=60), NOW) is None


def test_by_default_a_404_is_never_fresh() -> None:
    """Without a TTL each run asks the origin."""
    assert status_without_request(not_found(timedelta(0)), RevalidationPolicy(), NOW) is None


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (ENTRY.url, Status.UNCHANGED),
        (f"{ENTRY.url}?0123456789ab", Status.UNCHANGED),  # a signature is another one each time
        ("http://localhost/large/br.gif", None),
        ("http://elsewhere/br.gif", None),
    ],
)
def test_a_file_of_another_url_is_downloaded_with_missing(url: str, status: Status | None) -> None:
    """With `missing`, a file is left alone only if it came from the URL from which it would be downloaded now."""
    assert status_without_request(replace(PRIOR, url=url), RevalidationPolicy(Refresh.MISSING), NOW) is status
