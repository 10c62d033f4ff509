"""Residual unit: the sum of two wide tensors of different exponents, rounded once and saturated."""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.carry import SelectAdd
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.finish import Finish
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from sim.contract.constants import WIDE_BITS
from sim.contract.residual import Residual
from sim.contract.wide import Wide
from sim.machine.settings import DISTANCE_MAX

LANES_MAX: Final = 32

ALIGNED_BITS: Final = WIDE_BITS + 2 * DISTANCE_MAX
TOTAL_BITS: Final = ALIGNED_BITS + 1


class ResidualAdd(wiring.Component):
    """o = i_first * 2^e1 + i_second * 2^e2, in steps of the result, rounded half to even and saturated to 16 bits.

    Bit for bit sim.contract.residual.Residual. A transfer of `o` takes one of `i_first` and one of `i_second`, in the
    same cycle. `i_setting` sets the places e1 + 16 and e2 + 16, each 0..32, for every value after it: it waits until
    all results before it have been taken, and values wait for it.

    Both inputs are brought to 16 fraction bits of the result by a multiplication with a power of two (the idle
    multipliers are the shifters), so rounding always cuts at the same place.

    Throughput: one transfer per cycle. Latency from both inputs to `o`: `LATENCY` = 8 cycles.

    lanes: values per transfer, 1..32. Per lane: two MULT18X18D. Raises ValueError when it is out of range.
    """

    TOTAL_STAGE = RegisteredMultiplier.LATENCY + 2
    FINISHED_STAGE = TOTAL_STAGE + Finish.LATENCY
    LATENCY = FINISHED_STAGE + 1

    def __init__(self, *, lanes: int = 8) -> None:
        self.lanes = require("lanes", lanes, range(1, LANES_MAX + 1), f"in 1..{LANES_MAX}")
        values = data.ArrayLayout(signed(WIDE_BITS), lanes)
        places = range(2 * DISTANCE_MAX + 1)
        super().__init__(
            {
                "i_setting": In(stream.Signature(data.StructLayout({"first": places, "second": places}))),
                "i_first": In(stream.Signature(values)),
                "i_second": In(stream.Signature(values)),
                "o": Out(stream.Signature(values)),
            }
        )

    @staticmethod
    def model(residual: Residual, first: NDArray[np.int16], second: NDArray[np.int16]) -> NDArray[np.int16]:
        """Results of the same shape as both inputs."""
        return residual.run(Wide(first, residual.first_exponent), Wide(second, residual.second_exponent)).values

    @staticmethod
    def setting(residual: Residual) -> dict[str, int]:
        """The transfer of `i_setting` for an operation."""
        return {
            "first": residual.first_exponent - residual.wide_exponent + DISTANCE_MAX,
            "second": residual.second_exponent - residual.wide_exponent + DISTANCE_MAX,
        }

    def elaborate(self, platform: Any) -> Elaboratable:
        """Multiply by 2^0..2^16, add sixteen more places where the setting asks for them, sum, finish."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.LATENCY + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        open_ = Signal()
        accepted = Signal()
        m.d.comb += [
            open_.eq(fifo.o_room & ~self.i_setting.valid),
            accepted.eq(open_ & self.i_first.valid & self.i_second.valid),
            self.i_first.ready.eq(open_ & self.i_second.valid),
            self.i_second.ready.eq(open_ & self.i_first.valid),
            self.i_setting.ready.eq(fifo.o_empty),
            fifo.spend.eq(accepted),
            fifo.store.eq(delay(m, accepted, self.FINISHED_STAGE, "accepted", reset_less=False)),
        ]
        first_factor, first_far = self._factor(m, self.i_setting.payload.first, "first")
        second_factor, second_far = self._factor(m, self.i_setting.payload.second, "second")
        for lane in range(self.lanes):
            m.submodules[f"first{lane}"] = first = RegisteredMultiplier()
            m.submodules[f"second{lane}"] = second = RegisteredMultiplier()
            m.submodules[f"adder{lane}"] = adder = SelectAdd(width=TOTAL_BITS)
            m.submodules[f"finish{lane}"] = finish = Finish()
            product = Signal(signed(ALIGNED_BITS - DISTANCE_MAX), name=f"product{lane}", reset_less=True)
            aligned = Signal(signed(ALIGNED_BITS), name=f"aligned{lane}", reset_less=True)
            total = Signal(signed(TOTAL_BITS), name=f"total{lane}", reset_less=True)
            m.d.comb += [
                first.a.eq(self.i_first.payload[lane]),
                first.b.eq(first_factor),
                second.a.eq(self.i_second.payload[lane]),
                second.b.eq(second_factor),
                # The other choice of places costs the first operand nothing: it is in the adder's own cells.
                adder.a.eq(product << DISTANCE_MAX),
                adder.c.eq(product),
                adder.select.eq(first_far),
                adder.b.eq(aligned),
            ]
            m.d.sync += [
                product.eq(first.o),
                aligned.eq(Mux(second_far, second.o << DISTANCE_MAX, second.o)),
                total.eq(adder.o),
            ]
            half, below, floor = (
                total[DISTANCE_MAX - 1],
                total[: DISTANCE_MAX - 1],
                total[DISTANCE_MAX:],
            )
            top = floor[WIDE_BITS - 1 :]  # all equal when the floor fits
            m.d.comb += [
                finish.floor.eq(floor),
                finish.up.eq(half & (floor[0] | below.any())),
                finish.over.eq(top.any() & ~top.all()),
                finish.negative.eq(total[-1]),
                fifo.word[lane].eq(finish.o),
            ]
        return m

    def _factor(self, m: Module, places: Signal, name: str) -> tuple[Signal, Signal]:
        """(power of two for the multiplier, whether sixteen more places follow), kept from a transfer on."""
        factor = Signal(DISTANCE_MAX + 1, name=f"{name}_factor", init=1, reset_less=True)
        far = Signal(name=f"{name}_far", reset_less=True)
        with m.If(self.i_setting.valid & self.i_setting.ready):
            m.d.sync += [
                factor.eq(Const(1, 1) << Cat(places[:4], places[5])),
                far.eq(places[4] | places[5]),
            ]
        return factor, far
