"""File table: the little that a run remembers of each file: its last line in the manifest, and the code that has it."""

from array import array
from collections.abc import Callable
from enum import Enum, auto
from hashlib import blake2b
from secrets import token_bytes
from struct import Struct
from threading import Lock

_DIGEST_BYTES = 16
_HALVES = Struct("QQ")
_Key = tuple[int, int]
"""The two halves of a digest. By accident two of a million files have one digest once in 10**26 lists."""

_OFFSET_MASK = (1 << 40) - 1
"""The lowest bits of a slot's word: where the last line of the file begins, in a manifest of at most a terabyte."""
_SEEN = 1 << 40
"""The bit that says that this run has the file in its list."""
_TAG_SHIFT = 41
_TAG_MASK = (1 << 23) - 1
"""The highest bits: a hash of the code that has the file, by which another code is noticed."""

_EMPTY = 0
_REMOVED = 1
"""A word of a slot without a file, and one whose file was removed. No line begins at byte 1: a header is before it."""
_FIRST_SLOTS = 1024

_Table = tuple["array[int]", "array[int]", "array[int]"]
"""Two halves of a key and a word, by slot; the number of slots is a power of two."""


class Claim(Enum):
    """What a run has to do with a code that it finds in its list."""

    FIRST = auto()
    """Download it: no code before had its file."""
    REPEATED = auto()
    """Pass over it: the same code was there before."""
    TAKEN = auto()
    """Refuse it: another code has its file."""


class FileTable:
    """A hash table from files to the offsets of their lines and the codes that claimed them; both may be missing.

    Memory: 36 to 72 bytes a file, up to 108 for a moment while it grows.

    Three arrays of machine integers instead of a dict, which takes four times the memory: it holds each key and each
    value as an object of its own. A digest with a random salt stands for a file, so the length of names does not matter
    and no list can be made to collide. A file whose slot is taken goes into the next free one (linear probing).

    Any thread may call any method. Methods that write take a lock: usually the main thread alone writes, but a thread
    that opens a manifest on a dead disk is abandoned, and may go on while the main thread lists what is cancelled.
    `offset_of` takes no lock, since many workers call it at once. A slot's key never changes once the slot has a word,
    the key is written before the word, and the arrays are replaced as a whole. So a reader sees a file as it was before
    a change, or as it is after the change, and never the word of another file.
    """

    def __init__(self, fold: Callable[[str], str] | None = None) -> None:
        """Take a function that returns the same text for names that are one file; None if no two names are."""
        self.fold = fold
        self._salt = token_bytes(_DIGEST_BYTES)
        self._lock = Lock()
        self._table = _empty_table(_FIRST_SLOTS)
        self._used_slots = 0  # including those of removed files, which a search must pass
        self._lines = 0

    @property
    def lines(self) -> int:
        """Return how many files have a line."""
        return self._lines

    def offset_of(self, file: str) -> int | None:
        """Return where the last line of a file begins, or None if it has none."""
        # The arrays are taken once: a writer may replace them at any moment.
        _, word = _search(self._table, self._key(file))
        offset = word & _OFFSET_MASK
        return offset if offset > _REMOVED else None

    def set_offset(self, file: str, offset: int) -> None:
        """Set where the last line of a file begins; it must be greater than 1."""
        key = self._key(file)
        with self._lock:
            slot, word = self._make_room(key)
            if word & _OFFSET_MASK <= _REMOVED:
                self._lines += 1
            self._write(slot, key, word & ~_OFFSET_MASK | offset)

    def remove_offset(self, file: str) -> None:
        """Forget the line of a file, if it has one; whether this run has the file in its list stays."""
        key = self._key(file)
        with self._lock:
            slot, word = _search(self._table, key)
            if word & _OFFSET_MASK > _REMOVED:
                self._lines -= 1
                # The slot keeps its key and is not empty, so that no search ends too early.
                self._write(slot, key, word & ~_OFFSET_MASK | _REMOVED)

    def claim(self, file: str, code: str) -> Claim:
        """Note that a code of this run's list has a file, and return what became of the code."""
        tag = hash(code) & _TAG_MASK
        key = self._key(file)
        with self._lock:
            slot, word = self._make_room(key)
            if not word & _SEEN:
                self._write(slot, key, word & _OFFSET_MASK | _SEEN | tag << _TAG_SHIFT)
                return Claim.FIRST
        return Claim.REPEATED if word >> _TAG_SHIFT == tag else Claim.TAKEN

    def _key(self, file: str) -> _Key:
        if self.fold is not None:
            file = self.fold(file)
        # Arguments that are not UTF-8 contain lone surrogates.
        data = file.encode("utf-8", "surrogatepass")
        low, high = _HALVES.unpack(blake2b(data, digest_size=_DIGEST_BYTES, salt=self._salt).digest())
        return low, high

    def _make_room(self, key: _Key) -> tuple[int, int]:
        """Return the slot and the word of a key, in a table that has room for one more."""
        if 3 * (self._used_slots + 1) > 2 * len(self._table[0]):  # at most two thirds, or searches become long
            self._rebuild()
        return _search(self._table, key)

    def _write(self, slot: int, key: _Key, word: int) -> None:
        lows, highs, words = self._table
        if words[slot] == _EMPTY:
            self._used_slots += 1
        # The key first: to readers a slot is empty until it has a word.
        lows[slot], highs[slot] = key
        words[slot] = word

    def _rebuild(self) -> None:
        """Copy all files to new arrays, twice as large if the old ones are more than a third full of files."""
        lows, highs, words = self._table
        files = len(words) - words.count(_EMPTY) - words.count(_REMOVED)
        is_crowded = 3 * files > len(words)
        new_table = _empty_table(len(words) * 2 if is_crowded else len(words))
        new_lows, new_highs, new_words = new_table
        for low, high, word in zip(lows, highs, words, strict=True):
            if word > _REMOVED:
                slot, _ = _search(new_table, (low, high))
                new_lows[slot] = low
                new_highs[slot] = high
                new_words[slot] = word
        # Last, and in one step: readers use the old arrays, which stay as they are, until the new ones are complete.
        self._table = new_table
        self._used_slots = files


def _empty_table(slots: int) -> _Table:
    lows = array("Q", [0]) * slots
    highs = array("Q", [0]) * slots
    words = array("Q", [_EMPTY]) * slots
    return lows, highs, words


def _search(table: _Table, key: _Key) -> tuple[int, int]:
    """Return the slot that holds a key, or else the empty slot where the key belongs, and the word of that slot."""
    lows, highs, words = table
    low, high = key
    last_slot = len(words) - 1  # all bits set, so that `&` is the remainder
    slot = low & last_slot
    # The word is read once, before the key: what was not empty then has its key.
    while word := words[slot]:
        if lows[slot] == low and highs[slot] == high:
            break
        slot = (slot + 1) & last_slot
    return slot, word
