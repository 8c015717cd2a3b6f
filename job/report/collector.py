"""Collector: what the page of a run needs of its results, gathered on the main thread in bounded memory."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job.manifest import Change
from job.model import Result, Status, Stored
from job.report.pictures import MAX_PICTURE_BYTES, MAX_PICTURES_BYTES, may_be_picture, read_picture
from job.report.recorder import AttemptRecorder, ItemTimes

_EXAMPLES = 10
"""How many items of a reason are named: the first ones."""
_MOST_CHANGES = 200
"""How many files of each kind of change are named."""
_MOST_CARDS = 500
"""How many files may have a card in the gallery, of each of two kinds: those that came, and those that stayed."""
_MOST_FAILURE_CARDS = 100
_MOST_TIMES = 1500
"""How many items may be drawn; beyond that every second one is left out, then every second of the rest, and so on."""
_MOST_FAILED_TIMES = 500
"""Of these, how many may be there because an attempt failed, whatever their number."""
_OLD_PICTURES_BYTES = 128 * 1024
_MOST_INTERVALS = 240
_FIRST_INTERVAL_SECONDS = 0.05
_SLOWEST = 10


@dataclass(slots=True)
class ReasonGroup:
    """The items that are neither ok nor unchanged for one reason."""

    count: int = 0
    examples: list[Result] = field(default_factory=list)


@dataclass(slots=True)
class ChangedFile:
    """A file that is new, changed or gone."""

    kind: Change
    code: str
    stored: Stored
    old_picture: bytes | None = None


@dataclass(slots=True)
class Card:
    """What the gallery shows of an item."""

    result: Result
    change: Change | None = None
    stored: Stored | None = None
    """The file that is there: also one that the origin has no more."""
    picture: bytes | None = None
    is_omitted: bool = False
    """It is, or may be, a picture that is not embedded."""


@dataclass(slots=True)
class Intervals:
    """Numbers of results by status, in intervals of time that all become twice as long when they are too many."""

    seconds: float = _FIRST_INTERVAL_SECONDS
    counts: list[dict[Status, int]] = field(default_factory=list)

    def add(self, time: float, status: Status) -> None:
        """Count a result at a time, in seconds since the run began."""
        while time >= self.seconds * _MOST_INTERVALS:
            pairs = zip(self.counts[::2], [*self.counts[1::2], {}], strict=False)
            self.counts = [_sum(first, second) for first, second in pairs]
            self.seconds *= 2
        index = int(time / self.seconds)
        while len(self.counts) <= index:
            self.counts.append({})
        self.counts[index][status] = self.counts[index].get(status, 0) + 1


def _sum(first: dict[Status, int], second: dict[Status, int]) -> dict[Status, int]:
    return {status: first.get(status, 0) + second.get(status, 0) for status in {**first, **second}}


@dataclass(slots=True)
class DrawnItems:
    """A sample of items with their times: those with a failed attempt first, the others evenly from all of the run."""

    items: list[tuple[int, ItemTimes]] = field(default_factory=list)
    failed: list[ItemTimes] = field(default_factory=list)
    attempts: int = 0
    """How many attempts there were, drawn or not."""
    stride: int = 1
    """One of so many items without a failed attempt is kept."""
    _seen: int = 0

    def add(self, times: ItemTimes) -> None:
        """Take an item into the sample, or only count its attempts."""
        self.attempts += len(times.attempts)
        is_failed = any(attempt.reason for attempt in times.attempts)
        if is_failed and len(self.failed) < _MOST_FAILED_TIMES:
            self.failed.append(times)
            return
        self._seen += 1
        if self._seen % self.stride:
            return
        self.items.append((self._seen, times))
        if len(self.items) > _MOST_TIMES:
            self.stride *= 2
            self.items = [(number, kept) for number, kept in self.items if number % self.stride == 0]

    def in_order(self) -> list[ItemTimes]:
        """Return the sample in the order in which the items began."""
        return sorted([*self.failed, *(times for _, times in self.items)], key=lambda times: times.began)


class Collector:
    """Gathers the results of a run for its page. For the main thread only.

    Memory: four bytes an item, and a few MB for what has a limit.
    """

    def __init__(self, recorder: AttemptRecorder, previous: Callable[[], Path | None] = lambda: None) -> None:
        """Take the recorder of attempts, and what returns the directory of the set that this run may replace."""
        self.recorder = recorder
        self.reasons: dict[str, ReasonGroup] = {}
        self.intervals = Intervals()
        self.seconds = array("f")
        """How long each item took that was attempted."""
        self.slowest: list[tuple[float, Result]] = []
        """The items that took the most seconds, the slowest first."""
        self.drawn = DrawnItems()
        self.changes: dict[Change, list[ChangedFile]] = {Change.NEW: [], Change.CHANGED: [], Change.GONE: []}
        self.came: list[Card] = []
        self.stayed: list[Card] = []
        self.failed: list[Card] = []
        """Items without a file of this run; one that the origin has no more may still be there."""
        self.stored = 0
        """How many items have a file."""
        self._previous = previous
        self._old_bytes = 0
        self._changes_of_batch: dict[str, ChangedFile] = {}

    def add_change(self, change: Change, code: str, stored: Stored, old: Stored | None) -> None:
        """Take a change, before the result that made it."""
        changed = ChangedFile(change, code, stored)
        self._changes_of_batch[code] = changed
        if len(self.changes[change]) < _MOST_CHANGES:
            self.changes[change].append(changed)
            if change is Change.CHANGED:
                changed.old_picture = self._read_old_picture(old)

    def add(self, results: Sequence[Result]) -> None:
        """Take a batch of results."""
        for result in results:
            self._add_times(result)
            if result.status is not Status.OK and result.status is not Status.UNCHANGED:
                self._add_reason(result)
            self._add_card(result)
        self._changes_of_batch.clear()

    def _add_times(self, result: Result) -> None:
        times = self.recorder.take(result.code)
        self.intervals.add(times.ended if times else self.recorder.now(), result.status)
        if times and times.attempts:
            self.drawn.add(times)
            self._add_seconds(times.ended - times.began, result)

    def _add_seconds(self, seconds: float, result: Result) -> None:
        self.seconds.append(seconds)
        if len(self.slowest) < _SLOWEST or seconds > self.slowest[-1][0]:
            self.slowest.append((seconds, result))
            self.slowest.sort(key=lambda slow: -slow[0])
            del self.slowest[_SLOWEST:]

    def _add_reason(self, result: Result) -> None:
        group = self.reasons.setdefault(str(result.reason or result.status), ReasonGroup())
        group.count += 1
        if len(group.examples) < _EXAMPLES:
            group.examples.append(result)

    def _add_card(self, result: Result) -> None:
        """Keep what the gallery may show of an item, as long as there is room for its kind."""
        changed = self._changes_of_batch.get(result.code)
        stored = result.data or (changed.stored if changed else None)
        if stored:
            self.stored += 1
        cards = self.failed
        if result.data:
            cards = self.came if result.status is Status.OK else self.stayed
        if len(cards) < (_MOST_FAILURE_CARDS if cards is self.failed else _MOST_CARDS):
            cards.append(Card(result, changed.kind if changed else None, stored))

    def read_pictures(self, root: Path | None) -> None:
        """Read the pictures that are embedded, from the directory of the files; from a bucket none is read."""
        cards = [card for card in [*self.came, *self.failed, *self.stayed] if card.stored]
        left = MAX_PICTURES_BYTES
        for card in cards:
            stored = card.stored
            if stored is None or not may_be_picture(stored.path, stored.content_type):
                continue
            if root is None or stored.bytes > min(left, MAX_PICTURE_BYTES):
                card.is_omitted = True
                continue
            card.picture = read_picture(root / stored.path, min(left, MAX_PICTURE_BYTES))
            left -= len(card.picture or b"")

    def _read_old_picture(self, old: Stored | None) -> bytes | None:
        """Return the picture that a changed file was in the set before, as long as there is room for it."""
        previous = self._previous()
        if previous is None or old is None or self._old_bytes + old.bytes > _OLD_PICTURES_BYTES:
            return None
        picture = read_picture(previous / old.path, MAX_PICTURE_BYTES)
        self._old_bytes += len(picture or b"")
        return picture
