"""Text to an ordered stream of unique, safe work items; named sets."""

from job.codes.items import select
from job.codes.sets import ALL, POP20
from job.codes.source import Interruptible, Word, expand, read

__all__ = ["ALL", "POP20", "Interruptible", "Word", "expand", "read", "select"]
