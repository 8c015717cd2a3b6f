"""The commands and their options: an argparse subparser for each, its help page, the options of serve and simulate."""

import argparse
import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, assert_never

from job import __version__, redaction
from job.errors import Fault, UsageError
from job.settings import parsers
from job.settings.options import EXECUTORS_HELP, OPTIONS, PREFIX, Executor, Option, option, options_of

_DESCRIPTION = """\
Downloads one file for each code in a list, from a URL template, and keeps only
complete files of the expected type.

commands, each with a page of its own (flagjob COMMAND --help):
  run                       download the files; implied without a command
  serve                     serve the built-in origin, with faults on demand
  simulate                  draw the timeline of tasks that only sleep
  verify                    compare the destination's files with its manifest
  rollback                  show readers the set of files before the current one
  status                    show what the last runs did, how old the files are
"""
_EPILOG = """\
Every option with a value is a variable, too: --max-bytes is FLAGJOB_MAX_BYTES;
options win. Codes come from the arguments, else from FLAGJOB_CODES or
FLAGJOB_CODES_FILE, else they are POP20, the twenty most populous countries.

exit codes: 0 all well, or within the budgets; 1 a bug; 2 usage; 3 failures that
a later run may fix; 4 failures that no run will fix; 5 storage or local limits;
6 origin down; 7 deadline; 129 SIGHUP; 130 SIGINT; 143 SIGTERM
"""
_SERVE_DESCRIPTION = "Serves the built-in origin's real flags, with faults on demand."
_SIMULATE_DESCRIPTION = "Runs tasks that only sleep on the job's pool, and draws their timeline."
_VERIFY_DESCRIPTION = """\
Hashes every file of the destination and reports which are changed, missing,
unknown, or gone from the origin. Exit code 4 if one is changed or missing; the
next run repairs it. Takes the job's options, such as --dest and --publish.
"""
_ROLLBACK_DESCRIPTION = """\
Shows readers the set of files before the current one (FLAGJOB_PUBLISH=set).
Takes the job's options, such as --dest.
"""
_STATUS_DESCRIPTION = """\
Shows what the last runs did, how old the destination's files are, and what to
do if the last run failed; with --log-format json as JSON lines. It only reads,
and works during a run. Takes the job's options, such as --dest and --publish.
"""
_PAGE_OPTIONS = ("-h", "--help", "--version")
_MAIN_GROUP = "what most runs need"
_GROUPS: Mapping[str, str] = {
    _MAIN_GROUP: "url codes_file dest workers rate_limit accept max_errors max_not_found",
    "codes": "codes min_codes limit shard_index shard_count",
    "URL": "server file redirect_hosts url_ignore_query user_agent headers_file",
    "proxies and certificates": "ca_bundle client_cert",
    "how many, how fast, in which order": "executor order max_attempts",
    "times": "connect_timeout read_timeout attempt_timeout item_timeout deadline shutdown_grace origin_patience",
    "what a file must be": "max_bytes checksums placeholders",
    "the second run": "refresh not_found_ttl recheck_after new_origin",
    "sets": "publish keep max_changed",
    "log": "name log_format log_level log_results termination_log",
    "report": "report",
    "metrics": "metrics_address metrics_linger metrics_file pushgateway_url pushgateway_labels ping_url",
}
"""The names of the job's options by the titles of the page; each is a section of CONFIGURATION.md."""
_OPTION_WORD = re.compile(r"-(?!\d+$|\d*\.\d+$)[^ ]+")
"""A word that argparse takes for an option: it begins with a dash, is no negative number and has no blank."""
_MINIMUM_SIMILARITY = 0.65
"""The ratio of difflib above which a name is suggested: ULR is similar to URL, but USER_PASS is not to USER_AGENT."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of the built-in origin and of its faults on demand. Times in seconds, rates are fractions."""

    bind: str = option(parsers.host, "127.0.0.1", "address to listen on", metavar="HOST")
    port: int = option(parsers.whole(0, 65535), "8000", "port to listen on, 0 for a free one", metavar="N")
    delay: tuple[float, float] | None = option(
        parsers.span, None, "time before each answer, drawn between two (the book's: 0.5-5)", metavar="TIME[-TIME]"
    )
    error_rate: float = option(parsers.fraction, "0", "share of requests that get a 503", metavar="SHARE")
    retry_after: int | None = option(parsers.whole(0, 86400), None, "Retry-After of those 503, in seconds", metavar="N")
    truncate_rate: float = option(parsers.fraction, "0", "share of bodies that are cut in the middle", metavar="SHARE")


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """The options of a simulation. Times in seconds, the rate in tasks a second."""

    tasks: int = option(parsers.whole(1, 100_000), "5", "tasks that only sleep", metavar="N")
    workers: int = option(parsers.whole(1, 1000), "3", "tasks at the same time", "-m", metavar="N")
    latency: float | None = option(
        parsers.seconds(0, 3600), None, "how long each sleeps; else task n sleeps n seconds", metavar="TIME"
    )
    rate: float = option(parsers.rate, "0", "tasks that may begin in a second, 0 for no limit", metavar="N")
    executor: Executor = option(parsers.choice(Executor), "threads", EXECUTORS_HELP, metavar="HOW")
    report: str | None = option(parsers.page, None, "HTML page with the timeline", metavar="PATH")


