"""Room for tensors and codes: taken where there is a gap, given back after the last reader.

An SDRAM turns the banks of its rows every 4 KB, four times (hdl.memory.sdram.address): two blocks whose starts are 4,
8 or 12 KB apart, or so much more than a multiple of 16 KB, never need two rows of one bank at the same place. At a
multiple of 16 KB they do at every place, and whoever goes through both at once, an addition, closes the other's row
with every beat. So large blocks begin at multiples of 4 KB, in turns.
"""

from typing import Final

ALIGNMENT: Final = 64
"""Of every block, in bytes."""

ROW: Final = 1024
"""Bytes of a row of a bank."""

BANKS: Final = 4

TURN: Final = BANKS * ROW
"""Bytes behind which the banks turn, and a block is large."""

ROUND: Final = BANKS * TURN
"""Bytes behind which banks repeat."""

_BANK: Final = [(row + row // BANKS) % BANKS for row in range(ROUND // ROW)]


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def shared(distance: int) -> float:
    """Share of places at which two blocks so many bytes apart need two rows of one bank."""
    rows, part = divmod(distance % ROUND, ROW)
    meeting = [sum(one == _BANK[(row + far) % len(_BANK)] for row, one in enumerate(_BANK)) for far in (rows, rows + 1)]
    return (meeting[0] * (ROW - part) + meeting[1] * part) / (ROW * len(_BANK))


class RoomError(Exception):
    """A memory of a given size has no gap that is large enough."""


class Allocator:
    """Blocks of one memory from address `base` on; `peak` is the end of the highest block there ever was, less base.

    size: of the memory, None where that is checked in the end. turned: its banks are an SDRAM's.
    """

    def __init__(self, base: int = 0, size: int | None = None, *, turned: bool = False) -> None:
        self._blocks: dict[int, int] = {}
        self._base, self._size, self._turned = base, size, turned
        self.peak = 0

    def take(self, size: int) -> int:
        """Address of a block of `size` bytes: the smallest gap that holds it. Raises RoomError where none does.

        Of a memory with banks: where it meets the fewest large blocks, at the cost of less than ROUND at the peak.
        """
        size = aligned(max(size, 1))
        places = [
            (start, gap)
            for begin, gap in self._gaps()
            for start in self._starts(begin, size)
            if gap is None or start + size <= begin + gap
        ]
        if not places:
            raise RoomError(f"there is no room for {size} bytes")
        least = min(self._growth(start, size) for start, _ in places)
        start, _ = min(
            (place for place in places if self._growth(place[0], size) < least + ROUND),
            key=lambda place: (self._met(place[0], size), place[1] is None, place[1] or 0, place[0]),
        )
        self._blocks[start] = size
        self.peak = max(self.peak, start + size - self._base)
        return start

    def _starts(self, begin: int, size: int) -> list[int]:
        """Places in a gap: its begin; for a large block the next of each turn."""
        if not self._turned or size < TURN:
            return [begin]
        return [begin, *(begin + (turn - begin) % ROUND for turn in range(0, ROUND, TURN))]

    def _growth(self, start: int, size: int) -> int:
        return max(0, start + size - self._base - self.peak)

    def _met(self, start: int, size: int) -> float:
        """Share of its places at which a block that starts here meets large ones in a bank, summed over these."""
        if not self._turned or size < TURN:
            return 0.0
        return sum(shared(start - one) for one, length in self._blocks.items() if length >= TURN)

    def _gaps(self) -> list[tuple[int, int | None]]:
        """(start, bytes) between blocks and behind the last, None for no end."""
        gaps: list[tuple[int, int | None]] = []
        end = self._base
        for start in sorted(self._blocks):
            gaps.append((end, start - end))
            end = start + self._blocks[start]
        return [*gaps, (end, None if self._size is None else self._base + self._size - end)]

    @property
    def room(self) -> int:
        """Bytes of the largest gap of a memory of a size."""
        return max(gap for _, gap in self._gaps() if gap is not None)

    def __contains__(self, address: int) -> bool:
        return address in self._blocks

    def free(self, address: int) -> None:
        """Give a block back. Raises KeyError when there is none at this address."""
        del self._blocks[address]
