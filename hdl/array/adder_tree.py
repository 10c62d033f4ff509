"""A pipelined tree of signed additions."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.carry import SignedAdder


class AdderTree(wiring.Component):
    """o = sum of i, exact: signed(width + ceil(log2(inputs))).

    Latency `latency` = ceil(log2(inputs)) cycles (a register per level), one sum per cycle. Without reset: a sum
    is garbage until its inputs were not.
    Raises ValueError when inputs or width is below 1.
    """

    def __init__(self, *, inputs: int, width: int) -> None:
        for name, value in (("inputs", inputs), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1; nearest valid value: 1")
        self._inputs = inputs
        self._width = width
        self.latency = (inputs - 1).bit_length()
        super().__init__(
            {
                "i": In(data.ArrayLayout(signed(width), inputs)),
                "o": Out(signed(width + self.latency)),
            }
        )

    @staticmethod
    def model(values: list[int]) -> int:
        """The sum that appears `latency` cycles later."""
        return sum(values)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Neighbours add up; an odd one out is only delayed."""
        m = Module()
        level: list[Any] = [self.i[index] for index in range(self._inputs)]
        for depth in range(1, self.latency + 1):
            sums = []
            for index in range(0, len(level), 2):
                node = Signal(signed(self._width + depth), name=f"sum{depth}_{index // 2}", reset_less=True)
                sums.append(node)
                if index + 1 == len(level):
                    m.d.sync += node.eq(level[index])
                    continue
                m.submodules[f"adder{depth}_{index // 2}"] = adder = SignedAdder(width=self._width + depth - 1)
                m.d.comb += [adder.a.eq(level[index]), adder.b.eq(level[index + 1])]
                m.d.sync += node.eq(adder.o)
            level = sums
        m.d.comb += self.o.eq(level[0])
        return m
