"""Where a bucket is, and how long to wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from job.errors import Fault, UsageError
from job.layout import BucketLocation

_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_BEARER_TOKEN", "az": "AZURE_"}
"""What the variables begin with whose values are sent as they are; Google's others name files, or hold JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTimeouts:
    """How long one operation on a bucket may take: no longer than `retry_seconds` and one more request."""

    connect_seconds: float = 5.0
    """From the name look-up to the connection."""
    request_seconds: float = 30.0
    """From the connect to the last byte of the answer."""
    retries: int = 2
    """Further requests after a connection that failed, a time-out or a 5xx (the AWS SDKs' standard mode: 3 in all)."""
    retry_seconds: float = 10.0
    """After which, counted from the first request, no other is sent."""


USUAL = BucketTimeouts()


def check_credentials(location: BucketLocation, environment: Mapping[str, str]) -> None:
    """Raise UsageError for variables with the line break that a secret made by `echo` has.

    The client would give up with a word about header values, and without a name.
    """
    names = sorted(name for name in environment if name.startswith(_VARIABLES[location.scheme]))
    problem = "has a line break or another control character"
    if faults := [Fault(name, None, problem) for name in names if not environment[name].isprintable()]:
        raise UsageError(*faults)


def location_of(url: str) -> BucketLocation:
    """Read `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; raise UsageError if it is none."""
    try:
        return BucketLocation.parse(url)
    except ValueError as error:
        shown = None if "@" in url else url  # what stands before an @ may be a password
        raise UsageError(Fault("FLAGJOB_DEST", shown, str(error))) from error
