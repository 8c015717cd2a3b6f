"""Advice: what to do about each reason and after each outcome, in one short sentence for people."""

import re
from collections.abc import Mapping

from job.errors import Reason

REASON_ADVICE: Mapping[str, str] = {
    Reason.TIMEOUT: "Try again later; if it stays, raise FLAGJOB_READ_TIMEOUT or FLAGJOB_ATTEMPT_TIMEOUT.",
    Reason.CONNECTION: "Try again later; if it stays, lower FLAGJOB_WORKERS and check firewalls and proxies.",
    Reason.DNS: "Check the host name in the URL, and the name server of this machine.",
    Reason.TLS: "Check the origin's certificate, FLAGJOB_CA_BUNDLE and FLAGJOB_CLIENT_CERT.",
    Reason.PROXY: "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY, and that the proxy is up.",
    Reason.PROTOCOL: "Report it to the origin's operator: its answers break the rules of HTTP.",
    Reason.REDIRECT_REFUSED: "If you trust the host that the redirect leads to, add it to FLAGJOB_REDIRECT_HOSTS.",
    Reason.TOO_MANY_REDIRECTS: "Open the URL in a browser, and use the one at which the redirects end.",
    Reason.TRUNCATED: "Try again later; if it stays, the origin or a proxy cuts its files.",
    Reason.EMPTY: "Try again later; if it stays, open the URL: the origin sends no bytes.",
    Reason.TOO_LARGE: "If files of this size are right, raise FLAGJOB_MAX_BYTES.",
    Reason.UNEXPECTED_ENCODING: "Ask the origin for files without compression, or with gzip or deflate.",
    Reason.BAD_CONTENT: "Open the URL: is it a login or block page, or a type to add to FLAGJOB_ACCEPT?",
    Reason.CHECKSUM: "If the origin's new file is right, renew its digest in the table or in FLAGJOB_CHECKSUMS.",
    Reason.PLACEHOLDER: "Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND.",
    Reason.INVALID_CODE: "Correct these codes in the list.",
    Reason.INVALID_ROW: "Correct these rows of the table.",
    Reason.STORAGE: "Make room at the destination, and check that it can be written.",
    Reason.ORIGIN_DOWN: "Wait until the origin is back, or raise FLAGJOB_ORIGIN_PATIENCE.",
    Reason.UNIFORM_REFUSAL: "Check the URL's path, the token and the list: the origin refuses everything.",
    Reason.DEADLINE: "Raise FLAGJOB_DEADLINE, or FLAGJOB_WORKERS if the origin bears more.",
    Reason.SIGNAL: "Start the run again: it goes on where it was.",
    Reason.INTERNAL: "Report the event bug of the log, with the version: it is a bug of flagjob.",
    "http_401": "Renew the token in FLAGJOB_HEADERS_FILE.",
    "http_403": "Renew the token in FLAGJOB_HEADERS_FILE, or ask the origin whether it blocks this address.",
    "http_204": "Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND.",
    "http_404": "Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND; if all fail, correct the URL.",
    "http_410": "Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND.",
    "http_408": "Try again later: the origin is busy or broken.",
    "http_429": "Set FLAGJOB_RATE_LIMIT to what the origin allows, or lower FLAGJOB_WORKERS.",
    "http_420": "Set FLAGJOB_RATE_LIMIT to what the origin allows, or lower FLAGJOB_WORKERS.",
    "http_509": "Set FLAGJOB_RATE_LIMIT to what the origin allows, or lower FLAGJOB_WORKERS.",
    "http_4NN": "Check the URL and the headers: the origin refuses these requests.",
    "http_5NN": "Try again later: the origin is busy or broken.",
    "too_many_changed": "Look at some of the changed files; if they are right, raise FLAGJOB_MAX_CHANGED for one run.",
}
"""What to do about each reason of an item or of a run; `http_4NN` and `http_5NN` stand for statuses without a line."""
OUTCOME_ADVICE: Mapping[str, str] = {
    "bug": "Run the same command again, as a bug may depend on the moment.",
    "usage": "Correct the settings: nothing was attempted.",
    "retryable": "Run the same command again: only what is missing is asked for again.",
    "permanent": "Change the list, the URL or the budgets first: the same command would end in the same way.",
    "storage": "Look at the destination first, then run the same command again: what was stored stays.",
    "origin_down": "Run the same command again when the origin is back: only what is missing is asked for again.",
    "deadline": "Run the same command again: only what is missing is asked for again.",
    "sighup": "Run the same command again, under nohup or as a service: only what is missing is asked for again.",
    "sigint": "Run the same command again: only what is missing is asked for again.",
    "killed": "Find out who killed it, such as the kernel for want of memory; then run the same command again.",
    "sigterm": "Run the same command again: only what is missing is asked for again.",
}
"""What to do next after a run, by its outcome as `exit_code.outcome_name` names it, or `killed`; `ok` needs nothing."""
SAME_BYTES_HINT = (
    "look at that file: if the origin serves it in place of missing files, put its digest into FLAGJOB_PLACEHOLDERS"
)
PERMANENT_HINT = "every item was refused in the same way: look at the URL's path, the token, the list of codes"
RETRYABLE_HINT = "every item got something other than its file: is it a login page, a captive portal, a block?"
REFUSED_LATER_HINT = (
    "the origin refuses what it gave before: has a token or a session expired, is this address blocked?"
)
RETRY_BUDGET_HINT = (
    "too many failures: the run has no retries left, so items end at their first failure until downloads succeed"
)
"""The hints of log events about a whole run."""
_HTTP_REASON = re.compile(r"http_(\d)\d\d")
_OTHER_ADVICE = "Look at the result lines of the log that have this reason."


def advice_for(reason: str) -> str:
    """Return what to do about a reason: a Reason, `http_NNN` or `too_many_changed`; any other text is no error."""
    status_class = _HTTP_REASON.sub(r"http_\1NN", reason)
    return REASON_ADVICE.get(reason) or REASON_ADVICE.get(status_class, _OTHER_ADVICE)


def runbook_link(exit_code: int) -> str:
    """Return where the runbook describes an exit code, as a path of the repository."""
    return f"docs/runbook.md#exit-code-{exit_code}"
