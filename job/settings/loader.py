"""Arguments, environment and secret files to Settings, or every fault at once."""

import argparse
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from job import redaction
from job.errors import Fault, UsageError
from job.settings import checks
from job.settings.checks import Given
from job.settings.option import PREFIX, Option
from job.settings.options import OPTIONS, Settings
from job.settings.parser import Parser, add_options

_DESCRIPTION = "Downloads a list of codes x a URL template into whole, accepted files."
_EPILOG = """\
Every option with a value is a variable, too: --max-bytes is FLAGJOB_MAX_BYTES;
options win. Codes come from the arguments, else from FLAGJOB_CODES or
FLAGJOB_CODES_FILE, else they are POP20, the twenty most populous countries.

exit codes: 0 all well, or within the budgets; 1 a bug; 2 usage; 3 failures that
a later run may heal; 4 failures that none will heal; 5 storage or local limits;
6 origin down; 7 deadline; 130 SIGINT; 143 SIGTERM
"""
_INJECTED = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST=.*|SERVICE_PORT(?:_\w+)?=[0-9]+|PORT=(?:tcp|udp|sctp)://.*"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.*)",
    re.ASCII,
)
"""What Kubernetes adds for each Service ("Accessing the Service"); one may be called flagjob or flagjob-metrics."""
_ALIKE = 0.65
"""How much of two names must be the same, as difflib counts it: ULR is URL, but USER_PASS is not USER_AGENT."""
_DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a run; raise UsageError with every fault that was found.

    Reads files that settings name, and changes nothing. `argv` is without the program and the command.
    """
    return _Reader(argv, environ).settings()


def help_text() -> str:
    """Return what --help prints, 80 columns wide."""
    return _parser().format_help()


def _parser() -> Parser:
    parser = Parser("flagjob", "[run] [OPTION ...] [CODE ...]", _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "arguments", nargs="*", metavar="CODE", help="codes, POP20, ALL, EVERY, a letter, or - for stdin"
    )
    switches = {
        "all": "every ISO 3166-1 code (ALL)",
        "every": "AA to ZZ (EVERY)",
        "verbose": "log every state of every item",
    }
    for name, text in switches.items():
        parser.add_argument(f"-{name[0]}", f"--{name}", action="store_true", help=text)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, send no request")
    add_options(parser, OPTIONS)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("-h", "--help", action="store_true", help="print this page")
    return parser


class _Reader:
    """One reading: gathers faults as it goes, so that none hides another."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._faults: list[Fault] = []
        self._arguments = self._parsed(argv)
        self._given = {option.name: given for option in OPTIONS if (given := self._find(option))}

    def settings(self) -> Settings:
        parsed: dict[str, Any] = {option.name: self._value(option) for option in OPTIONS}
        parsed["termination_log"] = parsed["termination_log"] or checks.existing(_DEFAULT_TERMINATION_LOG)
        sound = {name: given for name, given in self._given.items() if parsed[name] is not None}
        headers, header_faults = checks.secret_headers(sound.get("headers_file"))
        words = self._words()
        sums, sum_faults = checks.checksums(sound.get("checksums"))
        self._faults += [*checks.files(sound), *header_faults, *sum_faults, *checks.proxies(self._environ)]
        self._faults += [*checks.shards(self._given, parsed), *checks.sets(self._given, parsed), *checks.buckets(sound)]
        self._faults += checks.contradictions(self._given, has_arguments=bool(words))
        self._faults += [*checks.demonstration(self._given, self._environ), *_unknown_variables(self._environ)]
        if self._faults:
            raise UsageError(*self._faults)
        if words == ("-",):
            words, parsed["codes"], parsed["codes_file"] = (), None, "-"
        return Settings(
            arguments=words,
            dry_run=self._arguments.dry_run,
            verbose=self._arguments.verbose,
            secret_headers=headers,
            sums=sums,
            secrets=tuple(filter(None, checks.secrets(parsed, headers, self._environ))),
            changed=self._changed(),
            **parsed,
        )

    def _parsed(self, argv: Sequence[str]) -> argparse.Namespace:
        parser = _parser()
        end = argv.index("--") if "--" in argv else len(argv)  # Pythons differ in what they do with it
        try:
            arguments, unknown = parser.parse_known_intermixed_args(argv[:end])
        except UsageError as error:
            self._faults += error.faults
            return parser.parse_args([])
        if arguments.help:
            self._faults.append(Fault("-h", None, "must be written by itself, not together with other letters"))
        arguments.arguments = [*arguments.arguments, *argv[end + 1 :]]
        flags = [flag for option in OPTIONS for flag in (*option.flags, option.flag)]
        for word in unknown:
            name = redaction.printable(word.partition("=")[0])  # what follows may be a secret
            self._faults.append(Fault(name, None, _unknown("option", name, flags)))
        return arguments

    def _words(self) -> tuple[str, ...]:
        sets = [name for name, wanted in (("ALL", self._arguments.all), ("EVERY", self._arguments.every)) if wanted]
        words = (*sets, *map(redaction.printable, self._arguments.arguments))
        if "-" in words and len(words) > 1:
            problem = "must be the only argument: codes come from standard input or from the arguments"
            self._faults.append(Fault("-", None, problem))
        return words

    def _find(self, option: Option) -> Given | None:
        """Return the text of a setting: from its option, else its variables, else the file that holds the secret."""
        argument = getattr(self._arguments, option.name)
        if argument is not None:
            return Given(option.flag, argument)
        for variable in (option.variable, *option.also):
            if text := self._text(variable, option):
                return Given(variable, text)
        return self._secret(option) if option.secret else None

    def _text(self, variable: str, option: Option) -> str:
        """Return what a variable holds, without blanks at its ends: a line's end comes along easily."""
        text = self._environ.get(variable, "").strip()
        if not text and option.must_not_be_empty and variable in self._environ:
            problem = "is set but empty: give it a value, or do not set it"
            self._faults.append(Fault(variable, self._environ[variable], problem))
        return text

    def _secret(self, option: Option) -> Given | None:
        variable = f"{option.variable}_FILE"
        path = self._text(variable, option)
        if not path:
            return None
        try:
            return Given(variable, checks.secret_text(path).strip())
        except ValueError as error:
            self._faults.append(Fault(variable, redaction.path(path), str(error)))
            return None

    def _value(self, option: Option) -> object:
        given = self._given.get(option.name)
        if given is None:
            return option.parse(option.default) if option.default else option.empty
        try:
            return option.parse(given.text)
        except ValueError as error:
            self._faults.append(Fault(given.name, option.shown(given.text), str(error)))
            return None

    def _changed(self) -> dict[str, str]:
        given = ((option, self._given[option.name].text) for option in OPTIONS if option.name in self._given)
        return {option.name: option.shown(text) for option, text in given if text != option.default}


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Fault]:
    """Find names that no setting has: a misspelt one must not be silently without effect."""
    known = {option.variable for option in OPTIONS} | {f"{option.variable}_FILE" for option in OPTIONS if option.secret}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _INJECTED.fullmatch(f"{name}={environ[name]}"):
            yield Fault(redaction.printable(name), None, _unknown("setting", name, known))  # its value may be a secret


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    near = _near(name, known)
    return f"is no {kind} of flagjob" + (f"; did you mean {near}?" if near else "")


def _near(name: str, known: Collection[str]) -> str:
    """Return the name that was probably meant, or nothing; the prefix that variables share makes none alike."""
    names = {other.removeprefix(PREFIX): other for other in sorted(known)}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), names, 1, _ALIKE)
    return names[near[0]] if near else ""
