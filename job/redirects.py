"""Where a redirect may lead, so that nobody can point the job at what it must not reach."""

from collections.abc import Collection
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from job.errors import Reason, RedirectError

STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_HOPS = 5
_PORTS = {"http": 80, "https": 443}
_LEGAL = "%:/?#[]@!$&'()*+,;=~"  # RFC 3986
_SHOWN_MAX = 100


def resolve_redirect(url: str, location: str | None, hosts: Collection[str], hops: int = 0) -> str:
    """Return the absolute URL that a redirect from `url` leads to; raise RedirectError where it may not lead.

    Followed: the same scheme, host and port; http to https on the same host; any http or https port of a host
    in `hosts` (lower case), but never from https to http (OWASP, SSRF prevention: decide on each hop); and none when
    as many were followed before, `hops`, as is enough.
    `location` is the header as Latin-1; bytes that no URL has come back percent-encoded, so that whoever reads
    the URL next reads what was decided on here.
    """
    if hops == MAX_HOPS:
        raise RedirectError(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_HOPS} redirects")
    location = (location or "").strip(" \t")
    if not location:
        raise RedirectError(Reason.REDIRECT_REFUSED, "the redirect names no location")
    try:
        there = urljoin(url, quote(location, _LEGAL, "latin-1"))
        then = urlsplit(there)
        allowed = _may_follow(urlsplit(url), then, hosts)
    except ValueError as error:
        raise RedirectError(Reason.REDIRECT_REFUSED, "the redirect's location is no URL") from error
    if not allowed:
        where = f"{then.scheme}://{then.hostname or ''}"[:_SHOWN_MAX]
        raise RedirectError(Reason.REDIRECT_REFUSED, f"a redirect to {where} is not allowed (FLAGJOB_REDIRECT_HOSTS)")
    return there


def is_trusted_host(url: str, other: str) -> bool:
    """Tell whether a request to `url` may be told to `other`, secret headers included.

    It may on the same host and port, or from http to https on that host; another port is another server (curl's
    CVE-2022-27774).
    """
    return _is_same_server(urlsplit(url), urlsplit(other))


def _may_follow(now: SplitResult, then: SplitResult, hosts: Collection[str]) -> bool:
    if then.scheme not in _PORTS or not then.hostname or "@" in then.netloc or _loses_tls(now, then):
        return False
    return _is_same_server(now, then) or (_port(then) > 0 and then.hostname in hosts)


def _loses_tls(now: SplitResult, then: SplitResult) -> bool:
    return (now.scheme, then.scheme) == ("https", "http")


def _is_same_server(now: SplitResult, then: SplitResult) -> bool:
    if then.hostname != now.hostname or _loses_tls(now, then):
        return False
    return _port(now) == _port(then) or (now.scheme, then.scheme, _port(then)) == ("http", "https", 443)


def _port(parts: SplitResult) -> int:
    return _PORTS[parts.scheme] if parts.port is None else parts.port
