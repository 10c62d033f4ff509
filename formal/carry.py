"""hdl.ecp5.carry: what the carry-chain cells compute, by their simulation model, for all operands."""

from functools import partial
from typing import Any

from amaranth.hdl import Mux

from formal.ecp5 import CELL_MODELS, OPEN_PINS
from formal.proof import Mode, Proof
from formal.statement import Statement
from hdl.array.loader import LANES_PER_CHAIN, WEIGHT_BITS
from hdl.ecp5.carry import AddSubtract, RoundSaturate, SelectAdd, SignedAdder
from hdl.ecp5.platform import Ecp5Target
from hdl.layer_norm.token_sums import SQUARES_BITS
from sim.contract.constants import ACCUMULATOR_BITS, PRODUCT_BITS, WIDE_BITS


def write_signed_adder(s: Statement, width: int) -> None:
    """One bit more than the operands, so nothing is cut off."""
    adder = SignedAdder(width=width)
    s.unit(adder)
    a, b = (s.drive(port, name).as_signed() for port, name in ((adder.a, "a"), (adder.b, "b")))
    s.always(adder.o == a + b)
    s.reach(adder.o == -(1 << width))


def write_add_subtract(s: Statement) -> None:
    """Each lane on its own, as the loader's running adders have them."""
    adder = AddSubtract(width=PRODUCT_BITS, b_width=WEIGHT_BITS, lanes=LANES_PER_CHAIN)
    s.unit(adder)
    s.drive(adder.a, "a")
    s.drive(adder.b, "b")
    subtract = s.drive(adder.subtract, "subtract")
    for lane in range(LANES_PER_CHAIN):
        a, b = adder.a[lane], adder.b[lane]
        expected = Mux(subtract, a - b, a + b)
        s.always(adder.o[lane] == expected[:PRODUCT_BITS])
    s.reach(subtract & (adder.o[0] == 0x80) & (adder.o[1] == 1) & (adder.b[1] < 0))


def write_select_add(s: Statement, width: int) -> None:
    """Modulo 2**width."""
    adder = SelectAdd(width=width)
    s.unit(adder)
    a, b, c = (s.drive(port, name) for port, name in ((adder.a, "a"), (adder.b, "b"), (adder.c, "c")))
    select = s.drive(adder.select, "select")
    s.always(adder.o == (b + Mux(select, a, c))[:width])
    s.reach(select & (b == (1 << width) - 1) & (adder.o == 1))


def write_round_saturate(s: Statement) -> None:
    """What the caller promises, and the result in signed arithmetic."""
    unit = RoundSaturate(width=WIDE_BITS)
    s.unit(unit)
    a = s.drive(unit.a, "a").as_signed()
    carry, saturate, negative = (s.drive(getattr(unit, port), port) for port in ("carry", "saturate", "negative"))
    low, high = -(1 << (WIDE_BITS - 1)), (1 << (WIDE_BITS - 1)) - 1
    s.assume(~(carry & (saturate | (a == high))))
    s.always(unit.o.as_signed() == Mux(saturate, Mux(negative, low, high), a + carry))
    s.reach(saturate & negative)
    s.reach(carry & (a == -1))


def _proof(name: str, says: str, write: Any, assumes: str = "Nothing.") -> Proof:
    return Proof(
        name=name,
        says=f"{says} In CCU2C cells, by their simulation model, for all operands, whatever comes into the open start "
        "of the chain.",
        assumes=assumes,
        write=write,
        mode=Mode.INDUCTION,
        depth=1,
        reach_depth=1,
        platform=Ecp5Target(),
        prepare=CELL_MODELS,
        refine=OPEN_PINS,
    )


PROOFS = (
    *(
        _proof(f"signed_adder_{width}", f"a + b of {width} bits, exact.", partial(write_signed_adder, width=width))
        for width in (PRODUCT_BITS, PRODUCT_BITS + 1)
    ),
    _proof("add_subtract", "a + b or a - b modulo 2**8 in both lanes of a chain.", write_add_subtract),
    *(
        _proof(f"select_add_{width}", f"b + (a or c) modulo 2**{width}.", partial(write_select_add, width=width))
        for width in (ACCUMULATOR_BITS, SQUARES_BITS)
    ),
    _proof(
        "round_saturate",
        "a + carry, or the end of the range.",
        write_round_saturate,
        "No carry together with `saturate`, nor at the upper end (Finish keeps to it: see finish_ecp5).",
    ),
)
