"""Values of the fields of records, and sizes that no preset changes, for hardware, compiler and executor."""

from enum import IntEnum
from typing import Final


class Phase(IntEnum):
    """What an ARRAY_COMMAND does (hdl.attention)."""

    SCORES = 0
    MIX = 1
    DENSE = 2


class PositionKind(IntEnum):
    """Where a POSITION_COMMAND takes the biases from."""

    NONE = 0
    STATIC = 1
    DECOMPOSED = 2


SCORE_PLANES: Final = 3
"""Nibbles of a level of P, as SCORE_LEVEL has them: rows of thousands of keys need levels up to 4,095."""

TOKEN_BEATS_MAX: Final = 512
"""Beats of the longest token in front of the encoder."""

DISTANCE_MAX: Final = 16
"""The most by which exponents of a sum differ. RESIDUAL_SETTING holds an operand's less the result's, plus this."""

MAP_ROWS_MAX: Final = 1024
"""Of a map of the depthwise unit."""

MAP_COLUMNS_MIN: Final = 3
"""A column of a line buffer must be stored before the next row reads it."""

TAPS: Final = 9
"""Of a depthwise convolution."""
