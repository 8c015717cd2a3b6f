"""Where a redirect may lead: nowhere but where the template, or the operator, pointed."""

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import row

from job.errors import Reason, RedirectError
from job.redirects import MAX_HOPS, STATUSES, is_trusted_host, resolve_redirect

HERE = "http://h/a/b.gif"
CDN = ("cdn.example.org", "::1")


def refusal(url: str, location: str | None) -> str:
    with pytest.raises(RedirectError) as caught:
        resolve_redirect(url, location, CDN)
    assert caught.value.failure.reason == Reason.REDIRECT_REFUSED
    assert not caught.value.failure.retryable
    return str(caught.value)


@row(26)
@pytest.mark.parametrize(
    ("url", "location", "there"),
    [
        (HERE, "c.gif", "http://h/a/c.gif"),
        (HERE, "/c.gif", "http://h/c.gif"),
        (HERE, "../../../c.gif", "http://h/c.gif"),
        (HERE, "?size=2", "http://h/a/b.gif?size=2"),
        (HERE, "//H/c", "http://H/c"),
        (HERE, "http://h/c", "http://h/c"),
        (HERE, "HTTP://h:80/c", "http://h:80/c"),
        (HERE, "  http://h/c\t", "http://h/c"),
        (HERE, "http:c", "http://h/a/c"),
        ("http://h:8080/", "http://h:8080/c", "http://h:8080/c"),
        ("https://h/", "https://h:443/c", "https://h:443/c"),
        (HERE, "https://h/c", "https://h/c"),
        (HERE, "https://h:443/c", "https://h:443/c"),
        ("http://h:8080/", "https://h/c", "https://h/c"),
        ("http://h:8080/", "https://h:8080/c", "https://h:8080/c"),
        (HERE, "http://cdn.example.org/c", "http://cdn.example.org/c"),
        (HERE, "https://CDN.example.org:8443/c", "https://CDN.example.org:8443/c"),
        ("https://h/", "https://cdn.example.org/c", "https://cdn.example.org/c"),
        (HERE, "http://[::1]:81/c", "http://[::1]:81/c"),
    ],
)
def test_a_redirect_that_may_be_followed(url: str, location: str, there: str) -> None:
    """Followed are the same server, TLS on the same host, and hosts that the operator named."""
    assert resolve_redirect(url, location, CDN) == there


@row(26)
@pytest.mark.parametrize(
    ("url", "location", "where"),
    [
        (HERE, "http://evil/c", "http://evil"),
        (HERE, "//evil/c", "http://evil"),
        (HERE, "http://h.evil/c", "http://h.evil"),
        (HERE, "http://evil.cdn.example.org/", "http://evil.cdn.example.org"),
        (HERE, "http://169.254.169.254/latest/meta-data", "http://169.254.169.254"),
        (HERE, "http://h:8080/c", "http://h"),
        (HERE, "http://h:0/c", "http://h"),
        (HERE, "https://h:8443/c", "https://h"),
        (HERE, "https://cdn.example.org:0/", "https://cdn.example.org"),
        ("https://h/", "http://h/c", "http://h"),
        ("https://h:8443/", "http://h:8443/c", "http://h"),
        ("https://h/", "http://h:443/c", "http://h"),
        ("https://h/", "http://cdn.example.org/c", "http://cdn.example.org"),
        (HERE, "http://user@h/c", "http://h"),
        (HERE, "http://user:password@cdn.example.org/c", "http://cdn.example.org"),
        (HERE, "http://h@evil/c", "http://evil"),
        (HERE, "http://h\\@evil/c", "http://evil"),
        (HERE, "http://evil\\.h/c", "http://evil%5C.h"),
        (HERE, "http://h%2eevil/c", "http://h%2eevil"),
        (HERE, "http://h\t.evil/", "http://h%09.evil"),
        (HERE, "https:///c", "https://"),
        (HERE, "file:///etc/passwd", "file://"),
        (HERE, "ftp://h/c", "ftp://h"),
        (HERE, "gopher://h/c", "gopher://h"),
        (HERE, "javascript:alert(1)", "javascript://"),
        (HERE, "data:image/gif;base64,R0lG", "data://"),
    ],
)
def test_a_redirect_that_leads_elsewhere_is_refused(url: str, location: str, where: str) -> None:
    """Another host, port or scheme, a user, or the way back from TLS: refused, with where it would have led."""
    assert refusal(url, location) == f"a redirect to {where} is not allowed (FLAGJOB_REDIRECT_HOSTS)"


