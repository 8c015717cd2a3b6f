"""What a run works on: where files come from, and which."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from job import codes, demo_server
from job.cancellation import Cancellation
from job.errors import Fault, UsageError
from job.model import Item
from job.settings import Server, Settings
from job.shard import ALL_CODES, Shard
from job.template import UrlTemplate

_BOOK_SITE = "https://www.fluentpython.com/data/flags/{cc}/{cc}.gif"
_FAULTS = {
    Server.LOCAL: demo_server.Faults(),
    Server.DELAY: demo_server.Faults(delay_seconds=(0.5, 5)),
    Server.ERROR: demo_server.Faults(error_rate=0.25, truncate_rate=0.1),
}
"""The seed's servers, as the built-in origin plays them."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The work of one run. `items` can be read once."""

    template: UrlTemplate
    items: Iterator[Item]
    known: int | None
    """How many items there are; a file that has more than there are workers does not tell before its end."""
    server: Server | None
    """The label that was asked for, or stands in for a URL."""
    first: str | None = None
    last: str | None = None
    """The first and last code, where they are known."""

    @property
    def built_in(self) -> bool:
        """The flags come from the built-in origin."""
        return self.server in _FAULTS


def open_inputs(settings: Settings, cancellation: Cancellation, stack: ExitStack) -> Inputs:
    """Open what the settings name, and hand to `stack` what must be closed after the run.

    Raises UsageError where there is no code at all: an empty list must not pass for a run in which all went well.
    """
    server = None if settings.url else settings.server or Server.LOCAL
    template = settings.url or _template(server or Server.LOCAL, stack, starts=not settings.dry_run)
    words = _some(_words(settings, cancellation, stack, letters=not template.takes_ids), cancellation)
    items = codes.select(words, template, settings.limit, _share(settings))
    if settings.codes_file and not settings.arguments:
        items, is_all = _peeked(items, settings)
        if not is_all:
            return Inputs(template, items, None, server)
    known = list(items)
    first_code, last_code = (known[0].code, known[-1].code) if known else (None, None)  # a shard may have none
    return Inputs(template, iter(known), len(known), server, first_code, last_code)


def _some(words: Iterator[codes.Word], cancellation: Cancellation) -> Iterator[codes.Word]:
    """Wait for the first word; raise UsageError where there is none, unless the run was stopped meanwhile."""
    first = list(islice(words, 1))
    if not first and not cancellation.reason:
        raise UsageError(Fault("codes", None, "there are none: give codes as arguments, in a variable or a file"))
    return chain(first, words)


def _peeked(items: Iterator[Item], settings: Settings) -> tuple[Iterator[Item], bool]:
    """Look whether a file has more codes than there are workers; a pipe may take its time, and is not waited for."""
    most = settings.workers if _is_file(settings.codes_file or "-") else -1
    head = list(islice(items, most + 1))
    return chain(head, items), len(head) <= most


def _share(settings: Settings) -> Callable[[str], bool] | None:
    shard = Shard(settings.shard_index, settings.shard_count)
    return None if shard == ALL_CODES else shard.owns


def _template(server: Server, stack: ExitStack, *, starts: bool) -> UrlTemplate:
    """Return a labelled server's template; start it, if it is ours and a request will be sent."""
    if server is Server.REMOTE:
        return UrlTemplate.parse(_BOOK_SITE)
    if not starts:
        return UrlTemplate.parse(f"http://localhost{demo_server.PATH}")
    return UrlTemplate.parse(stack.enter_context(demo_server.DemoServer(faults=_FAULTS[server])).url + demo_server.PATH)


def _words(settings: Settings, cancellation: Cancellation, stack: ExitStack, *, letters: bool) -> Iterator[codes.Word]:
    if settings.arguments:
        return codes.expand(settings.arguments, letters=letters)
    if settings.codes is not None:
        return codes.expand(settings.codes.replace(",", " ").split(), letters=False)
    if settings.codes_file:
        return _read(settings.codes_file, cancellation, stack)
    return codes.expand(["POP20"], letters=False)


def _is_file(path: str) -> bool:
    return path != "-" and Path(path).is_file()


def _read(path: str, cancellation: Cancellation, stack: ExitStack) -> Iterator[codes.Word]:
    """Read words from a file, from standard input, or from a pipe that has a name, for whose writer nobody waits."""
    if _is_file(path):
        return codes.read(stack.enter_context(Path(path).open("rb")))
    if path != "-":
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        os.set_blocking(descriptor, True)
    elif sys.stdin is None:
        raise UsageError(Fault("-", None, "needs an open standard input"))
    else:
        descriptor = sys.stdin.fileno()
    source = stack.enter_context(codes.Interruptible(descriptor, cancellation))
    return codes.read(source, source.is_cut)
