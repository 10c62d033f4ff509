"""Carry chains that use all four inputs of the slice's look-up tables.

A CCU2C holds two bits. Each bit is a 16-entry table of (a, b, c, d), whose output is the propagate signal;
when it is 0 the carry out is entry b*2 + a of the same table (its c = d = 0 quarter). Synthesis maps additions
to it with c and d idle; these components put a selection in front of the adder into the same cells.
"""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Const, Elaboratable, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5

Table = Callable[[int, int, int, int], int]
"""Propagate signal of one bit as a function of (a, b, c, d)."""


def table_bits(function: Table) -> Const:
    """INIT of one bit of a CCU2C: entry a + 2b + 4c + 8d holds function(a, b, c, d)."""
    bits = sum(function(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1) << i for i in range(16))
    return Const(bits, 16)


def carry_chain(m: Module, name: str, carry: Any, bits: list[tuple[Table, tuple[Any, Any, Any, Any]]]) -> list[Signal]:
    """Chain CCU2C cells over `bits` (table, inputs), from bit 0 up; returns the sum bits.

    `carry` enters bit 0 and should be constant: anything else costs a cell of its own.
    """
    idle: tuple[Table, tuple[Any, Any, Any, Any]] = (lambda a, b, c, d: 0, (Const(0), Const(0), Const(0), Const(0)))
    padded = bits + [idle] * (len(bits) % 2)
    sums = [Signal(name=f"{name}_s{bit}") for bit in range(len(padded))]
    for low in range(0, len(padded), 2):
        carry_out = Signal(name=f"{name}_c{low + 2}")
        connections: dict[str, Any] = {"i_CIN": carry, "o_COUT": carry_out}
        for half in (0, 1):
            function, inputs = padded[low + half]
            connections |= {f"p_INIT{half}": table_bits(function), f"p_INJECT1_{half}": "NO"}
            connections |= {f"i_{pin}{half}": value for pin, value in zip("ABCD", inputs, strict=True)}
            connections[f"o_S{half}"] = sums[low + half]
        m.submodules[f"{name}_{low}"] = Instance("CCU2C", **connections)
        carry = carry_out
    return sums[: len(bits)]


class AddSubtract(wiring.Component):
    """`o = a + b`, or `a - b` with `subtract`; combinational, modulo 2**width; b is sign-extended.

    On ECP5 width + 1 look-up tables: bit 0 of a sum and of a difference agree, so position 0 of the chain only
    makes the carry (or borrow) into bit 1, from three inputs, and no cell is spent on a carry input.
    """

    def __init__(self, *, width: int, b_width: int) -> None:
        if not 2 <= b_width <= width:
            raise ValueError(f"b_width {b_width} must be in 2..width={width}; nearest valid: {width}")
        self._width = width
        super().__init__({"a": In(width), "b": In(b_width), "subtract": In(1), "o": Out(width)})

    def model(self, a: int, b: int, subtract: bool) -> int:
        """The output for a in 0..2**width-1 and signed b."""
        return (a - b if subtract else a + b) % (1 << self._width)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or CCU2C cells."""
        m = Module()
        if not is_ecp5(platform):
            b = self.b.as_signed()
            m.d.comb += self.o.eq(self.a.as_signed() + Mux(self.subtract, ~b, b) + self.subtract)
            return m
        one = Const(1, 1)

        def first_carry(a: int, b: int, c: int, d: int) -> int:
            carry = (a | (1 - b)) if c else (a & b)
            return 1 - carry if d else 1

        def full(a: int, b: int, c: int, d: int) -> int:
            return a ^ b ^ c if d else a

        bits: list[Any] = [(first_carry, (self.a[0], self.b[0], self.subtract, one))]
        for bit in range(1, self._width):
            operand = self.b[min(bit, len(self.b) - 1)]
            bits.append((full, (self.a[bit], operand, self.subtract, one)))
        sums = carry_chain(m, "chain", Const(0, 1), bits)
        m.d.comb += self.o[0].eq(self.a[0] ^ self.b[0])
        m.d.comb += [self.o[bit].eq(sums[bit]) for bit in range(1, self._width)]
        return m


class SelectAdd(wiring.Component):
    """`o = b + (a if select else c)`; combinational, modulo 2**width.

    On ECP5 `width` look-up tables: the selection costs none of its own.
    """

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"width {width} must be at least 1; nearest valid: 1")
        self._width = width
        super().__init__({"a": In(width), "b": In(width), "c": In(width), "select": In(1), "o": Out(width)})

    def model(self, a: int, b: int, c: int, select: bool) -> int:
        """The output for operands in 0..2**width-1."""
        return (b + (a if select else c)) % (1 << self._width)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or CCU2C cells."""
        m = Module()
        if not is_ecp5(platform):
            m.d.comb += self.o.eq(self.b + Mux(self.select, self.a, self.c))
            return m

        def propagate(a: int, b: int, c: int, d: int) -> int:
            return b ^ (a if d else c)

        bits: list[Any] = [
            (propagate, (self.a[bit], self.b[bit], self.c[bit], self.select)) for bit in range(self._width)
        ]
        sums = carry_chain(m, "chain", Const(0, 1), bits)
        m.d.comb += [self.o[bit].eq(sums[bit]) for bit in range(self._width)]
        return m


class RoundSaturate(wiring.Component):
    """`o = a + carry`, or the end of the range with `saturate`: `negative` picks -2**(width-1), else 2**(width-1)-1.

    Combinational; the caller raises no `carry` together with `saturate`, nor at a = 2**(width-1)-1.
    On ECP5 `width` look-up tables and one cell for the carry: increment and selection share cells.
    """

    def __init__(self, *, width: int) -> None:
        if width < 2:
            raise ValueError(f"width {width} must be at least 2; nearest valid: 2")
        self._width = width
        super().__init__({"a": In(width), "carry": In(1), "saturate": In(1), "negative": In(1), "o": Out(width)})

    def model(self, a: int, carry: bool, saturate: bool, negative: bool) -> int:
        """The output for a in 0..2**width-1."""
        if saturate:
            return 1 << (self._width - 1) if negative else (1 << (self._width - 1)) - 1
        return (a + carry) % (1 << self._width)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or CCU2C cells."""
        m = Module()
        top = self._width - 1
        if not is_ecp5(platform):
            limit = Mux(self.negative, 1 << top, (1 << top) - 1)
            m.d.comb += self.o.eq(Mux(self.saturate, limit, self.a + self.carry))
            return m
        one = Const(1, 1)

        def carry_in(a: int, b: int, c: int, d: int) -> int:
            return 1 - a if d else 1

        def keep_or_limit(a: int, b: int, c: int, d: int) -> int:
            return (b if c else a) if d else 0

        bits: list[Any] = [(carry_in, (self.carry, one, one, one))]
        for bit in range(self._width):
            limit = self.negative if bit == top else ~self.negative
            bits.append((keep_or_limit, (self.a[bit], limit, self.saturate, one)))
        sums = carry_chain(m, "chain", Const(0, 1), bits)
        m.d.comb += [self.o[bit].eq(sums[bit + 1]) for bit in range(self._width)]
        return m
