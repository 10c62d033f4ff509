"""Nested loops in hardware: counters whose ends are registers, so that a step is decided in one cycle."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.parameters import require


class Loops(wiring.Component):
    """Loops of `counts`[0] steps within `counts`[1] rounds and so on, each at least 1; the innermost is number 0.

    `start` takes the counts; the first step may follow in the next cycle. `step` goes on to the next one. In the cycle
    of a step, bit k of `first` says that loop k is in its first round, bit k of `last` that it is in its last, and bit
    k of `ends` that all loops from 0 to k are: the step ends a round of loop k + 1. After the last step of all, the
    loops are at their beginning again.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, limits: list[int]) -> None:
        """limits: largest count of each loop."""
        require("loops", len(limits), range(1, 9), "in 1..8")
        self._limits = limits
        shapes = {f"loop{number}": range(limit + 1) for number, limit in enumerate(limits)}
        super().__init__(
            {
                "start": In(1),
                "counts": In(data.StructLayout(shapes)),
                "step": In(1),
                "first": Out(unsigned(len(limits))),
                "last": Out(unsigned(len(limits))),
                "ends": Out(unsigned(len(limits))),
            }
        )

    @staticmethod
    def model(counts: list[int]) -> list[tuple[list[bool], list[bool]]]:
        """(first, last) of every loop, step by step."""
        steps: list[tuple[list[bool], list[bool]]] = [([], [])]
        for count in reversed(counts):
            steps = [
                ([number == 0, *first], [number == count - 1, *last])
                for first, last in steps
                for number in range(count)
            ]
        return steps

    def elaborate(self, platform: Any) -> Elaboratable:
        """Each loop counts what is left and notes one step ahead that nothing will be."""
        m = Module()
        inner: Any = 1
        for number, limit in enumerate(self._limits):
            count = self.counts[f"loop{number}"]
            others, left = (
                Signal(range(max(limit, 2)), name=f"{name}{number}", reset_less=True) for name in ("others", "left")
            )
            single, first, last = (
                Signal(name=f"{name}{number}", reset_less=True) for name in ("single", "first", "last")
            )
            with m.If(self.start):
                m.d.sync += [
                    others.eq(count - 1),
                    left.eq(count - 1),
                    single.eq(count == 1),
                    last.eq(count == 1),
                    first.eq(1),
                ]
            with m.Elif(self.step & inner):
                m.d.sync += [
                    left.eq(Mux(last, others, left - 1)),
                    last.eq(Mux(last, single, left == 1)),
                    first.eq(last),
                ]
            inner = inner & last
            m.d.comb += [self.first[number].eq(first), self.last[number].eq(last), self.ends[number].eq(inner)]
        return m
