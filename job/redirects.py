"""Redirect rules: which redirects may be followed, so that an origin cannot send the job to a forbidden server."""

from collections.abc import Collection
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from job.errors import Reason, RedirectError

STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_HOPS = 5
_PORTS = {"http": 80, "https": 443}
_LEGAL = "%:/?#[]@!$&'()*+,;=~"
"""RFC 3986, with the % of escapes."""
_SHOWN_MAX = 100


def resolve_redirect(url: str, location: str | None, hosts: Collection[str], hops: int = 0) -> str:
    """Return the absolute URL to which a redirect from `url` leads; raise RedirectError if it may not be followed.

    A redirect may lead to the same scheme, host and port, from http to https on the same host, and to any http or
    https port of a host in `hosts` (lower case), but never from https to http (OWASP, SSRF prevention: check each
    hop). `hops` is the number of redirects that were followed before, at most MAX_HOPS.
    `location` is the header field decoded as Latin-1. Bytes that are illegal in a URL are percent-encoded, so that the
    HTTP client parses exactly the URL that was checked here.
    """
    if hops == MAX_HOPS:
        raise RedirectError(Reason.TOO_MANY_REDIRECTS, f"more than {MAX_HOPS} redirects")
    location = (location or "").strip(" \t")
    if not location:
        raise RedirectError(Reason.REDIRECT_REFUSED, "the redirect names no location")
    try:
        target = urljoin(url, quote(location, _LEGAL, "latin-1"))
        target_parts = urlsplit(target)
        is_allowed = _is_allowed(urlsplit(url), target_parts, hosts)
    except ValueError as error:
        raise RedirectError(Reason.REDIRECT_REFUSED, "the location of the redirect is not a URL") from error
    if not is_allowed:
        shown = f"{target_parts.scheme}://{target_parts.hostname or ''}"[:_SHOWN_MAX]
        raise RedirectError(Reason.REDIRECT_REFUSED, f"a redirect to {shown} is not allowed (FLAGJOB_REDIRECT_HOSTS)")
    return target


def is_trusted_host(url: str, other: str) -> bool:
    """Return whether `other` may receive the secret headers of a request to `url`.

    It may on the same host and port, and on the same host from http to https. Another port is another server (curl's
    CVE-2022-27774).
    """
    return _is_same_server(urlsplit(url), urlsplit(other))


def _is_allowed(source: SplitResult, target: SplitResult, hosts: Collection[str]) -> bool:
    if target.scheme not in _PORTS or not target.hostname or "@" in target.netloc:
        return False
    if _loses_tls(source, target):
        return False
    if _is_same_server(source, target):
        return True
    return _port(target) > 0 and target.hostname in hosts


def _loses_tls(source: SplitResult, target: SplitResult) -> bool:
    return source.scheme == "https" and target.scheme == "http"


def _is_same_server(source: SplitResult, target: SplitResult) -> bool:
    if target.hostname != source.hostname or _loses_tls(source, target):
        return False
    if _port(source) == _port(target):
        return True
    # From any http port to the usual https port: how sites redirect to TLS.
    return source.scheme == "http" and target.scheme == "https" and _port(target) == _PORTS["https"]


def _port(parts: SplitResult) -> int:
    return _PORTS[parts.scheme] if parts.port is None else parts.port
