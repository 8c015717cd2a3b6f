"""Revalidation: which items need no request, and which requests are conditional, by the records of earlier runs."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from urllib.parse import unquote_plus

from job.model import Entry, Refresh, Status, Stored, Validators

_MAY_BE_SIGNED = re.compile(r"(?:^|&)(?:x-|sig|[^=&]*%)", re.IGNORECASE)
"""Each signature has a parameter whose name begins so, or hides it behind an escape. Most queries have none, and are
done with in a tenth of the time."""
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
"""Of Amazon's and Google's signatures, version 4. What asks for another answer has other names: `versionId`,
`response-content-type`, `generation`."""
_AZURE = frozenset(
    "sv se st sp sr ss srt si spr sip sdd ses skoid sktid skt ske sks skv saoid suoid scid rscc rscd rscl".split()
)
"""Of a shared access signature. `rsce` and `rsct` are missing: they change the coding and the type of the answer."""
_SIGNATURES: tuple[tuple[set[str], frozenset[str]], ...] = (
    ({"awsaccesskeyid", "expires", "signature"}, frozenset()),
    ({"googleaccessid", "expires", "signature"}, frozenset()),
    ({"ossaccesskeyid", "expires", "signature"}, frozenset({"security-token"})),
    ({"key-pair-id", "expires", "signature"}, frozenset({"policy"})),
    ({"key-pair-id", "policy", "signature"}, frozenset({"expires"})),
    ({"sig", "se"}, _AZURE),
    ({"sig", "si"}, _AZURE),
)
"""Names that mean a signature only where they stand together (Amazon's and Google's version 2, Alibaba's, CloudFront's,
Azure's), and its other parameters."""

_PHASE_BITS = 32


@dataclass(slots=True)
class PriorState:
    """The entry and the file that earlier runs left of an item."""

    entry: Entry | None = None
    intact_file: Stored | None = None
    """The item's file, if it is at the destination as it was stored, and is the one that the item should have."""
    url: str = ""
    """The item's URL, as entries hold it."""

    @property
    def is_same_url(self) -> bool:
        """Return whether the entry is about the item's URL: validators and a 404 say nothing about another one."""
        return self.entry is not None and self.entry.url == self.url

    @property
    def is_same_url_without_query(self) -> bool:
        """Return whether the two URLs are equal but for the query, which may be a signature that is new each time."""
        return self.entry is not None and self.entry.url.partition("?")[0] == self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class RevalidationPolicy:
    """When a file or a 404 of an earlier run is used without a request, and when a request is conditional."""

    refresh: Refresh = Refresh.CONDITIONAL
    not_found_ttl: float = 0.0
    """How long a 404 or 410 is fresh, in seconds; the freshness lifetime of RFC 9111, 4.2, for an absence."""
    recheck_after: float = 0.0
    """Within how many seconds each file is asked for once, at a time of its own; 0 for in every run."""


def unsigned_url(url: str, ignored: Collection[str] = ()) -> str:
    """Return a URL as validators are bound to it: without fragment, signature and the parameters named in `ignored`.

    The same file has another signature each night, as behind a redirect to a bucket. Everything else in the query may
    be another file, such as another size, so it stays as it is, in its order, encoding and repetition. The well-known
    parameters are found in any case, `ignored` as they are written; in both, escapes count as what they stand for.
    A signature in the path stays, too: nothing tells it from a name.
    """
    address, _, query = url.partition("#")[0].partition("?")
    if not query:
        return address
    if not ignored and not _MAY_BE_SIGNED.search(query):
        return f"{address}?{query}"
    parameters = query.split("&")
    names = [unquote_plus(parameter.partition("=")[0]) for parameter in parameters]
    signing = _signing_names({name.lower() for name in names})
    kept = [
        parameter
        for name, parameter in zip(names, parameters, strict=True)
        if name not in ignored and name.lower() not in signing
    ]
    return f"{address}?{'&'.join(kept)}" if kept else address


def _signing_names(names: set[str]) -> set[str]:
    """Return those of a query's names, in lower case, that sign it."""
    signing = {name for name in names if name.startswith(_SIGNATURE_PREFIXES)}
    for marks, others in _SIGNATURES:
        if marks <= names:
            signing |= marks | others
    return signing


def status_without_request(prior: PriorState, policy: RevalidationPolicy, now: datetime) -> Status | None:
    """Return the status of an item that needs no request, or None if the origin must be asked."""
    if policy.refresh is Refresh.ALWAYS or prior.entry is None:
        return None
    if prior.intact_file and _is_left_alone(prior, policy, now):
        return Status.UNCHANGED
    is_absent = prior.entry.status is Status.NOT_FOUND and prior.is_same_url
    if is_absent and _age(prior.entry.checked_at, now) < timedelta(seconds=policy.not_found_ttl):
        return Status.NOT_FOUND
    return None


def validators_to_send(prior: PriorState, policy: RevalidationPolicy) -> Validators | None:
    """Return the validators for a conditional request (RFC 9110, 13.1), or None for an unconditional one.

    A request is conditional only if a 304 could be used: the file is intact, and its validators are of the same URL.
    """
    stored = prior.intact_file
    if policy.refresh is not Refresh.CONDITIONAL or stored is None or not prior.is_same_url:
        return None
    if not (stored.etag or stored.last_modified):
        return None
    return Validators(stored.etag, stored.last_modified, stored.redirected_to)


def _is_left_alone(prior: PriorState, policy: RevalidationPolicy, now: datetime) -> bool:
    """Return whether a file that is there needs no request."""
    if policy.refresh is Refresh.MISSING and prior.is_same_url_without_query:
        return True
    return policy.recheck_after > 0 and _is_confirmed(prior, policy.recheck_after, now)


def _is_confirmed(prior: PriorState, recheck_after: float, now: datetime) -> bool:
    """Return whether the file was confirmed since it was due last; a failure confirms nothing.

    By its age alone, all files that came in one night would be due in one night, too. So each code has a phase of its
    own within the period, by its hash, and its file is due whenever the time since 1970 comes to that phase again: it
    may be one that was confirmed yesterday.
    """
    entry = prior.entry
    if entry is None or not prior.is_same_url or entry.status not in {Status.OK, Status.UNCHANGED}:
        return False
    # In whole seconds, as the manifest has them: a check in the very second in which the file is due comes after that.
    now = now.replace(microsecond=0)
    period = math.ceil(recheck_after)
    since_due = (int(now.timestamp()) - _phase(entry.code, period)) % period
    return _age(entry.checked_at, now) <= timedelta(seconds=since_due)


def _phase(code: str, period: int) -> int:
    """Return the second of a period in which a code is due; the codes are spread evenly over all of them.

    Those of one shard are, too: shards divide the codes by another hash.
    """
    digest = blake2b(code.encode("utf-8", "surrogatepass"), digest_size=_PHASE_BITS // 8).digest()
    return int.from_bytes(digest) * period >> _PHASE_BITS


def _age(checked_at: str, now: datetime) -> timedelta:
    """Return the age of an answer.

    It is the longest possible if the time cannot be parsed, or lies in the future because a clock was set back.
    """
    try:
        time = datetime.fromisoformat(checked_at)
    except ValueError:
        return timedelta.max
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    age = now - time
    return age if age >= timedelta(0) else timedelta.max
