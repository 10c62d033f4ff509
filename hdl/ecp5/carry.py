"""Carry chains that use all four inputs of the slice's look-up tables, and start without a cell of their own.

A CCU2C holds two bits. Each bit is a 16-entry table of (a, b, c, d), whose output is the propagate signal:
sum = propagate ^ carry in; carry out = carry in where propagate is 1, else entry 2b + a of the same table (its
c = d = 0 quarter). Synthesis maps additions with c and d idle and a constant carry into bit 0, for which place
and route spends another cell per chain. These components start a chain with a position that never propagates,
and put selections in front of an adder into the adder's own cells.
"""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Const, Elaboratable, Instance, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5

Table = Callable[[int, int, int, int], int]
"""Propagate signal of one bit as a function of (a, b, c, d)."""

CHAIN_START = "carry_chain_start"
CHAIN_END = "carry_chain_end"
"""Attributes of the first and the last cell of a chain, which OPEN_CHAIN_ENDS looks for."""

_PINS = "A0, B0, C0, D0, A1, B1, C1, D1"


def _reconnect(design: str, cin: str, cout: str) -> str:
    """Commands that store a map from CCU2C to CCU2C with other carry pins as the saved design `design`."""
    pins = ", ".join(f".{pin}({pin})" for pin in _PINS.split(", "))
    return f"""design -push
read_verilog <<EOT
(* techmap_celltype = "CCU2C" *)
module {design} (input CIN, {_PINS}, output S0, S1, COUT);
    parameter [15:0] INIT0 = 0;
    parameter [15:0] INIT1 = 0;
    parameter INJECT1_0 = "NO";
    parameter INJECT1_1 = "NO";
    CCU2C #(.INIT0(INIT0), .INIT1(INIT1), .INJECT1_0(INJECT1_0), .INJECT1_1(INJECT1_1))
        _TECHMAP_REPLACE_ (.CIN({cin}), {pins}, .S0(S0), .S1(S1), .COUT({cout}));
endmodule
EOT
design -stash {design}
design -pop
"""


OPEN_CHAIN_ENDS = (
    _reconnect("open_start", "1'bx", "COUT")
    + _reconnect("open_end", "CIN", "1'bx")
    + f"""techmap -max_iter 1 -map %open_start a:{CHAIN_START}
techmap -max_iter 1 -map %open_end a:{CHAIN_END}
"""
)
"""Yosys script lines for after `synth_ecp5`: leaves the outer carry pins of every chain of this module open.

Synthesis ties the first carry input to 0 and gives the last carry output a net, and nextpnr spends two look-up
tables on each to bring them from and to the fabric. No chain of this module needs either. The netlist is right
without these lines too, four look-up tables per chain larger.
"""

Position = tuple[Table, tuple[Any, Any, Any, Any]]
"""One bit of a chain: its table and what its four inputs connect to."""

ZERO = Const(0, 1)
ONE = Const(1, 1)


def table_bits(function: Table) -> Const:
    """INIT of one bit of a CCU2C: entry a + 2b + 4c + 8d holds function(a, b, c, d)."""
    bits = sum(function(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1) << i for i in range(16))
    return Const(bits, 16)


def carry_into_chain(value: Any) -> Position:
    """First position: carry `value` (a bit or a constant) into the next, whatever is to the left on the die."""
    return (lambda a, b, c, d: 0 if d else a), (value, ZERO, ZERO, ONE)


def generate_into_chain(a: Any, b: Any) -> Position:
    """First position: carry a & b into the next."""
    return (lambda a, b, c, d: 0 if d else a & b), (a, b, ZERO, ONE)


def carry_chain(m: Module, positions: list[Position]) -> list[Signal]:
    """Chain CCU2C cells over `positions`, lowest first; returns the sum bit of each.

    The first position must be one of `carry_into_chain` and `generate_into_chain`: nothing drives its carry.
    """
    idle: Position = carry_into_chain(ZERO)
    padded = positions + [idle] * (len(positions) % 2)
    sums = [Signal(name=f"sum{position}") for position in range(len(padded))]
    carry: Signal | None = None
    for low in range(0, len(padded), 2):
        connections: dict[str, Any] = {} if carry is None else {"i_CIN": carry}
        for half in (0, 1):
            function, inputs = padded[low + half]
            connections |= {f"p_INIT{half}": table_bits(function), f"p_INJECT1_{half}": "NO"}
            connections |= {f"i_{pin}{half}": value for pin, value in zip("ABCD", inputs, strict=True)}
            connections[f"o_S{half}"] = sums[low + half]
        last = low + 2 == len(padded)
        if carry is None:
            connections[f"a_{CHAIN_START}"] = 1
        if last:
            connections[f"a_{CHAIN_END}"] = 1
        else:
            carry = Signal(name=f"carry{low + 2}")
            connections["o_COUT"] = carry
        m.submodules[f"ccu2c{low // 2}"] = Instance("CCU2C", **connections)
    return sums[: len(positions)]


