"""Inputs of a run: the URL template, the items to download, and the demo server if the files come from it."""

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
from job.file_table import FileTable
from job.layout import ALL_CODES, Shard
from job.model import Item
from job.settings import Server, Settings
from job.template import UrlTemplate

_BOOK_URL = "https://www.fluentpython.com/data/flags/{cc}/{cc}.gif"
_DEMO_FAULTS = {
    Server.LOCAL: demo_server.Faults(),
    Server.DELAY: demo_server.Faults(delay_seconds=(0.5, 5)),
    Server.ERROR: demo_server.Faults(error_rate=0.25, truncate_rate=0.1),
}
"""How the demo server plays each local server of *Fluent Python*."""
_STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The work of one run. `items` can be iterated once."""

    template: UrlTemplate
    items: Iterator[Item | None]
    """The items of the list. A None means that a pipe has nothing at the moment: do what else is due, and ask again."""
    known: int | None
    """The number of items; None for a pipe, and for a file with more items than there are workers."""
    server: Server | None
    """The server label that was requested, or the default if no URL is set; None for a URL."""
    first: str | None = None
    last: str | None = None
    """The first and the last code, where they are known."""

    @property
    def built_in(self) -> bool:
        """Return whether the files come from the demo server."""
        return self.server in _DEMO_FAULTS


def open_inputs(settings: Settings, cancellation: Cancellation, stack: ExitStack, table: FileTable) -> Inputs:
    """Open the inputs that the settings select; `stack` gets what must be closed after the run.

    Each file has one item, by `table`.

    Raises UsageError if the list of codes is empty, because an empty list must not look like a successful run.
    """
    server = None if settings.url else settings.server or Server.LOCAL
    template = settings.url or _server_template(server or Server.LOCAL, stack, is_needed=not settings.dry_run)
    tokens = _tokens(settings, cancellation, stack, letters=not template.takes_ids)
    tokens = _check_not_empty(tokens, cancellation)
    items = codes.unique_items(tokens, template, table, settings.limit, _shard_filter(settings))
    if settings.codes_file and not settings.arguments:
        items, is_whole_list = _look_ahead(items, settings)
        if not is_whole_list:
            return Inputs(template, items, None, server)
    known_items = _read_all(items)
    if not known_items:  # this shard owns none of the codes, or the run was cancelled before the first one
        return Inputs(template, iter(known_items), 0, server)
    return Inputs(
        template, iter(known_items), len(known_items), server, first=known_items[0].code, last=known_items[-1].code
    )


def _check_not_empty(tokens: Iterator[codes.Token | None], cancellation: Cancellation) -> Iterator[codes.Token | None]:
    """Wait for the first token; raise UsageError if there is none, unless the run was cancelled in the meantime."""
    first = list(islice((token for token in tokens if token is not None), 1))
    if not first and not cancellation.reason:
        raise UsageError(Fault("codes", None, "there are none: give codes as arguments, in a variable or a file"))
    return chain(first, tokens)


def _look_ahead(items: Iterator[Item | None], settings: Settings) -> tuple[Iterator[Item | None], bool]:
    """Read at most one item more than there are workers; return all items, and whether those that were read are all.

    A pipe is not read ahead, because its writer may take its time and the first items should start at once.
    """
    if not _is_file(settings.codes_file or _STANDARD_INPUT):
        return items, False
    head = list(islice(items, settings.workers + 1))
    return chain(head, items), len(head) <= settings.workers


def _read_all(items: Iterator[Item | None]) -> list[Item]:
    return [item for item in items if item is not None]


def _shard_filter(settings: Settings) -> Callable[[str], bool] | None:
    shard = Shard(settings.shard_index, settings.shard_count)
    return None if shard == ALL_CODES else shard.owns


def _server_template(server: Server, stack: ExitStack, *, is_needed: bool) -> UrlTemplate:
    """Return the template of a server label; start the demo server if it is meant and requests will be sent."""
    if server is Server.REMOTE:
        return UrlTemplate.parse(_BOOK_URL)
    if not is_needed:
        return UrlTemplate.parse(f"http://localhost{demo_server.PATH}")
    running = stack.enter_context(demo_server.DemoServer(faults=_DEMO_FAULTS[server]))
    return UrlTemplate.parse(running.url + demo_server.PATH)


def _tokens(
    settings: Settings, cancellation: Cancellation, stack: ExitStack, *, letters: bool
) -> Iterator[codes.Token | None]:
    """Return the tokens of the first source that is set: arguments, FLAGJOB_CODES, FLAGJOB_CODES_FILE, else POP20."""
    if settings.arguments:
        return codes.expand_sets(settings.arguments, letters=letters)
    if settings.codes is not None:
        return codes.expand_sets(settings.codes.replace(",", " ").split(), letters=False)
    if settings.codes_file:
        return _file_tokens(settings.codes_file, cancellation, stack)
    return codes.expand_sets(["POP20"], letters=False)


def _is_file(path: str) -> bool:
    return path != _STANDARD_INPUT and Path(path).is_file()


def _file_tokens(path: str, cancellation: Cancellation, stack: ExitStack) -> Iterator[codes.Token | None]:
    """Open a file, standard input or a named pipe, and return its tokens."""
    if _is_file(path):
        return codes.read_tokens(codes.file_chunks(stack.enter_context(Path(path).open("rb"))))
    if path != _STANDARD_INPUT:
        # Opening a named pipe blocks until it has a writer, and nothing could interrupt that. So open it without
        # blocking; the reader waits for data in a way that a signal ends.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        os.set_blocking(descriptor, True)
    elif sys.stdin is None:
        raise UsageError(Fault("-", None, "needs an open standard input"))
    else:
        descriptor = sys.stdin.fileno()
    reader = codes.PipeReader(descriptor, cancellation)
    return codes.read_tokens(reader.chunks(), reader.is_interrupted)
