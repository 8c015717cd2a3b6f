"""Redirect rules: a redirect leads only to servers that the template or the operator named."""

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


def problem(url: str, location: str | None) -> str:
    with pytest.raises(RedirectError) as caught:
        resolve_redirect(url, location, CDN)
    assert caught.value.failure.reason == Reason.REDIRECT_REFUSED
    assert not caught.value.failure.retryable
    return str(caught.value)


@row(26)
@pytest.mark.parametrize(
    ("url", "location", "target"),
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
def test_a_redirect_that_may_be_followed(url: str, location: str, target: str) -> None:
    """A redirect may lead to the same server, to TLS on the same host, and to hosts that the operator named."""
    assert resolve_redirect(url, location, CDN) == target


@row(26)
@pytest.mark.parametrize(
    ("url", "location", "shown"),
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
def test_a_redirect_that_leads_elsewhere_is_refused(url: str, location: str, shown: str) -> None:
    """Another host, port or scheme, a user name, or a step back from TLS is refused; the message shows the host."""
    assert problem(url, location) == f"a redirect to {shown} is not allowed (FLAGJOB_REDIRECT_HOSTS)"


@pytest.mark.parametrize("location", [None, "", " ", "\t"])
def test_a_redirect_without_a_location_is_refused(location: str | None) -> None:
    """A missing or empty Location field is refused."""
    assert problem(HERE, location) == "the redirect names no location"


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
def test_an_invalid_location_is_refused(location: str) -> None:
    """A location that cannot be parsed as a URL is refused here, instead of being passed to another parser."""
    assert problem(HERE, location) == "the location of the redirect is not a URL"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/a b.gif", "http://h/a%20b.gif"),
        ("/fl\u00c3\u00a4ge", "http://h/fl%C3%A4ge"),
        ('https://h/\t\0<>"\\^`{|}', "https://h/%09%00%3C%3E%22%5C%5E%60%7B%7C%7D"),
        ("/\\evil/c", "http://h/%5Cevil/c"),
        ("/%7e%2F?a=b&c=(d)*'!$;,@:~+[]", "http://h/%7e%2F?a=b&c=(d)*'!$;,@:~+[]"),
    ],
)
def test_illegal_characters_are_percent_encoded(location: str, target: str) -> None:
    """The URL that is requested is the one that was checked: it has no blanks, controls or bytes above ASCII."""
    assert resolve_redirect(HERE, location, CDN) == target


@pytest.mark.parametrize("location", ["http://" + "a" * 100_000, "x" * 100_000 + "://h", "http://h:" + "9" * 4000])
def test_a_long_location_does_not_fill_the_log(location: str) -> None:
    """The message shows at most 100 characters of the target."""
    assert len(problem(HERE, location)) < 200


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
    """For any location, the next request goes to the same server, perhaps over TLS, or RedirectError is raised."""
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
def test_secret_headers_stay_on_their_server(url: str, other: str, same: bool) -> None:  # noqa: FBT001  (a parameter of a table)
    """Secret headers are sent to the same host and port, or to its TLS port, and to no other server."""
    assert is_trusted_host(url, other) == same


def test_the_number_of_hops_and_the_statuses() -> None:
    """At most five redirects are followed, of the statuses that have a Location field."""
    assert MAX_HOPS == 5
    assert {301, 302, 303, 307, 308} == STATUSES
