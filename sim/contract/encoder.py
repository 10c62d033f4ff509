"""Wide numbers to codes: one multiply, one add, one shift and one table of 512 entries per K tile.

For channel position p of K tile t, which reads channel permutation[p] of the wide input x:

    index = clamp((x * multiplier[p] + addend[p]) >> shift[t], 0, 511)
    level = the level of tile t nearest to (index + 1/2) / 2 - 128
    code  = its rank among sixteen levels (a nibble), or level + 128 (a byte, two nibbles) where there are more

An index is a half step of a level, and thresholds between whole levels are multiples of half a level, so the
table is exact. Zero points, per-channel gains and the step of the input are all inside multiplier and addend.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.checks import expect_array, expect_exponents
from sim.contract.constants import CODES, TILE_CHANNELS
from sim.contract.errors import UserError
from sim.contract.wide import Wide

ENCODER_INDICES: Final = 512
"""Entries of the table from half steps to codes."""

LEVEL_ZERO: Final = 128
"""Byte that stands for level 0."""

ADDEND_LIMIT: Final = (1 << 30) - 1
"""With |x * multiplier| <= 2**30 the sum stays within 32 bits."""

LEVEL_COUNTS: Final = (16, 32, 64, 248, 256)
"""Levels of codes of 4, 5, 6 and 8 bits; 248 where they become stationary operands, which end at 119."""


def half_step_table(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Code of each half step: uint8 (512,) for ascending distinct `levels` int8 (L,), L of LEVEL_COUNTS."""
    level = levels.astype(np.int64)
    thresholds = level[1:] + level[:-1] + 2 * LEVEL_ZERO
    rank = np.searchsorted(thresholds, np.arange(ENCODER_INDICES), side="right")
    return (rank if level.size == CODES else level[rank] + LEVEL_ZERO).astype(np.uint8)


def half_steps(
    values: NDArray[np.int16],
    multiplier: NDArray[np.int32],
    addend: NDArray[np.int32],
    shift: int | NDArray[np.int32],
) -> NDArray[np.int32]:
    """Indices int32 of a table of half steps for wide values; the parameters broadcast against the values."""
    index = values.astype(np.int32)
    index *= multiplier
    index += addend
    index >>= shift
    np.clip(index, 0, ENCODER_INDICES - 1, out=index)
    return index


@dataclass(frozen=True)
class Encoder:
    """How the wide input of an operation becomes codes. C channels, T = ceil(C / 64) tiles.

    name: of the operation, for messages. input_exponent: of the wide input. permutation: uint16 (C,), position p
    reads channel permutation[p]. multiplier: int16 (C,); addend: int32 (C,), within ADDEND_LIMIT; both by position.
    shift: uint8 (T,), 0..30, so that tiles of very different scale keep their precision. levels: int8 (1 or T, L),
    ascending rows, L of LEVEL_COUNTS; one row serves all tiles. Raises UserError when a shape, dtype or range is off.
    """

    name: str
    input_exponent: int
    permutation: NDArray[np.uint16]
    multiplier: NDArray[np.int16]
    addend: NDArray[np.int32]
    shift: NDArray[np.uint8]
    levels: NDArray[np.int8]

    def __post_init__(self) -> None:
        expect_exponents(self.name, input_exponent=self.input_exponent)
        if self.permutation.ndim != 1 or not self.permutation.size:
            raise UserError(f"{self.name}: permutation must be a list of channels; export the model again")
        expect_array(self.name, "permutation", self.permutation, (self.channels,), np.uint16)
        expect_array(self.name, "shift", self.shift, (self.tiles,), np.uint8, limit=30)
        expect_array(self.name, "multiplier", self.multiplier, (self.channels,), np.int16, limit=(1 << 15) - 1)
        expect_array(self.name, "addend", self.addend, (self.channels,), np.int32, limit=ADDEND_LIMIT)
        if not np.array_equal(np.sort(self.permutation), np.arange(self.channels)):
            raise UserError(f"{self.name}: permutation does not name each of the {self.channels} channels once")
        if self.levels.ndim != 2 or self.levels.shape[0] not in (1, self.tiles):
            raise UserError(f"{self.name}: {self.levels.shape} levels for {self.tiles} K tiles; export the model again")
        if self.levels.dtype != np.int8 or self.levels.shape[1] not in LEVEL_COUNTS:
            raise UserError(f"{self.name}: levels must be int8, {LEVEL_COUNTS} of them; export the model again")
        if not (np.diff(self.levels.astype(np.int64), axis=1) > 0).all():
            raise UserError(f"{self.name}: levels must be distinct and ascending; export the model again")

    @property
    def channels(self) -> int:
        """C."""
        return int(self.permutation.shape[0])

    @property
    def tiles(self) -> int:
        """T."""
        return -(-self.channels // TILE_CHANNELS)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return int(self.levels.shape[1] - 1).bit_length()

    @property
    def code_planes(self) -> int:
        """Nibbles of a code: 1 for sixteen levels, else 2."""
        return 1 if self.levels.shape[1] == CODES else 2

    def tile_slices(self) -> list[slice]:
        """Permuted positions of every K tile; the last one may be shorter."""
        return [slice(at, min(at + TILE_CHANNELS, self.channels)) for at in range(0, self.channels, TILE_CHANNELS)]

    def tile_levels(self, tile: int) -> NDArray[np.int8]:
        """Levels (L,) of a tile."""
        row: NDArray[np.int8] = self.levels[tile if self.levels.shape[0] > 1 else 0]
        return row

    @cached_property
    def _tables(self) -> NDArray[np.uint8]:
        return np.stack([half_step_table(row) for row in self.levels])

    def encode(self, x: Wide) -> NDArray[np.uint8]:
        """Codes uint8 (..., C) in permuted order of wide inputs (..., C) in channel order.

        Raises ValueError when the input has another width or exponent than the encoder was made for.
        """
        if x.values.shape[-1] != self.channels or x.exponent != self.input_exponent:
            raise ValueError(
                f"{self.name}: expected (..., {self.channels}) at exponent {self.input_exponent}, "
                f"found {x.values.shape} at {x.exponent}"
            )
        codes = np.empty(x.values.shape, np.uint8)
        multiplier, addend = self.multiplier.astype(np.int32), self.addend
        for tile, positions in enumerate(self.tile_slices()):
            values = x.values[..., self.permutation[positions]]
            index = half_steps(values, multiplier[positions], addend[positions], int(self.shift[tile]))
            codes[..., positions] = self._tables[tile if len(self._tables) > 1 else 0][index]
        return codes

    def level(self, codes: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Levels int16 (..., C) that codes (..., C) in permuted order stand for."""
        if self.code_planes == 2:
            return codes.astype(np.int16) - LEVEL_ZERO
        result = np.empty(codes.shape, np.int16)
        for tile, positions in enumerate(self.tile_slices()):
            result[..., positions] = self.tile_levels(tile).astype(np.int16)[codes[..., positions]]
        return result
