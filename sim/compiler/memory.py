"""Room for tensors and codes: taken where there is a gap, given back after the last reader."""

from typing import Final

ALIGNMENT: Final = 64
"""Of every block, in bytes."""


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class RoomError(Exception):
    """A memory of a given size has no gap that is large enough."""


class Allocator:
    """Blocks of one memory from address `base` on; `peak` is the end of the highest block there ever was, less base.

    size: of the memory, None where that is checked in the end.
    """

    def __init__(self, base: int = 0, size: int | None = None) -> None:
        self._blocks: dict[int, int] = {}
        self._base, self._size = base, size
        self.peak = 0

    def take(self, size: int) -> int:
        """Address of a block of `size` bytes: the smallest gap that holds it. Raises RoomError where none does."""
        size = aligned(max(size, 1))
        fitting = [(gap, start) for start, gap in self._gaps() if gap is not None and gap >= size]
        start, gap = self._gaps()[-1]
        if fitting:
            start = min(fitting)[1]
        elif gap is not None:
            raise RoomError(f"there is no room for {size} bytes")
        self._blocks[start] = size
        self.peak = max(self.peak, start + size - self._base)
        return start

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
