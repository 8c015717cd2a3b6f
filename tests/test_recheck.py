"""FLAGJOB_RECHECK_AFTER over two weeks of nightly runs, by a clock that the test sets."""

from collections import Counter
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from images import numbered_gif
from inprocess import run_here
from mirror import mirror

pytestmark = pytest.mark.slow
CODES = [f"c{number}" for number in range(700)]


class Clock(datetime):
    """Stands for `datetime` where a run asks for the time."""

    instant = datetime(2026, 11, 22, 4, 17, tzinfo=UTC)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """Return the time that the test has set."""
        return cls.fromtimestamp(cls.instant.timestamp(), tz)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """Set the clock of decisions, of records and of the names of sets."""
    for module in ("job.downloader", "job.manifest.shard_manifest", "job.storage.generations"):
        monkeypatch.setattr(f"{module}.datetime", Clock)
    monkeypatch.setattr(Clock, "instant", Clock.instant)
    return Clock


@pytest.mark.parametrize("publish", ["each", "set"])
def test_each_code_is_asked_for_once_in_seven_nights(tmp_path: Path, clock: type[Clock], publish: str) -> None:
    """In 14 nights after a full run; no night asks for more than a fifth, a second run of a night for nothing."""
    table = tmp_path / "codes"
    table.write_text("\n".join(CODES), "ascii")
    settings = {"codes_file": str(table), "recheck_after": "7d", "publish": publish, "log_results": "problems"}
    nights: list[list[str]] = []
    with mirror({code: numbered_gif(number) for number, code in enumerate(CODES)}) as origin:

        def asked_in_a_run() -> list[str]:
            before = len(origin.server.requests)
            done = run_here(dest=tmp_path / "dest", url=origin.url, **settings)
            counts = done.summary["counts"]
            assert (done.code, counts["ok"] + counts["unchanged"]) == (0, len(CODES))
            return [request.target for request in origin.server.requests[before:]]

        assert len(asked_in_a_run()) == len(CODES)
        for _ in range(14):
            clock.instant += timedelta(days=1)
            nights.append(asked_in_a_run())
            assert asked_in_a_run() == []
        assert origin.asked(len(CODES)) == {"conditional": 2 * len(CODES), "plain": 0}
    assert max(map(len, nights)) <= len(CODES) / 5
    for first in range(8):
        week = Counter(target for night in nights[first : first + 7] for target in night)
        assert (len(week), set(week.values())) == (len(CODES), {1})
