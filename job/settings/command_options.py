"""The options of the commands beside the job: serve and simulate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from job import redaction
from job.errors import Fault, UsageError
from job.settings import parsers
from job.settings.option import Option, option, options_of
from job.settings.parser import Parser, add_options

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the built-in origin is served, and what goes wrong on purpose. Times in seconds, rates are shares."""

    bind: str = option(parsers.host, "127.0.0.1", "address to listen on", metavar="HOST")
    port: int = option(parsers.whole(0, 65535), "8000", "port to listen on, 0 for a free one", metavar="N")
    delay: tuple[float, float] | None = option(
        parsers.span, None, "time before each answer, drawn between two (the book's: 0.5-5)", metavar="TIME[-TIME]"
    )
    error_rate: float = option(parsers.share, "0", "share of requests that get a 503", metavar="SHARE")
    retry_after: int | None = option(parsers.whole(0, 86400), None, "Retry-After of those 503, in seconds", metavar="N")
    truncate_rate: float = option(parsers.share, "0", "share of bodies that are cut in the middle", metavar="SHARE")


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """What is simulated. Times in seconds, the rate in tasks a second."""

    tasks: int = option(parsers.whole(1, 100_000), "5", "tasks that only sleep", metavar="N")
    workers: int = option(parsers.whole(1, 1000), "3", "tasks at the same time", "-m", metavar="N")
    latency: float | None = option(
        parsers.seconds(0, 3600), None, "how long each sleeps; else task n sleeps n seconds", metavar="TIME"
    )
    rate: float = option(parsers.rate, "0", "tasks that may begin in a second, 0 for no limit", metavar="N")


_PAGES: dict[type, tuple[str, str]] = {
    ServeOptions: ("flagjob serve", "Serves the built-in origin's real flags, with faults on demand."),
    SimulateOptions: ("flagjob simulate", "Runs tasks that only sleep on the job's pool, and draws their timeline."),
}


def load_options(kind: type[T], argv: Sequence[str]) -> T:
    """Return the options of a command; raise UsageError with every fault. Variables do not count here."""
    faults: list[Fault] = []
    given, unknown = _parser(kind).parse_known_args(list(argv))
    faults += (Fault(redaction.plain(word), None, f"is no option of {_PAGES[kind][0]}") for word in unknown)
    parsed: dict[str, Any] = {
        option.name: _value(option, getattr(given, option.name), faults) for option in options_of(kind)
    }
    if faults:
        raise UsageError(*faults)
    return kind(**parsed)


def options_help(kind: type) -> str:
    """Return what --help prints, 80 columns wide."""
    return _parser(kind).format_help()


def _parser(kind: type) -> Parser:
    name, description = _PAGES[kind]
    parser = Parser(name, "[OPTION ...]", description)
    add_options(parser, options_of(kind))
    return parser


def _value(option: Option, text: str | None, faults: list[Fault]) -> object:
    if text is None:
        return option.parse(option.default) if option.default else option.empty
    try:
        return option.parse(text)
    except ValueError as error:
        faults.append(Fault(option.flag, option.shown(text), str(error)))
        return None