class Command(StrEnum):
    """The commands of the command line."""

    RUN = "run"
    SERVE = "serve"
    SIMULATE = "simulate"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    STATUS = "status"


_OPTIONS_OF: Mapping[Command, tuple[Option, ...]] = {
    Command.RUN: OPTIONS,
    Command.SERVE: options_of(ServeOptions),
    Command.SIMULATE: options_of(SimulateOptions),
    Command.VERIFY: OPTIONS,
    Command.ROLLBACK: OPTIONS,
    Command.STATUS: OPTIONS,
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A command line, split by its grammar; the texts of its options are parsed together with the environment's."""

    command: Command
    page: str
    """The text that --help or --version prints; empty where neither was given."""
    codes: tuple[str, ...]
    """Codes and names of sets in their order, the sets of --all and --every first."""
    dry_run: bool
    verbose: bool
    delete: bool
    texts: Mapping[str, str]
    """The texts of the options that were given, by the option's name."""
    faults: tuple[Fault, ...]
    """Everything that the grammar does not allow."""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Return the parts of a command line, which is without the program's name. Never raises: faults are a part."""
    words = list(argv)
    command = Command.RUN
    if words and words[0] in list(Command):
        command = Command(words.pop(0))
    # Versions of argparse treat `--` in different ways, so argparse never sees it: all words after it are codes.
    end = words.index("--") if "--" in words else len(words)
    verbatim = words[end + 1 :]
    # A page is printed whatever else the line holds: nobody should have to correct a line to get help with it.
    pages = [word for word in words[:end] if word in _PAGE_OPTIONS]
    if pages:
        verbatim = []
        words = ["--version"] if set(pages) == {"--version"} else ["--help"]
    namespace = argparse.Namespace(
        page="", arguments=[], all=False, every=False, verbose=False, dry_run=False, delete=False
    )
    leftover: list[str] = []
    faults: list[Fault] = []
    try:
        _, leftover = _build_parser(command).parse_known_args([command, *words[:end]], namespace)
    except UsageError as error:
        faults += error.faults
    codes, unknown_faults = _split_leftover(command, leftover, verbatim)
    codes = _all_codes(namespace, codes)
    faults += unknown_faults
    faults += _stdin_faults(codes)
    return Arguments(
        command=command,
        page=namespace.page,
        codes=tuple(map(redaction.printable, codes)),
        dry_run=namespace.dry_run,
        verbose=namespace.verbose,
        delete=namespace.delete,
        texts=_option_texts(command, namespace),
        faults=tuple(faults),
    )


def _all_codes(namespace: argparse.Namespace, leftover_codes: Sequence[str]) -> list[str]:
    """Return all codes in their order, after the sets of --all and --every."""
    sets = {"ALL": namespace.all, "EVERY": namespace.every}
    return [*(name for name, is_wanted in sets.items() if is_wanted), *namespace.arguments, *leftover_codes]


def _stdin_faults(codes: Sequence[str]) -> list[Fault]:
    if "-" not in codes or len(codes) == 1:
        return []
    problem = "must be the only argument: codes come from standard input or from the arguments"
    return [Fault("-", None, problem)]


def _split_leftover(
    command: Command, leftover: Sequence[str], verbatim: Sequence[str]
) -> tuple[list[str], list[Fault]]:
    """Return the codes among the words that a subparser left over, and a fault for each other word.

    A subparser takes only the first codes that stand together. (The intermixed parsing of argparse would take codes
    between options, too, but argparse does not offer it for subparsers.) The `verbatim` words are codes in any case.
    """
    if command in {Command.SERVE, Command.SIMULATE}:
        problem = f"is not an option of flagjob {command}"
        return [], [Fault(redaction.plain(word), None, problem) for word in (*leftover, *verbatim)]
    flags = [flag for setting in OPTIONS for flag in (*setting.flags, setting.flag)]
    codes: list[str] = []
    faults: list[Fault] = []
    for word in leftover:
        if _OPTION_WORD.fullmatch(word):
            name = redaction.printable(word.partition("=")[0])  # the value may be a secret
            faults.append(Fault(name, None, describe_unknown("option", name, flags)))
        else:
            codes.append(word)
    return [*codes, *verbatim], faults


def _option_texts(command: Command, namespace: argparse.Namespace) -> dict[str, str]:
    texts: dict[str, str] = {}
    for setting in _OPTIONS_OF[command]:
        text = getattr(namespace, setting.name, None)  # a subparser stores nothing if its grammar is violated
        if text is not None:
            texts[setting.name] = text
    return texts


def _build_parser(command: Command) -> argparse.ArgumentParser:
    """Return the grammar of a command line, with the subparser of this command only: all of them take 6 ms."""
    parser = _Parser()
    commands = parser.add_subparsers(prog="flagjob")
    match command:
        case Command.RUN:
            usage = "flagjob [run] [OPTION ...] [CODE ...]"
            subparser = commands.add_parser(command, usage=usage, description=_DESCRIPTION, epilog=_EPILOG)
            _add_job_options(subparser)
        case Command.SERVE:
            subparser = commands.add_parser(command, usage="flagjob serve [OPTION ...]", description=_SERVE_DESCRIPTION)
            _add_options(subparser.add_argument, _OPTIONS_OF[command])
        case Command.SIMULATE:
            subparser = commands.add_parser(
                command, usage="flagjob simulate [OPTION ...]", description=_SIMULATE_DESCRIPTION
            )
            _add_options(subparser.add_argument, _OPTIONS_OF[command])
        case Command.VERIFY:
            usage = "flagjob verify [--delete] [OPTION ...]"
            subparser = commands.add_parser(command, usage=usage, description=_VERIFY_DESCRIPTION)
            text = "delete the files of codes that the origin no longer has"
            subparser.add_argument("--delete", action="store_true", help=text)
            _add_job_options(subparser, hidden=True)
        case Command.ROLLBACK:
            subparser = commands.add_parser(
                command, usage="flagjob rollback [OPTION ...]", description=_ROLLBACK_DESCRIPTION
            )
            _add_job_options(subparser, hidden=True)
        case Command.STATUS:
            subparser = commands.add_parser(
                command, usage="flagjob status [OPTION ...]", description=_STATUS_DESCRIPTION
            )
            _add_job_options(subparser, hidden=True)
        case _:
            assert_never(command)
    _add_page_options(subparser, hidden=command is not Command.RUN)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that prints the same page on every Python: `-l, --limit N`, as 3.13 prints it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=80)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        names = ", ".join(action.option_strings)
        return names if action.nargs == 0 else f"{names} {action.metavar}"


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of ending the process."""

    def __init__(
        self,
        prog: str | None = None,
        usage: str | None = None,
        description: str | None = None,
        epilog: str = "",
        *,
        color: bool = False,
    ) -> None:
        """Take what the page shows; `color`, which argparse hands to subparsers from Python 3.14 on, is not heeded."""
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            add_help=False,
            allow_abbrev=False,
        )
        # From Python 3.14 on argparse would colour pages by itself, by rules of its own. They stay plain here, the same
        # on every Python, and are coloured where they are printed.
        del color
        self.color = False

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message that argparse would print, without a value that it quotes."""
        # argparse quotes the value of a switch that takes none, `--delete=VALUE`, and it may be a secret.
        shown, phrase, _ = message.partition("ignored explicit argument")
        raise UsageError(Fault("arguments", None, f"{shown}{phrase}"))


