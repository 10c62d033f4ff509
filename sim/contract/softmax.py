"""Softmax in the log domain: from logits to the codes of probabilities, without an exponential or a division.

Logits z are integers in units of log2, LOG_FRACTION_BITS fraction bits (log2(e) is in their scale). Per row:

    d   = max(z) - z                                      how many halvings below the largest
    sum = sum over keys of (EXP2[d mod 512] << 8) >> (d div 512)            terms below 2**-23 vanish
    g   = d + log2(sum) - log2(one)                       log2 of the sum by its leading one and a table
    code = how many thresholds are at or above g          -log2 of the probability against -log2 of thresholds

Everything is a sum of integers of one row, so the order of the keys changes no bit.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LOG_FRACTION_BITS: Final = 9
"""Fraction bits of logits: a step of 2**-9 changes a probability by 0.14 %."""

EXP2_FRACTION_BITS: Final = 15
"""EXP2 holds 2**-f for f in [0, 1): 16 bits."""

GUARD_BITS: Final = 8
"""Bits below EXP2 that terms of the sum keep, so that thousands of small ones still count."""

EXP2: Final[NDArray[np.int64]] = np.rint(np.exp2(EXP2_FRACTION_BITS - np.arange(512) / 512)).astype(np.int64)
LOG2: Final[NDArray[np.int64]] = np.rint(512 * np.log2(1 + (np.arange(512) + 0.5) / 512)).astype(np.int64)

LARGEST_DISTANCE: Final = 32 * 512
"""Distances are cut here, far below any threshold and any term."""

_TERM: Final[NDArray[np.int64]] = (EXP2[np.arange(LARGEST_DISTANCE + 1) & 511] << GUARD_BITS) >> (
    np.arange(LARGEST_DISTANCE + 1) >> LOG_FRACTION_BITS
)


def log2_of_sum(total: NDArray[np.int64]) -> NDArray[np.int64]:
    """512 * log2 of positive integers below 2**53, less that of a single largest term."""
    lead = np.frexp(total.astype(np.float64))[1].astype(np.int64) - 1
    mantissa = np.where(lead >= 9, total >> np.maximum(lead - 9, 0), total << np.maximum(9 - lead, 0)) & 511
    return ((lead - EXP2_FRACTION_BITS - GUARD_BITS) << LOG_FRACTION_BITS) + LOG2[mantissa]


def score_codes(logits: NDArray[np.int32], thresholds: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Codes uint8 (..., keys) of logits int32 (..., keys).

    thresholds: int32 (L - 1,), descending, -512 * log2 of the probability at which the next code begins.
    """
    distance = logits.max(axis=-1, keepdims=True) - logits
    np.minimum(distance, LARGEST_DISTANCE, out=distance)
    total = _TERM[distance].sum(axis=-1, keepdims=True)
    distance += log2_of_sum(total).astype(np.int32)
    # g ranges over less than 2**15 values, so the count of thresholds is a table.
    codes = np.searchsorted(np.sort(thresholds), np.arange(1 << 15), side="left")
    table = (thresholds.size - codes).astype(np.uint8)
    np.clip(distance, 0, (1 << 15) - 1, out=distance)
    return table[distance]


def log_thresholds(probabilities: NDArray[np.float64]) -> NDArray[np.int32]:
    """Thresholds of `score_codes` for ascending probabilities (L - 1,) at which the next code begins."""
    return np.floor(-512 * np.log2(np.maximum(probabilities, 2.0**-31))).astype(np.int32)
