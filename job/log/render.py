"""Events to lines: JSON for machines, words for people, secrets for nobody."""

import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import orjson
from structlog.typing import EventDict, Processor, WrappedLogger

_MASK = b"***"
_USER = re.compile(rb"://[^/@\s\"\\]+@")
_QUERY = re.compile(rb"(://[^\s\"\\?]*)\?[^\s\"\\]*")
_WHOLE = {"usage_error", "storage_error", "host_paused", "origin_down", "uniform_refusal", "retry_budget_spent"}
"""What would be right stands at the end of these lines: they may wrap."""
_SHORTEST_SECRET = 6
"""Masking what is shorter, or a number, would strike innocent places, and JSON's own syntax."""


def json(masked: Callable[[bytes], bytes]) -> Processor:
    """Return a processor that renders one JSON object: strict JSON (a NaN becomes null), time and level first."""

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
        ordered = {**first, **event}
        try:
            return masked(orjson.dumps(ordered, default=str))
        except TypeError:  # a path or a host's text that is no UTF-8 (PEP 383): shown with backslashes
            shown = {name: _encodable(value) for name, value in ordered.items()}
            return masked(orjson.dumps(shown, default=str))

    return render


def _encodable(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def console(masked: Callable[[bytes], bytes]) -> Processor:
    """Return a processor that renders one line for people, in the seed's words, that fits the terminal.

    It is masked before it is cut: a part of a secret is one, too.
    """

    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
        width = sys.maxsize if event["event"] in _WHOLE else shutil.get_terminal_size().columns
        text = _FOR_PEOPLE.get(event["event"], _other)(event)
        shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
        lines = masked(shown.encode()).decode().split("\n")
        return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines).encode()

    return render


def redactor(secrets: Collection[str]) -> Callable[[bytes], bytes]:
    """Return what masks secrets wherever they hide in a rendered line.

    Masked are the given texts, and the user, password and query of any URL.
    """
    told = [s for s in secrets if len(s) >= _SHORTEST_SECRET and not s.isdigit()]
    forms = {form for s in told for form in (s.encode(), orjson.dumps(s)[1:-1])}
    exact = re.compile(b"|".join(map(re.escape, sorted(forms, key=len, reverse=True))) if forms else rb"(?!)")

    def redact(line: bytes) -> bytes:
        if b"://" in line:
            line = _USER.sub(b"://" + _MASK + b"@", line)
            line = _QUERY.sub(rb"\1?" + _MASK, line)
        return exact.sub(_MASK, line)

    return redact


def _result(event: Mapping[str, Any]) -> str:
    if event["status"] == "error":
        return f"*** Error for {event['code']}: {event.get('error') or event['reason']}"
    return f"{event['code']} {event['status'].replace('_', ' ')}"


def _retry(event: Mapping[str, Any]) -> str:
    return f"{event['code']} again in {event['wait_s']:.1f}s: {event['error']}"


def _started(event: Mapping[str, Any]) -> str:
    """Say what the book's initial report says."""
    label = f"{event['server'].upper()} site" if event["server"] else "Site"
    known = event["codes"] is not None
    what = f"{_many(event['codes'], 'flag')}: from {event['first']} to {event['last']}" if known else "flags"
    workers = _many(event["workers"], "concurrent connection")
    return f"{label}: {event['url']}\nSearching for {what}\n{workers} will be used."


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _other(event: Mapping[str, Any]) -> str:
    hidden = {"event", "timestamp", "level", "run_id", "shard", "shards", "exception"}
    facts = (f"{name}={value}" for name, value in event.items() if name not in hidden)
    return " ".join([event["event"].replace("_", " "), *facts])


def _paused(event: Mapping[str, Any]) -> str:
    return f"Waiting for {event['host']}, {event['until_s']:.1f}s at most: {event['error']}"


def _resumed(event: Mapping[str, Any]) -> str:
    return f"Going on with {event['requests_per_s']:g} requests a second at first."


def _down(event: Mapping[str, Any]) -> str:
    return f"*** {event['host']} is down, the run ends: {event['error']}"


def _refused(event: Mapping[str, Any]) -> str:
    return f"*** {event['reason']} for each of {_many(event['outcomes'], 'item')}, the run ends: {event['hint']}"


def _interrupted(event: Mapping[str, Any]) -> str:
    why = event["signal"] or "The time is up"
    return f"{why}: {_many(event['in_flight'], 'download')} may still end."


def _request(event: Mapping[str, Any]) -> str:
    fault = f" ({event['fault']})" if event["fault"] else ""
    return f"{event['method']} {event['path']} {event['status']}{fault}"


_FOR_PEOPLE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "result": _result,
    "builtin_origin": lambda _: "These are the built-in origin's flags; FLAGJOB_URL names a real one.",
    "request": _request,
    "file": lambda event: f"{event['file']}: {event['finding']}",
    "verify_finished": lambda event: ", ".join(f"{count} {name}" for name, count in event["counts"].items()),
    "rolled_back": lambda event: f"Readers see {event['generation']} now.",
    "serving": lambda event: f"Serving {event['url']}",
    "retry": _retry,
    "host_paused": _paused,
    "host_resumed": _resumed,
    "origin_back": lambda event: f"{event['host']} is back.",
    "origin_down": _down,
    "retry_budget_spent": lambda event: f"No retries are left: {event['hint']}",
    "uniform_refusal": _refused,
    "interrupted": _interrupted,
    "run_started": _started,
    "run_finished": lambda event: str(event["summary"]),
    "scheduled": lambda event: f"Scheduled for {event['code']}: <{event['future']}>",
    "done": lambda event: f"<{event['future']}> for {event['code']}",
    "usage_error": lambda event: f"flagjob: {event['message']}",
}
