"""Widths and limits that software and hardware share (all integer, two's complement where signed)."""

from typing import Final

TILE_CHANNELS: Final = 64
"""Input channels per K tile: one activation codebook and one scale per (tile, output) each."""

CODES: Final = 16
"""Codes of a 4-bit operand: the address space of one look-up table."""

LEVEL_MAX: Final = 15
"""Codebook levels are integers in [-LEVEL_MAX, LEVEL_MAX]."""

WEIGHT_MIN: Final = -8
WEIGHT_MAX: Final = 7
"""Weights are signed 4-bit integers in [WEIGHT_MIN, WEIGHT_MAX]."""

PRODUCT_BITS: Final = 8
"""Signed width of weight * level: |-8 * 15| = 120."""

SCALE_BITS: Final = 16
"""Unsigned width of the scale of one (K tile, output)."""

SCALE_FRACTION_BITS: Final = 10
"""Fraction bits of a scale: a product step is worth up to 64 steps of the wide result, so its 16 bits are used."""

BIAS_BITS: Final = 32
"""Signed width of a bias."""

BIAS_FRACTION_BITS: Final = 8
"""Fraction bits of a bias, below the least significant bit of the wide result."""

ACCUMULATOR_BITS: Final = 36
"""Signed width of an accumulator: one word of an ECP5 block RAM (512 x 36)."""

WIDE_BITS: Final = 16
"""Signed width of a wide result (residual stream, pre-LayerNorm, pre-GELU, logits)."""
