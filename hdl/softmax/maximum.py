"""The largest logit of a row, and the row's length in words."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.pipeline import delay
from hdl.softmax.geometry import LOGIT_BITS, SoftmaxGeometry


class RowMaximum(wiring.Component):
    """`maximum` and `words` of a row, marked by `o_valid`, `latency` cycles after its last word; one word per cycle.

    Latency: log2(lanes) + 1 cycles, a register per level of the tree and one for the running maximum.
    """

    def __init__(self, geometry: SoftmaxGeometry) -> None:
        self._geometry = geometry
        self.latency = geometry.tree_levels + 1
        super().__init__(
            {
                "i_valid": In(1),
                "last": In(1),
                "logits": In(data.ArrayLayout(unsigned(LOGIT_BITS), geometry.lanes)),
                "o_valid": Out(1),
                "maximum": Out(LOGIT_BITS),
                "words": Out(range(geometry.row_words + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A tree over the lanes, then one comparison with what the row has had so far."""
        m = Module()
        level: list[Any] = [self.logits[lane] for lane in range(self._geometry.lanes)]
        while len(level) > 1:
            larger: list[Any] = []
            for a, b in zip(level[::2], level[1::2], strict=True):
                node = Signal(LOGIT_BITS, name=f"larger{len(level)}_{len(larger)}", reset_less=True)
                m.d.sync += node.eq(Mux(a > b, a, b))
                larger.append(node)
            level = larger
        valid = delay(m, self.i_valid, self._geometry.tree_levels, "valid", reset_less=False)
        last = delay(m, self.last, self._geometry.tree_levels, "last")
        fresh = Signal(init=1)
        m.d.sync += self.o_valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += [
                fresh.eq(last),
                self.words.eq(Mux(fresh, 0, self.words) + 1),
            ]
            with m.If(fresh | (level[0] > self.maximum)):
                m.d.sync += self.maximum.eq(level[0])
        return m
