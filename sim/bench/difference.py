"""Where two sets of wide results differ, in bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLACES_SHOWN = 8


@dataclass(frozen=True)
class Difference:
    """How far measured results are from the expected ones.

    differing_bits: bits that differ. outputs: results compared. places: (token, column) of every result that differs.
    """

    differing_bits: int
    outputs: int
    places: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        shown = ", ".join(f"token {token} column {column}" for token, column in self.places[:PLACES_SHOWN])
        more = f" and {len(self.places) - PLACES_SHOWN} more" if len(self.places) > PLACES_SHOWN else ""
        return f"{self.differing_bits} bits of {self.outputs} outputs differ" + (f": {shown}{more}" if shown else "")


def compare(measured: NDArray[np.int16], expected: NDArray[np.int16]) -> Difference:
    """Compare wide results int16 (tokens, N). Raises ValueError when shapes or types differ."""
    if measured.shape != expected.shape or measured.dtype != np.int16 or expected.dtype != np.int16:
        raise ValueError(
            f"results are {measured.dtype} {measured.shape}, expected were {expected.dtype} {expected.shape}"
        )
    different = measured.view(np.uint16) ^ expected.view(np.uint16)
    places = tuple((int(token), int(column)) for token, column in np.argwhere(different))
    return Difference(int(np.bitwise_count(different).sum()), measured.size, places)
