"""Which items need no request, and which requests are conditional, by the state that earlier runs left."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import row

from job.model import Entry, Refresh, Status, Stored, Validators
from job.revalidation import (
    PriorState,
    RevalidationPolicy,
    status_without_request,
    unsigned_url,
    validators_to_send,
)

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


H = "https://h/br.gif"


@row(72)
@pytest.mark.parametrize(
    ("url", "unsigned"),
    [
        (H, H),
        (f"{H}?", H),
        (f"{H}#x?sig=1&se=2", H),
        (f"{H}?size=1#x", f"{H}?size=1"),
        (f"{H}?X-Amz-Signature=1", H),
        (f"{H}?b=2&x-amz-date=1&a=%7e&&a=1&c", f"{H}?b=2&a=%7e&&a=1&c"),
        (f"{H}?X%2DAmz%2dDate=1&a", f"{H}?a"),
        (f"{H}?X-Goog-Date=1&X-Goog-Date=2&generation=3", f"{H}?generation=3"),
        (f"{H}?X-Amz-Date=1&versionId=2&response-content-type=a", f"{H}?versionId=2&response-content-type=a"),
        (f"{H}?Signature=1&Expires=2&Size=3", f"{H}?Signature=1&Expires=2&Size=3"),
        (f"{H}?Signature=1&Expires=2&Policy=3&AWSAccessKeyId=4", f"{H}?Policy=3"),
        (f"{H}?Signature=1&Expires=2&Policy=3&Key-Pair-Id=4&a", f"{H}?a"),
        (f"{H}?Signature=1&Policy=3&Key-Pair-Id=4&a", f"{H}?a"),
        (f"{H}?Signature=1&Key-Pair-Id=4", f"{H}?Signature=1&Key-Pair-Id=4"),
        (f"{H}?x-oss-process=resize&OSSAccessKeyId=1&Expires=2&Signature=3", f"{H}?x-oss-process=resize"),
        (f"{H}?sp=big&sr=1&st=2&se=3", f"{H}?sp=big&sr=1&st=2&se=3"),
        (f"{H}?sig=1&sp=big", f"{H}?sig=1&sp=big"),
        (f"{H}?sig=1&sp=r&se=2&sv=3&snapshot=4&rsct=a", f"{H}?snapshot=4&rsct=a"),
        (f"{H}?SIG=1&SI=2&rscd=a&s=1", f"{H}?s=1"),
        (f"{H}?token=1&Token=2&to%6ben=3&tokens=4", f"{H}?Token=2&tokens=4"),
        (f"{H}?x%5B1%5D=1&x[1]=2&a+b=3&%ff=4", f"{H}?a+b=3&%ff=4"),
    ],
)
def test_a_signature_is_no_part_of_a_url(url: str, unsigned: str) -> None:
    """Well-known parameters go where they are a signature, the named ones always; the rest stays byte for byte."""
    assert unsigned_url(url, ("token", "x[1]")) == unsigned
    assert unsigned_url(url) == unsigned_url(url, ("nothing",))


SIGNATURES = [
    ("X-Amz-Date", "X-Amz-Signature", "x-amz-security-token"),
    ("X-Goog-Date", "X-Goog-Signature"),
    ("AWSAccessKeyId", "Expires", "Signature"),
    ("GoogleAccessId", "Expires", "Signature"),
    ("Key-Pair-Id", "Expires", "Signature"),
    ("Key-Pair-Id", "Policy", "Signature"),
    ("sig", "sv", "se", "sp", "sr", "skoid"),
    ("hdnts", "token"),
]
OTHERS = st.lists(
    st.tuples(st.sampled_from(["size", "a", "A", "s", "id", "versionId", "x", ""]), st.text("ab%7E+=2", max_size=3)),
    max_size=5,
)


@st.composite
def signed_query(draw: st.DrawFn, others: list[tuple[str, str]], signatures: list[tuple[str, ...]]) -> str:
    """Return a query of other parameters, in their order, with those of a signature anywhere between them."""
    parameters = [f"{name}={value}" for name, value in others]
    for name in draw(st.sampled_from(signatures)):
        is_named = name in {"hdnts", "token"}
        spelled = name if is_named else draw(st.sampled_from([name, name.lower(), name.upper()]))
        escaped = "".join(draw(st.sampled_from([char, f"%{ord(char):02x}"])) for char in spelled)
        value = quote(draw(st.text(max_size=5)), safe="")
        parameters.insert(draw(st.integers(0, len(parameters))), f"{escaped}={value}")
    return "&".join(parameters)


@row(72)
@settings(deadline=None)
@given(st.data(), OTHERS, OTHERS)
@pytest.mark.slow
def test_only_the_signature_makes_no_difference(
    data: st.DataObject, others: list[tuple[str, str]], changed: list[tuple[str, str]]
) -> None:
    """Two signatures of one URL are the same, whatever they are; of two URLs with other parameters they are not."""
    ignored = data.draw(st.sampled_from([(), ("hdnts", "token")]))
    signatures = SIGNATURES if ignored else SIGNATURES[:-1]

    def unsigned(parameters: list[tuple[str, str]]) -> str:
        return unsigned_url(f"{H}?{data.draw(signed_query(parameters, signatures))}", ignored)

    assert unsigned(others) == unsigned(others)
    assert (unsigned(others) == unsigned(changed)) == (others == changed)


WEEK = 7 * 86400.0


def confirmed(code: str, at: datetime) -> PriorState:
    entry = replace(ENTRY, code=code, checked_at=at.isoformat())
    return PriorState(entry, STORED, ENTRY.url)


def is_asked(prior: PriorState, now: datetime, policy: RevalidationPolicy) -> bool:
    return status_without_request(prior, policy, now) is None


@pytest.mark.parametrize("seconds_late", [0, 40], ids=["on time", "a little later each night"])
def test_each_night_a_seventh_is_asked_for(seconds_late: int) -> None:
    """In 14 nights after a full run each code is asked for once in any seven, and in no night more than a fifth."""
    codes = [f"C{number}" for number in range(7000)]
    policy = RevalidationPolicy(recheck_after=WEEK)
    checked = dict.fromkeys(codes, NOW)
    nights: list[list[str]] = []
    for night in range(1, 15):
        now = NOW + timedelta(days=night, seconds=night * seconds_late)
        nights.append([code for code in codes if is_asked(confirmed(code, checked[code]), now, policy)])
        checked.update(dict.fromkeys(nights[-1], now))
    assert max(map(len, nights)) <= len(codes) / 5
    assert min(map(len, nights)) >= len(codes) / 10
    for first in range(8):
        asked = [code for night in nights[first : first + 7] for code in night]
        assert len(codes) * 0.99 <= len(set(asked)) <= len(asked) <= len(codes) * 1.01
        if seconds_late == 0:
            assert sorted(asked) == sorted(codes)


@given(st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 10**6 - 1), st.text(max_size=8))
def test_a_file_is_asked_for_once_in_its_period(period: int, age: int, microsecond: int, code: str) -> None:
    """One that was confirmed a whole period ago or more is due; one that was asked for just now is not."""
    policy = RevalidationPolicy(recheck_after=period)
    now = NOW.replace(microsecond=microsecond)
    assert is_asked(confirmed(code, NOW - timedelta(seconds=period + age)), now, policy)
    assert not is_asked(confirmed(code, NOW), now, policy)


@pytest.mark.parametrize(
    "prior",
    [
        replace(PRIOR, intact_file=None),
        replace(PRIOR, url="http://localhost/other"),
        replace(PRIOR, entry=replace(ENTRY, status=Status.ERROR)),
        replace(PRIOR, entry=replace(ENTRY, status=Status.NOT_FOUND)),
        replace(PRIOR, entry=replace(ENTRY, checked_at=(NOW + timedelta(days=1)).isoformat())),
        replace(PRIOR, entry=replace(ENTRY, checked_at="")),
        PriorState(),
    ],
    ids=["no file", "other url", "failed", "not found", "checked tomorrow", "never checked", "unknown"],
)
def test_what_is_not_sure_is_asked_for_at_once(prior: PriorState) -> None:
    """Only a file that is there, of the same URL and confirmed when it was asked for last, waits until it is due."""
    policy = RevalidationPolicy(recheck_after=WEEK)
    assert status_without_request(PRIOR, policy, NOW) is Status.UNCHANGED
    assert is_asked(prior, NOW, policy)


def test_a_404_keeps_its_own_ttl() -> None:
    """With `recheck_after` a 404 is believed for `not_found_ttl` all the same; `always` asks for everything."""
    policy = RevalidationPolicy(not_found_ttl=60, recheck_after=WEEK)
    assert not is_asked(not_found(timedelta(seconds=59)), NOW, policy)
    assert is_asked(not_found(timedelta(seconds=60)), NOW, policy)
    assert is_asked(PRIOR, NOW, replace(policy, refresh=Refresh.ALWAYS))
