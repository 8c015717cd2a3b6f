"""What a table of settings is made of: dataclass fields, each with all that people see of it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from job import redaction

T = TypeVar("T")
PREFIX = "FLAGJOB_"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting, as people see it."""

    name: str
    default: str | None
    """As its text would be, None for none."""
    parse: Callable[[str], object]
    help: str
    flags: tuple[str, ...]
    metavar: str
    secret: bool
    """`NAME_FILE` names a file that holds it."""
    shown: Callable[[str], str]
    """What of its text may be printed."""
    also: tuple[str, ...]
    """Other variables that may hold it, after its own."""
    must_not_be_empty: bool
    """Set but empty is a fault: what went missing must not turn into a default."""
    empty: object
    """Its value where neither text nor default is."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The long option."""
        return "--" + self.name.replace("_", "-")


def option(  # noqa: PLR0913  (a keyword an attribute of a row)
    parse: Callable[[str], T],
    default: str | None,
    text: str,
    *flags: str,
    metavar: str = "TEXT",
    secret: bool = False,
    shown: Callable[[str], str] = redaction.plain,
    also: tuple[str, ...] = (),
    must_not_be_empty: bool = False,
    empty: T | None = None,
) -> T:
    """Declare a field of a table; what it returns is of the type that the parser gives."""
    option = Option("", default, parse, text, flags, metavar, secret, shown, also, must_not_be_empty, empty)
    return cast("T", dataclasses.field(metadata={"row": option}))


def options_of(table: type) -> tuple[Option, ...]:
    """Return the rows of a dataclass whose fields were declared by `setting`, in their order."""
    fields = dataclasses.fields(table)
    return tuple(
        dataclasses.replace(cast("Option", field.metadata["row"]), name=field.name)
        for field in fields
        if "row" in field.metadata
    )
