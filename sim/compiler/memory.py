"""Room for tensors and codes: taken where there is a gap, given back after the last reader."""

from typing import Final

ALIGNMENT: Final = 64
"""Of every block, in bytes."""


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Allocator:
    """Blocks of one memory that begins at 0; `peak` is the end of the highest block there ever was."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self.peak = 0

    def take(self, size: int) -> int:
        """Address of a block of `size` bytes: the smallest gap that holds it."""
        size = aligned(max(size, 1))
        best: tuple[int, int] | None = None
        end = 0
        for start in sorted(self._blocks):
            gap = start - end
            if gap >= size and (best is None or gap < best[0]):
                best = gap, end
            end = start + self._blocks[start]
        address = end if best is None else best[1]
        self._blocks[address] = size
        self.peak = max(self.peak, address + size)
        return address

    def free(self, address: int) -> None:
        """Give a block back. Raises KeyError when there is none at this address."""
        del self._blocks[address]

    @property
    def taken(self) -> int:
        """Bytes of all blocks that are in use."""
        return sum(self._blocks.values())
