"""Where lines begin, by key: a hash table in two arrays, for which a dict would take six times the memory."""

from array import array

_NEVER, _FORGOTTEN = 0, 1
"""No line that is indexed begins there: a file begins with its header."""
_FIRST_SLOTS = 1024


class Index:
    """Offsets by keys of 64 bits that are hashes, so evenly spread. Memory: 24 to 48 bytes an entry.

    Written by one thread, read by any: a reader sees a whole table, with or without the entry that is just written.
    """

    def __init__(self) -> None:
        self._table = _empty(_FIRST_SLOTS)
        self._used = 0  # slots that were ever taken, which a search must pass
        self._entries = 0

    def __len__(self) -> int:
        return self._entries

    def get(self, key: int) -> int | None:
        """Return the offset of a key."""
        _, offsets = table = self._table
        offset = offsets[_slot(table, key)]
        return offset if offset > _FORGOTTEN else None

    def put(self, key: int, offset: int) -> None:
        """Set the offset, above 1, of a key."""
        if 3 * (self._used + 1) > 2 * len(self._table[0]):
            self._grow()
        keys, offsets = self._table
        slot = _slot(self._table, key)
        self._used += offsets[slot] == _NEVER
        self._entries += offsets[slot] <= _FORGOTTEN
        keys[slot], offsets[slot] = key, offset

    def remove(self, key: int) -> None:
        """Forget a key, if it is known."""
        _, offsets = self._table
        slot = _slot(self._table, key)
        if offsets[slot] > _FORGOTTEN:
            offsets[slot] = _FORGOTTEN
            self._entries -= 1

    def _grow(self) -> None:
        """Make room in a new table, which takes the place of the old one when it is complete."""
        old = self._table
        new = _empty(len(old[0]) * (2 if 3 * self._entries > len(old[0]) else 1))
        for key, offset in zip(*old, strict=True):
            if offset > _FORGOTTEN:
                slot = _slot(new, key)
                new[0][slot], new[1][slot] = key, offset
        self._table, self._used = new, self._entries


_Table = tuple["array[int]", "array[int]"]


def _empty(slots: int) -> _Table:
    return array("Q", bytes(8 * slots)), array("Q", bytes(8 * slots))


def _slot(table: _Table, key: int) -> int:
    """Return where a key is, or else where it would go: slots are tried one after the other."""
    keys, offsets = table
    mask = len(keys) - 1
    slot = key & mask
    while offsets[slot] != _NEVER and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot
