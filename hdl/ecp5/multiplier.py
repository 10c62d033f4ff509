"""A signed 18 x 18 multiplier with all three ranks of its own registers."""

from typing import Any

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5

OPERAND_BITS = 18
"""Signed width of both operands of MULT18X18D."""


class RegisteredMultiplier(wiring.Component):
    """`o = a * b`, exact: one MULT18X18D on ECP5.

    Latency `LATENCY` = 3 cycles (input, pipeline and output register), one product per cycle. Synthesis moves
    no fabric register into the block, so the instance names its own; this is what lets it run faster than the
    fabric around it. The registers have no reset: a product is garbage until its operands were.
    """

    LATENCY = 3

    def __init__(self) -> None:
        operand = signed(OPERAND_BITS)
        super().__init__({"a": In(operand), "b": In(operand), "o": Out(signed(2 * OPERAND_BITS))})

    @staticmethod
    def model(a: int, b: int) -> int:
        """The product that appears LATENCY cycles after `a` and `b`."""
        return a * b

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or one MULT18X18D."""
        m = Module()
        if is_ecp5(platform):
            m.submodules.mult18x18d = self._instance()
            return m
        a = Signal(signed(OPERAND_BITS), reset_less=True)
        b = Signal(signed(OPERAND_BITS), reset_less=True)
        product = Signal(signed(2 * OPERAND_BITS), reset_less=True)
        output = Signal(signed(2 * OPERAND_BITS), reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(a * b), output.eq(product)]
        m.d.comb += self.o.eq(output)
        return m

    def _instance(self) -> Instance:
        """MULT18X18D with every register on CLK0, always enabled, never reset."""
        connections: dict[str, Any] = {}
        for rank in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT"):
            connections[f"p_REG_{rank}_CLK"] = "CLK0"
            connections[f"p_REG_{rank}_CE"] = "CE0"
            connections[f"p_REG_{rank}_RST"] = "RST0"
        for bit in range(OPERAND_BITS):
            connections[f"i_A{bit}"] = self.a.as_unsigned()[bit]
            connections[f"i_B{bit}"] = self.b.as_unsigned()[bit]
            connections[f"i_C{bit}"] = Const(0, 1)
        for bit in range(2 * OPERAND_BITS):
            connections[f"o_P{bit}"] = self.o.as_unsigned()[bit]
        for number in range(4):
            connections[f"i_CLK{number}"] = ClockSignal() if number == 0 else Const(0, 1)
            connections[f"i_CE{number}"] = Const(1, 1)
            connections[f"i_RST{number}"] = Const(0, 1)
        for name, value in {"SIGNEDA": 1, "SIGNEDB": 1, "SOURCEA": 0, "SOURCEB": 0}.items():
            connections[f"i_{name}"] = Const(value, 1)
        return Instance("MULT18X18D", **connections)
