"""May a request to the origin start now: its pace, its pauses, and whether it is there at all."""

from job.gate.shared import Gate, News, Ticket

__all__ = ["Gate", "News", "Ticket"]