class SignedAdder(wiring.Component):
    """`o = a + b`, exact, one bit wider than its signed operands; combinational.

    On ECP5 width + 2 look-up tables for odd `width`, width + 2 as well for even ones (where the lowest sum bit
    is a table beside the chain, which saves an idle half cell).
    """

    def __init__(self, *, width: int) -> None:
        if width < 1:
            raise ValueError(f"width={width} must be at least 1; nearest valid value: 1")
        self._width = width
        super().__init__({"a": In(signed(width)), "b": In(signed(width)), "o": Out(signed(width + 1))})

    @staticmethod
    def model(a: int, b: int) -> int:
        """The sum."""
        return a + b

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or CCU2C cells."""
        m = Module()
        if not is_ecp5(platform):
            m.d.comb += self.o.eq(self.a + self.b)
            return m

        def add(a: int, b: int, c: int, d: int) -> int:
            return a ^ b if d else a

        operands = [(self.a[min(bit, self._width - 1)], self.b[min(bit, self._width - 1)]) for bit in self._sum_bits()]
        beside = self._width % 2 == 1
        positions = [generate_into_chain(*operands[0]) if beside else carry_into_chain(ZERO)]
        positions += [(add, (a, b, ZERO, ONE)) for a, b in operands[beside:]]
        sums = carry_chain(m, positions)[1:]
        if beside:
            sums.insert(0, operands[0][0] ^ operands[0][1])
        m.d.comb += [self.o[bit].eq(sums[bit]) for bit in self._sum_bits()]
        return m

    def _sum_bits(self) -> range:
        return range(self._width + 1)


class AddSubtract(wiring.Component):
    """`o[k] = a[k] + b[k]`, or `a[k] - b[k]` with `subtract`, for every lane k; combinational, modulo 2**width.

    b is signed. On ECP5 lanes * (width + 1) look-up tables, rounded up to even: inversion and carry for the
    subtraction cost none, and lanes share a chain so that an odd width + 1 wastes nothing in pairs.
    Raises ValueError when b_width is outside 2..width or lanes below 1.
    """

    def __init__(self, *, width: int, b_width: int, lanes: int = 1) -> None:
        if not 2 <= b_width <= width:
            raise ValueError(f"b_width={b_width} must be in 2..width={width}; nearest valid value: {width}")
        if lanes < 1:
            raise ValueError(f"lanes={lanes} must be at least 1; nearest valid value: 1")
        self._width, self._lanes = width, lanes
        super().__init__(
            {
                "a": In(data.ArrayLayout(unsigned(width), lanes)),
                "b": In(data.ArrayLayout(signed(b_width), lanes)),
                "subtract": In(1),
                "o": Out(data.ArrayLayout(unsigned(width), lanes)),
            }
        )

    @staticmethod
    def model(a: int, b: int, subtract: bool, width: int) -> int:
        """One lane's output for a in 0..2**width-1 and signed b."""
        return (a - b if subtract else a + b) % (1 << width)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth, or CCU2C cells."""
        m = Module()
        if not is_ecp5(platform):
            for lane in range(self._lanes):
                a, b = self.a[lane], self.b[lane]
                m.d.comb += self.o[lane].eq(Mux(self.subtract, a - b, a + b))
            return m

        def add_or_subtract(a: int, b: int, c: int, d: int) -> int:
            return a ^ b ^ c if d else a

        positions: list[Position] = []
        for lane in range(self._lanes):
            # Starts the lane's carry anew, whatever the lane before it ended with.
            positions.append(carry_into_chain(self.subtract))
            for bit in range(self._width):
                operand = self.b[lane][min(bit, len(self.b[lane]) - 1)]
                positions.append((add_or_subtract, (self.a[lane][bit], operand, self.subtract, ONE)))
        sums = iter(carry_chain(m, positions))
        for lane in range(self._lanes):
            next(sums)
            m.d.comb += [self.o[lane][bit].eq(next(sums)) for bit in range(self._width)]
        return m


class SelectAdd(wiring.Component):
    """`o = b + (a if select else c)`; combinational, modulo 2**width.

    On ECP5 width + 1 look-up tables, rounded up to even: the selection costs none of its own.
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

        positions = [carry_into_chain(ZERO)]
        positions += [(propagate, (self.a[bit], self.b[bit], self.c[bit], self.select)) for bit in range(self._width)]
        sums = carry_chain(m, positions)
        m.d.comb += [self.o[bit].eq(sums[bit + 1]) for bit in range(self._width)]
        return m


class RoundSaturate(wiring.Component):
    """`o = a + carry`, or the end of the range with `saturate`: `negative` picks -2**(width-1), else 2**(width-1)-1.

    Combinational; the caller raises no `carry` together with `saturate`, nor at a = 2**(width-1)-1.
    On ECP5 width + 1 look-up tables, rounded up to even: increment and selection share cells.
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

        def keep_or_limit(a: int, b: int, c: int, d: int) -> int:
            return (b if c else a) if d else 0

        positions = [carry_into_chain(self.carry)]
        for bit in range(self._width):
            limit = self.negative if bit == top else ~self.negative
            positions.append((keep_or_limit, (self.a[bit], limit, self.saturate, ONE)))
        sums = carry_chain(m, positions)
        m.d.comb += [self.o[bit].eq(sums[bit + 1]) for bit in range(self._width)]
        return m
