"""How many thresholds are at or above a score: a binary search, one bit of the code per step."""

from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.distributed_ram import WORDS, DistributedRam
from hdl.pipeline import delay
from hdl.softmax.geometry import SCORE_BITS, SoftmaxGeometry


def threshold_words(thresholds: NDArray[np.integer], code_bits: int) -> NDArray[np.int64]:
    """What threshold memory holds for codes 1 .. 2**code_bits - 1, int64 (2**code_bits - 1,).

    thresholds: integers (n,), descending, n < 2**code_bits; with fewer, higher codes never occur. A score is in
    1 .. 2**15 - 1, so what lies outside 0 .. 2**15 - 1 may move to the nearer end.
    Raises ValueError when they ascend or are too many.
    """
    room = (1 << code_bits) - 1
    if thresholds.ndim != 1 or thresholds.size > room:
        raise ValueError(f"thresholds of shape {thresholds.shape} must be a row of at most {room}")
    if (np.diff(thresholds.astype(np.int64)) > 0).any():
        raise ValueError("thresholds must descend")
    words = np.zeros(room, np.int64)
    words[: thresholds.size] = np.clip(thresholds, 0, (1 << SCORE_BITS) - 1)
    return words


def step_cycles(level: int) -> int:
    """Cycles of the step that decides the bit number `level` from the top, among 2**level thresholds.

    Up to sixteen are read and compared in one cycle; more lie in block RAM.
    """
    return 1 if 1 << level <= WORDS else BlockRam.LATENCY + 1


class ThresholdSearch(wiring.Component):
    """`codes` of `scores`, `latency(code_bits)` cycles later: 4, 5, 8 or 14 for 4, 5, 6 or 8 bits; one word per cycle.

    A threshold written in a cycle (`write_enable`) counts for scores of the second cycle after it and later.
    """

    def __init__(self, geometry: SoftmaxGeometry) -> None:
        self._geometry = geometry
        super().__init__(
            {
                "write_enable": In(1),
                "write": In(geometry.threshold_layout),
                "scores": In(data.ArrayLayout(unsigned(SCORE_BITS), geometry.lanes)),
                "codes": Out(data.ArrayLayout(unsigned(geometry.code_bits), geometry.lanes)),
            }
        )

    @staticmethod
    def latency(code_bits: int) -> int:
        """Cycles from a score to its code."""
        return sum(step_cycles(level) for level in range(code_bits))

    def elaborate(self, platform: Any) -> Elaboratable:
        """A threshold memory per level of the search and lane: codes with the same lowest one share a level."""
        m = Module()
        bits = self._geometry.code_bits
        code, threshold = Signal(bits, reset_less=True), Signal(SCORE_BITS, reset_less=True)
        enables = Signal(bits)  # by level
        m.d.sync += [code.eq(self.write.code), threshold.eq(self.write.threshold)]
        for level in range(bits):
            place = bits - 1 - level
            here = self.write.code[place] & ~self.write.code[:place].any()
            m.d.sync += enables[level].eq(self.write_enable & here)
        middle = Signal(SCORE_BITS, reset_less=True)
        with m.If(enables[0]):
            m.d.sync += middle.eq(threshold)
        for lane in range(self._geometry.lanes):
            score: Any = self.scores[lane]
            found: Any = Signal(0, name=f"found{lane}_0")
            for level in range(bits):
                read: Any = middle
                if level:
                    ram: Any
                    if 1 << level <= WORDS:
                        ram = DistributedRam(width=SCORE_BITS)
                    else:
                        ram = BlockRam(width=SCORE_BITS, depth=1 << level)
                    m.submodules[f"thresholds{lane}_{level}"] = ram
                    m.d.comb += [
                        ram.write_enable.eq(enables[level]),
                        ram.write_address.eq(code[bits - level :]),
                        ram.write_data.eq(threshold),
                        ram.read_address.eq(found),
                    ]
                    read = ram.read_data
                wait = step_cycles(level) - 1
                score = delay(m, score, wait, f"score{lane}_{level}_wait")
                found = delay(m, found, wait, f"found{lane}_{level}_wait")
                longer = Signal(level + 1, name=f"found{lane}_{level + 1}", reset_less=True)
                m.d.sync += longer.eq(Cat(read >= score, found))
                score = delay(m, score, 1, f"score{lane}_{level}")
                found = longer
            m.d.comb += self.codes[lane].eq(found)
        return m
