"""May a request to the origin start now: its pace, its pauses, and whether it is there at all."""

from job.gate.parts import Limits, News, Ticket
from job.gate.shared import Gate

__all__ = ["Gate", "Limits", "News", "Ticket"]
