"""Inputs of a run: the URL template, the items to download, and the demo server if the files come from it."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

from job import codes, demo_server, lists
from job.cancellation import Cancellation
from job.errors import Fault, UsageError, map_exceptions
from job.file_table import FileTable
from job.layout import ALL_CODES, Shard
from job.model import Item
from job.settings import Server, Settings
from job.tables import Table, is_header, is_json_name, is_table_name, is_transfer_list
from job.template import CODE_PLACEHOLDERS, NO_TEMPLATE, UrlTemplate

_BOOK_URL = "https://www.fluentpython.com/data/flags/{cc}/{cc}.gif"
_DEMO_FAULTS = {
    Server.LOCAL: demo_server.Faults(),
    Server.DELAY: demo_server.Faults(delay_seconds=(0.5, 5)),
    Server.ERROR: demo_server.Faults(error_rate=0.25, truncate_rate=0.1),
}
"""How the demo server plays each local server of *Fluent Python*."""


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
    has_urls: bool = False
    """Whether the list has whole URLs, so that each item names its own origin."""

    @property
    def built_in(self) -> bool:
        """Return whether the files come from the demo server."""
        return self.server in _DEMO_FAULTS


def open_inputs(settings: Settings, cancellation: Cancellation, stack: ExitStack, table: FileTable) -> Inputs:
    """Open the inputs that the settings select; `stack` gets what must be closed after the run.

    Each file has one item, by `table`.

    Raises UsageError if the list of codes is empty, because an empty list must not look like a successful run; and if
    it is shorter than the settings demand, or then cannot be read to its end.
    """
    selection = _Selection(settings, table, cancellation, stack)
    with map_exceptions({lists.GzipError: lists.unreadable}):  # in what is read here; later it ends the run
        items = selection.items()
        if settings.codes_file and not settings.arguments:
            items, is_whole_list = _look_ahead(items, settings)
            if not is_whole_list:
                return selection.inputs(items)
        known_items = _read_all(items)
    return selection.inputs(iter(known_items), known_items)


class _Selection:
    """Makes the items of the first source that is set: arguments, FLAGJOB_CODES, FLAGJOB_CODES_FILE, else POP20."""

    def __init__(self, settings: Settings, table: FileTable, cancellation: Cancellation, stack: ExitStack) -> None:
        self._settings = settings
        self._table = table
        self._cancellation = cancellation
        self._stack = stack
        self._has_urls = False
        self._url = settings.url.with_naming(settings.file) if settings.url and settings.file else settings.url

    @cached_property
    def _template(self) -> UrlTemplate:
        """The template: the one that is set, or none for a list of whole URLs, or else that of a server label."""
        settings = self._settings
        if self._url:
            return self._url
        template = NO_TEMPLATE
        if not self._has_urls:
            self._check_server()
            template = _server_template(self._server, self._stack, is_needed=not settings.dry_run)
        return template.with_naming(settings.file) if settings.file else template

    @property
    def _server(self) -> Server:
        return self._settings.server or Server.LOCAL

    def inputs(self, items: Iterator[Item | None], known: Sequence[Item] | None = None) -> Inputs:
        """Return the inputs, after `items` was called; `known` are all items, if they are known.

        None is known if this shard owns none of the codes, or the run was cancelled before the first one.
        """
        return Inputs(
            self._template,
            items,
            None if known is None else len(known),
            None if self._url or self._has_urls else self._server,
            first=known[0].code if known else None,
            last=known[-1].code if known else None,
            has_urls=self._has_urls,
        )

    def items(self) -> Iterator[Item | None]:
        """Return the items; raise UsageError if there are none, unless the run was cancelled in the meantime."""
        settings = self._settings
        if not settings.arguments and settings.codes_file and settings.codes is None:
            return self._listed(settings.codes_file)
        if settings.arguments:
            return self._unique(codes.expand_sets(settings.arguments, letters=not self._template.takes_ids))
        words = ["POP20"] if settings.codes is None else settings.codes.replace(",", " ").split()
        tokens = list(codes.expand_sets(words, letters=False))
        self._check_number(len(tokens))
        return self._unique(iter(tokens))

    def _listed(self, path: str) -> Iterator[Item | None]:
        """Return the items of a list; where it must have a number of codes, they are counted before."""
        opened = lists.open_list(path, self._cancellation, self._stack)
        if self._settings.min_codes:
            opened = self._counted(opened, path)
        source = self._reader(opened, path)
        return self._rows(source) if isinstance(source, Table) else self._unique(source)

    def _counted(self, opened: lists.SourceList, path: str) -> lists.SourceList:
        """Return a copy of a list that has as many codes as the settings demand, else raise UsageError.

        The list is copied first: a pipe can be read only once, and a file may be written anew between the two readings,
        so that what was counted would not be what is downloaded.
        """
        copy = lists.copy_list(opened.chunks, self._stack)
        # A run that was interrupted meanwhile requests nothing anyway, and ends as interrupted.
        if not opened.is_interrupted():
            source = self._reader(lists.SourceList(lists.file_chunks(copy)), path)
            self._check_number(source.count() if isinstance(source, Table) else sum(1 for _ in source))
        copy.seek(0)
        return lists.SourceList(lists.file_chunks(copy), opened.is_interrupted)

    def _reader(self, opened: lists.SourceList, path: str) -> Table | Iterator[codes.Token | None]:
        """Return the table or the tokens of a list: a table by its name, or by its first line if it is no file."""
        chunks = lists.as_utf_8(opened.chunks)
        is_table = is_table_name(path)
        if not is_table:
            header, chunks = lists.peek_header(chunks)
            is_table = self._is_table_without_name(header, path)
        if is_table:
            return self._checked(
                Table(
                    lists.checked(chunks, is_table=True),
                    opened.is_interrupted,
                    placeholders=self._named_placeholders,
                    is_json=is_json_name(path),
                )
            )
        template = self._template
        if not template.known_placeholders.issuperset(template.all_placeholders):
            names = ", ".join(f"{{{name}}}" for name in sorted(template.all_placeholders))
            problem = f"the list has no header that names {names}, which the URL or the file name holds"
            raise UsageError(Fault("codes", None, problem))
        return codes.read_tokens(lists.checked(chunks), opened.is_interrupted)

    def _is_table_without_name(self, header: bytes, path: str) -> bool:
        """Return whether a pipe is a table by its first line; raise UsageError for a file of that kind with tabs.

        A file without the name of a table is a list, unless its first line names its format. Spreadsheets save "Unicode
        Text" as such a one, whose every word would be a code.
        """
        if is_transfer_list(header):
            return True
        if not is_header(header, self._placeholders):
            return False
        is_file = lists.is_file(path)
        if is_file and b"\t" in header:
            raise UsageError(Fault("codes", None, f"the list seems to be a table with tabs: {lists.TABLE_NAMES}"))
        return not is_file

    @property
    def _placeholders(self) -> Collection[str] | None:
        """Return the placeholders of the URL by which a header is known; None where none is set for the codes."""
        if self._url:
            return self._url.placeholders
        return None if self._settings.server is None else CODE_PLACEHOLDERS

    @property
    def _named_placeholders(self) -> Collection[str]:
        """Return the placeholders of the URL and the file name, before it is known whether rows have whole URLs."""
        if self._url:
            return self._url.all_placeholders
        file = self._settings.file
        return {*CODE_PLACEHOLDERS, *(file.placeholders if file else ())}

    def _checked(self, table: Table) -> Table:
        """Return a table, after noting whether its rows have whole URLs."""
        self._has_urls = table.has_urls
        if table.has_urls and self._settings.server:
            problem = "excludes a list with URLs, which says itself where the files are: use one of them"
            raise UsageError(Fault("FLAGJOB_SERVER", self._settings.server, problem))
        return table

    def _check_server(self) -> None:
        """Raise UsageError if the built-in origin would be used on a cluster, where nobody has asked for it."""
        if self._settings.unset_origin:
            raise UsageError(self._settings.unset_origin)

    def _check_number(self, number: int) -> None:
        minimum = self._settings.min_codes
        if number < minimum:
            problem = f"must be {minimum} at least (FLAGJOB_MIN_CODES), but the list has {number}"
            raise UsageError(Fault("codes", None, f"{problem}; nothing was requested"))

    def _unique(self, tokens: Iterator[codes.Token | None]) -> Iterator[Item | None]:
        first = list(islice((token for token in tokens if token is not None), 1))
        self._check_not_empty(is_empty=not first)
        settings = self._settings
        return codes.unique_items(
            chain(first, tokens), self._template, self._table, settings.limit, _shard_filter(settings)
        )

    def _rows(self, rows: Table) -> Iterator[Item | None]:
        self._check_not_empty(is_empty=not rows.check(self._template))
        settings = self._settings
        return codes.selected_items(
            lambda is_owned: rows.items(self._template, self._table, is_owned), settings.limit, _shard_filter(settings)
        )

    def _check_not_empty(self, *, is_empty: bool) -> None:
        if is_empty and not self._cancellation.reason:
            raise UsageError(Fault("codes", None, "there are none: give codes as arguments, in a variable or a file"))


def _look_ahead(items: Iterator[Item | None], settings: Settings) -> tuple[Iterator[Item | None], bool]:
    """Read at most one item more than there are workers; return all items, and whether those that were read are all.

    A pipe is not read ahead, because its writer may take its time and the first items should start at once.
    """
    if not lists.is_file(settings.codes_file or lists.STANDARD_INPUT):
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
