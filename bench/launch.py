"""Start commands together, wait for all of them and print what they used, as JSON.

This is a process of its own because the peak memory of a child begins with that of the process it was started from, and
the driver is larger than some of the clients. It imports little, for the same reason.
"""

import json
import os
import signal
import sys
import time


def _spawn(command: dict[str, object], number: int) -> int:
    """Start one command with its output in files of the working directory; return its process ID."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    argv: list[str] = command["argv"]  # type: ignore[assignment]  # what measure.py writes
    environment: dict[str, str] = command["env"]  # type: ignore[assignment]  # the same
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, f"stdout.{number}", flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, f"stderr.{number}", flags, 0o600),
    ]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions)


def main() -> None:
    """Read a JSON list of commands from standard input and run them at the same time."""
    commands = json.load(sys.stdin)
    ended = []
    begin = time.monotonic()
    for number, command in enumerate(commands):
        _spawn(command, number)
    for _ in commands:
        _, status, usage = os.wait4(-1, 0)
        ended.append((os.waitstatus_to_exitcode(status), usage))
    wall = time.monotonic() - begin
    report = {
        "wall_seconds": wall,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for _, usage in ended),
        "switches": sum(usage.ru_nvcsw + usage.ru_nivcsw for _, usage in ended),
        "rss_bytes": sum(usage.ru_maxrss * 1024 for _, usage in ended),
        "exit_codes": [code for code, _ in ended],
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        # measure.py made this process the leader of a group that holds nothing but what was started here.
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os.killpg(os.getpgrp(), signal.SIGKILL)
