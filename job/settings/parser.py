"""The command line's grammar, and the page that --help prints."""

import argparse
from collections.abc import Iterable
from typing import NoReturn

from job.errors import Fault, UsageError
from job.settings.option import Option


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its complaint instead of ending the process."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {usage}",
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            add_help=False,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with what argparse would print."""
        raise UsageError(Fault("arguments", None, message))


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """The same page from every Python: `-l, --limit N`, as 3.13 prints it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=80)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar)
        names = ", ".join(action.option_strings)
        return names if action.nargs == 0 else f"{names} {action.metavar}"


def add_options(parser: Parser, options: Iterable[Option]) -> None:
    """Add an option for each row; its text is parsed later, so that all faults can be told at once."""
    for option in options:
        shown = option.help + (f" [{option.default}]" if option.default else "")
        parser.add_argument(
            *option.flags, option.flag, dest=option.name, metavar=option.metavar, help=shown.replace("%", "%%")
        )
