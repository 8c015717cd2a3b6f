"""Revalidation: which items need no request, and which requests are conditional, by what earlier runs recorded."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from job.model import Entry, Refresh, Status, Stored, Validators


@dataclass(frozen=True, slots=True)
class PriorState:
    """What is known of an item when its turn comes."""

    entry: Entry | None = None
    intact: Stored | None = None
    """Its file, if that is at the destination just as it was stored, and may stay."""
    url: str = ""
    """What would be asked now, as entries hold it."""

    @property
    def same_url(self) -> bool:
        """The entry is about this URL: only then do its validators and its absence mean anything."""
        return self.entry is not None and self.entry.url == self.url

    @property
    def same_path(self) -> bool:
        """The same, whatever the query: that may be a signature, which is another one each time."""
        return self.entry is not None and self.entry.url.partition("?")[0] == self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class RevalidationPolicy:
    """How much of what is known is believed. `not_found_ttl` is in seconds."""

    refresh: Refresh = Refresh.CONDITIONAL
    not_found_ttl: float = 0.0


def status_without_request(known: PriorState, policy: RevalidationPolicy, now: datetime) -> Status | None:
    """Return how an item ends without any request, or None if the origin must be asked."""
    if policy.refresh is Refresh.ALWAYS or known.entry is None:
        return None
    if policy.refresh is Refresh.MISSING and known.intact and known.same_path:
        return Status.UNCHANGED
    absent = known.entry.status is Status.NOT_FOUND and known.same_url
    if absent and _age(known.entry.checked_at, now) < timedelta(seconds=policy.not_found_ttl):
        return Status.NOT_FOUND
    return None


def validators_to_send(known: PriorState, policy: RevalidationPolicy) -> Validators | None:
    """Return what to make the request conditional by, or None for a plain one."""
    stored = known.intact
    if policy.refresh is not Refresh.CONDITIONAL or stored is None or not known.same_url:
        return None
    if not (stored.etag or stored.last_modified):
        return None
    return Validators(stored.etag, stored.last_modified, stored.redirected_to)


def _age(checked_at: str | None, now: datetime) -> timedelta:
    """Return how old an answer is; for ever, if its time cannot be read or lies ahead (a clock may have jumped)."""
    try:
        then = datetime.fromisoformat(checked_at or "")
    except ValueError:
        return timedelta.max
    age = now - (then if then.tzinfo else then.replace(tzinfo=UTC))
    return age if age >= timedelta(0) else timedelta.max