class _PageAction(argparse.Action):
    """Store the page to print: the actions of argparse print it themselves and ignore a full disk."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        _values: object,
        _option_string: str | None = None,
    ) -> None:
        """Store the constant text of the action, or the help page of the parser."""
        setattr(namespace, self.dest, self.const or parser.format_help())


def grouped_options() -> dict[str, list[Option]]:
    """Return the job's options in the order of the help page, by the titles of their groups."""
    by_name = {setting.name: setting for setting in OPTIONS}
    return {title: [by_name[name] for name in names.split()] for title, names in _GROUPS.items()}


def _add_job_options(parser: argparse.ArgumentParser, *, hidden: bool = False) -> None:
    """Add the codes and options of a run; the page of the parser does not list them if they are `hidden`."""
    codes = "codes, POP20, ALL, EVERY, a letter, or - for standard input"
    parser.add_argument("arguments", nargs="*", metavar="CODE", help=argparse.SUPPRESS if hidden else codes)
    switches: dict[str, dict[tuple[str, ...], str]] = {
        _MAIN_GROUP: {("--dry-run",): "show what would be done, send no request"},
        "codes": {("-a", "--all"): "every ISO 3166-1 code (ALL)", ("-e", "--every"): "AA to ZZ (EVERY)"},
        "log": {("-v", "--verbose"): "log every state of every item"},
    }
    for title, options in grouped_options().items():
        group = parser.add_argument_group(title)
        _add_options(group.add_argument, options, hidden=hidden)
        for flags, text in switches.get(title, {}).items():
            group.add_argument(*flags, action="store_true", help=argparse.SUPPRESS if hidden else text)


