"""How much processor time a process uses while it should only wait."""

import threading
import time
from pathlib import Path

MAX_BUSY_SHARE = 0.02
"""Of a second of waiting, the part that may be processor time."""


def processor_seconds(pid: int) -> float:
    """Return the time on a processor of all threads of a process (Documentation/scheduler/sched-stats)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


def busy_share(pid: int, seconds: float) -> float:
    """Return which part of a span of time a process uses a processor."""
    began = time.monotonic()
    before = processor_seconds(pid)
    threading.Event().wait(seconds)
    return (processor_seconds(pid) - before) / (time.monotonic() - began)