@pytest.mark.parametrize("location", [None, "", " ", "\t"])
def test_a_redirect_to_nowhere_is_refused(location: str | None) -> None:
    """A redirect without a location is no answer."""
    assert refusal(HERE, location) == "the redirect names no location"


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://[evil]/",
        "http://h:port/",
        "http://h:99999/",
        "http://h:-1/",
        "http://cdn.example.org:99999/",
        "http://h/\u2028/c",
    ],
)
def test_a_location_that_is_no_url_is_refused(location: str) -> None:
    """What cannot be read as a URL is not passed on to see who can."""
    assert refusal(HERE, location) == "the redirect's location is no URL"


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("/a b.gif", "http://h/a%20b.gif"),
        ("/fl\u00c3\u00a4ge", "http://h/fl%C3%A4ge"),
        ('https://h/\t\0<>"\\^`{|}', "https://h/%09%00%3C%3E%22%5C%5E%60%7B%7C%7D"),
        ("/\\evil/c", "http://h/%5Cevil/c"),
        ("/%7e%2F?a=b&c=(d)*'!$;,@:~+[]", "http://h/%7e%2F?a=b&c=(d)*'!$;,@:~+[]"),
    ],
)
def test_bytes_that_no_url_has_are_encoded(location: str, there: str) -> None:
    """What is sent is what was decided on: nobody down the line reads a blank, a control or a byte above ASCII."""
    assert resolve_redirect(HERE, location, CDN) == there


@pytest.mark.parametrize("location", ["http://" + "a" * 100_000, "x" * 100_000 + "://h", "http://h:" + "9" * 4000])
def test_a_hostile_location_does_not_fill_the_log(location: str) -> None:
    """Where a redirect would have led is shown, but not at any length."""
    assert len(refusal(HERE, location)) < 200


PIECES = [
    "h",
    "evil",
    "cdn.example.org",
    "http:",
    "https:",
    "//",
    "/",
    "\\",
    "@",
    ":",
    "80",
    "443",
    "[",
    "]",
    "?",
    "#",
    "..",
]
ON_SERVER = re.compile(r"(?:http://h(?::(?:80)?)?|https://h(?::(?:443|80)?)?)(?:[/?#][!-~]*)?", re.IGNORECASE)


@settings(deadline=None, max_examples=500)
@given(st.text(max_size=40) | st.lists(st.sampled_from([*PIECES, " ", "\t", "\u00e9"]), max_size=9).map("".join))
def test_no_location_leads_off_the_server(location: str) -> None:
    """Whatever a server answers, the next request goes to it, by TLS at most, or nowhere; nothing else is raised."""
    with suppress(RedirectError):
        assert ON_SERVER.fullmatch(resolve_redirect(HERE, location, ()))


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        (HERE, "http://H/", True),
        (HERE, "http://h:80/", True),
        (HERE, "https://h/", True),
        (HERE, "http://h:8080/", False),
        (HERE, "https://h:8443/", False),
        ("https://h/", "http://h/", False),
        ("https://h:8443/", "http://h:8443/", False),
        (HERE, "http://cdn.example.org/", False),
    ],
)
def test_secrets_stay_with_the_server_that_they_are_for(url: str, other: str, same: bool) -> None:  # noqa: FBT001  (a parameter of a table)
    """Secret headers go along to the same host and port, or its TLS, and to nobody else."""
    assert is_trusted_host(url, other) == same


def test_the_limits_of_following() -> None:
    """Five hops, by the statuses that have a location to go to."""
    assert MAX_HOPS == 5
    assert {301, 302, 303, 307, 308} == STATUSES
