"""How many retries a run may spend: a failing origin is asked less, not more."""

_CAPACITY = 100.0
_A_RETRY, _A_SUCCESS = 1.0, 0.1
_NO_RETRIES_BELOW = 50.0
"""As gRPC throttles retries (gRFC A6): a success pays for a tenth of one, and a bucket is used down to its half."""


class RetryBudget:
    """The tokens that retries cost. Not thread-safe: the gate's lock guards it."""

    def __init__(self) -> None:
        self._tokens = _CAPACITY

    def refill(self, *, retried: bool) -> None:
        """Note a success; a retry that worked has its token back, as with the AWS SDKs' standard mode."""
        self._tokens = min(self._tokens + (_A_RETRY if retried else _A_SUCCESS), _CAPACITY)

    def spend(self) -> bool:
        """Pay for a retry, if there is enough; return whether there was."""
        if self._tokens - _A_RETRY < _NO_RETRIES_BELOW:
            return False
        self._tokens -= _A_RETRY
        return True
