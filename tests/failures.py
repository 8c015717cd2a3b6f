"""From a reason, as documents and logs have it, to the failure that it stands for."""

from job.errors import Failure, Reason


def failure_of(reason: str) -> Failure:
    """Return the failure whose reason is written like that."""
    status = reason.removeprefix("http_")
    return Failure(None, int(status)) if status.isdigit() else Failure(Reason(reason))