def _add_options(add: Callable[..., argparse.Action], options: Iterable[Option], *, hidden: bool = False) -> None:
    """Add options whose texts are parsed later, so that all faults are reported at once.

    `add` is the `add_argument` of a parser, or of one of its groups.
    """
    for setting in options:
        default = f" [{setting.default}]" if setting.default else ""
        text = f"{setting.help}{default}".replace("%", "%%")
        add(
            *setting.flags,
            setting.flag,
            dest=setting.name,
            metavar=setting.metavar,
            help=argparse.SUPPRESS if hidden else text,
        )


def _add_page_options(parser: argparse.ArgumentParser, *, hidden: bool = False) -> None:
    """Add --version, which the page does not list if it is `hidden`, and --help."""
    parser.add_argument(
        "--version",
        action=_PageAction,
        nargs=0,
        dest="page",
        default="",
        const=f"flagjob {__version__}\n",
        help=argparse.SUPPRESS if hidden else "print the version",
    )
    parser.add_argument("-h", "--help", action=_PageAction, nargs=0, dest="page", default="", help="print this page")


def describe_unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Return the problem of an unknown name, with the known name that was probably meant."""
    # All variables have the prefix in common, so it must not count as similarity.
    names = {other.removeprefix(PREFIX): other for other in sorted(known)}
    similar = difflib.get_close_matches(name.removeprefix(PREFIX), names, 1, _MINIMUM_SIMILARITY)
    suggestion = f"; did you mean {names[similar[0]]}?" if similar else ""
    return f"is not a known {kind}{suggestion}"
