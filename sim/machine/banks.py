"""Memories for values that come in beats of one order and leave in beats of another."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

CACHED: Final = 1024


def banks_of(order: NDArray[np.integer], lanes: int) -> NDArray[np.int64]:
    """Bank 0..lanes-1, (positions,) int64, of the value at each position, position p holding channel order[p].

    Channels come and positions leave in beats of `lanes`; of each beat every value has a bank of its own, so that
    memories with one word a cycle are enough. Such banks exist for every permutation (a bipartite graph whose nodes
    all have d edges has d disjoint matchings: Koenig 1916). Found by halving: around every loop of values that share a
    beat alternately as they come and as they leave, every second one goes to the other half (Euler splits).

    order: a permutation of a whole number of beats. lanes: a power of two. Raises ValueError for anything else.
    """
    if lanes < 1 or lanes & (lanes - 1):
        raise ValueError(f"lanes={lanes} must be a power of two")
    order = np.asarray(order, np.int64)
    if order.size % lanes or not np.array_equal(np.sort(order), np.arange(order.size)):
        raise ValueError(f"an order of {order.size} positions must be a permutation of whole beats of {lanes}")
    return np.frombuffer(_banks(order.tobytes(), lanes), np.int64)


@lru_cache(CACHED)
def _banks(order: bytes, lanes: int) -> bytes:
    leaves_with = np.arange(len(order) // 8) // lanes
    comes_with = np.frombuffer(order, np.int64) // lanes
    banks = np.zeros_like(leaves_with)
    for _ in range(lanes.bit_length() - 1):
        # Values of one bank so far that share a beat are an even number: any pairs of them will do.
        pairs = [_pairs(banks, beat) for beat in (comes_with, leaves_with)]
        banks = 2 * banks + _halves(*pairs)
    return banks.tobytes()


def _pairs(banks: NDArray[np.int64], beat: NDArray[np.int64]) -> list[int]:
    """The partner of each value: another with the same bank and beat."""
    sorted_ = np.lexsort((beat, banks))
    partner = np.empty_like(banks)
    partner[sorted_[0::2]], partner[sorted_[1::2]] = sorted_[1::2], sorted_[0::2]
    return partner.tolist()


def _halves(first: list[int], second: list[int]) -> NDArray[np.int64]:
    """0 or 1 for each value, never the same as either of its partners'."""
    half = [-1] * len(first)
    for start in range(len(first)):
        value = start
        while half[value] < 0:
            half[value], half[first[value]] = 0, 1
            value = second[first[value]]
    return np.array(half)
