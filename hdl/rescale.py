"""Group rescale: the sum of a K tile times its scale, accumulated per token, rounded at the end."""

from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.carry import SelectAdd
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.finish import Finish
from hdl.pipeline import chain, delay
from sim.contract.constants import (
    ACCUMULATOR_BITS,
    BIAS_BITS,
    BIAS_FRACTION_BITS,
    SCALE_BITS,
    SCALE_FRACTION_BITS,
    WIDE_BITS,
)
from sim.contract.linear import add_pass, finish

BIAS_SHIFT = SCALE_FRACTION_BITS - BIAS_FRACTION_BITS
"""Places between the least significant bits of the accumulator and of a bias."""

ACCUMULATE_STAGE = RegisteredMultiplier.LATENCY
"""Cycles from a sum to its product: when the old accumulator (or the bias) must be there."""

STORE_STAGE = ACCUMULATE_STAGE + 1
"""Cycles from a sum to the accumulator register, whose value is stored in the same cycle."""

REVISIT_DISTANCE = STORE_STAGE + 1 - (ACCUMULATE_STAGE - BlockRam.LATENCY)
"""Least cycles between two sums for one token: the first must be stored before the second's read starts."""


def control_layout(geometry: ArrayGeometry) -> data.StructLayout:
    """What travels beside the sums: a token's sum (valid), or the moment to take new scales and biases."""
    return data.StructLayout(
        {
            "valid": unsigned(1),
            "first": unsigned(1),  # start from the bias, not from token memory
            "last": unsigned(1),  # emit the rounded result
            "token": range(geometry.token_depth),
            "take_scale": unsigned(1),
            "take_bias": unsigned(1),
        }
    )


class GroupRescale(wiring.Component):
    """Per token and column: acc += scale * sum, from bias << BIAS_SHIFT with `first`; then
    wide = saturate16(round_half_even(acc / 2^SCALE_FRACTION_BITS)).

    `control` in cycle t belongs to the sums of column group 0 in cycle t and of group j in cycle t + j. The wide
    results of a `last` token appear on group j's columns of `wide` in cycle t + `LATENCY` + j; `o_valid` marks
    group 0's. One token per cycle. Two sums of the same token must be REVISIT_DISTANCE = 4 cycles apart.
    The accumulator is stored for every valid token, `last` or not.

    A transfer on i_scale (i_bias) happens once per take_scale (take_bias), column_groups - 1 (+ 3) cycles after
    it; sums of later cycles use the new values, those of earlier cycles the old. The caller issues take_scale
    only when it has seen i_scale.valid and no earlier take is pending; payload stays put until ready, as the
    stream rules demand.

    Per column: one MULT18X18D, one DP16KD (token memory), one 36-bit adder. Source of the arithmetic:
    sim.contract.linear.
    """

    LATENCY = STORE_STAGE + Finish.LATENCY

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._geometry = geometry
        columns = geometry.columns
        super().__init__(
            {
                "control": In(control_layout(geometry)),
                "sums": In(data.ArrayLayout(signed(geometry.sum_bits), columns)),
                "i_scale": In(stream.Signature(data.ArrayLayout(unsigned(SCALE_BITS), columns))),
                "i_bias": In(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), columns))),
                "o_valid": Out(1),
                "wide": Out(data.ArrayLayout(signed(WIDE_BITS), columns)),
            }
        )

    @staticmethod
    def model(
        accumulators: NDArray[np.int64] | None,
        sums: NDArray[np.int64],
        scale: NDArray[np.integer],
        bias: NDArray[np.integer],
    ) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
        """(accumulators, wide results), both (tokens, columns); `accumulators` None starts from the bias.

        Accumulators wrap at ACCUMULATOR_BITS as the hardware's do; exported layers never get there.
        """
        total = add_pass(accumulators, np.asarray(sums, np.int64), scale, bias)
        return total, finish(total)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Control hops from group to group at each stage where it is needed; columns share their group's."""
        m = Module()
        geometry, control = self._geometry, self.control
        hops = geometry.column_groups - 1

        def along_groups(value: Signal, stage: int, name: str, *, reset_less: bool) -> list[Any]:
            at_stage = delay(m, value, stage, f"{name}_stage", reset_less=reset_less)
            return chain(m, at_stage, hops, name, reset_less=reset_less)

        valid, emitted, bias_taken = Signal(), Signal(), Signal()
        m.d.comb += [
            valid.eq(control.valid),
            emitted.eq(control.valid & control.last),
            bias_taken.eq(control.take_bias),
        ]
        scale_taken, first, token = Signal(), Signal(), Signal(range(geometry.token_depth))
        m.d.comb += [scale_taken.eq(control.take_scale), first.eq(control.first), token.eq(control.token)]

        take_scale = along_groups(scale_taken, 0, "take_scale", reset_less=False)
        take_bias = along_groups(bias_taken, ACCUMULATE_STAGE, "take_bias", reset_less=False)
        read_token = along_groups(token, ACCUMULATE_STAGE - BlockRam.LATENCY, "read_token", reset_less=True)
        from_bias = along_groups(first, ACCUMULATE_STAGE, "from_bias", reset_less=True)
        store = along_groups(valid, STORE_STAGE, "store", reset_less=False)
        store_token = along_groups(token, STORE_STAGE, "store_token", reset_less=True)
        m.d.comb += [
            self.i_scale.ready.eq(take_scale[-1]),
            self.i_bias.ready.eq(take_bias[-1]),
            self.o_valid.eq(delay(m, emitted, self.LATENCY, "emitted", reset_less=False)),
        ]
        for column in range(geometry.columns):
            group = column // geometry.column_group
            scale = Signal(SCALE_BITS, name=f"scale{column}", reset_less=True)
            bias = Signal(ACCUMULATOR_BITS - BIAS_SHIFT, name=f"bias{column}", reset_less=True)
            with m.If(take_scale[group]):
                m.d.sync += scale.eq(self.i_scale.payload[column])
            with m.If(take_bias[group]):
                m.d.sync += bias.eq(self.i_bias.payload[column])

            m.submodules[f"multiplier{column}"] = multiplier = RegisteredMultiplier()
            m.submodules[f"tokens{column}"] = tokens = BlockRam(width=ACCUMULATOR_BITS, depth=geometry.token_depth)
            m.submodules[f"adder{column}"] = adder = SelectAdd(width=ACCUMULATOR_BITS)
            accumulator = Signal(signed(ACCUMULATOR_BITS), name=f"accumulator{column}", reset_less=True)
            m.d.comb += [
                multiplier.a.eq(self.sums[column]),
                multiplier.b.eq(scale),
                tokens.read_address.eq(read_token[group]),
                adder.a.eq(tokens.read_data),
                adder.b.eq(multiplier.o),
                adder.c.eq(Cat(Signal(BIAS_SHIFT, name=f"below{column}"), bias)),
                adder.select.eq(~from_bias[group]),
                tokens.write_enable.eq(store[group]),
                tokens.write_address.eq(store_token[group]),
                tokens.write_data.eq(accumulator),
                self.wide[column].eq(self._round(m, accumulator, column)),
            ]
            m.d.sync += accumulator.eq(adder.o)
        return m

    @staticmethod
    def _round(m: Module, accumulator: Signal, column: int) -> Signal:
        """The wide result, `Finish.LATENCY` cycles later."""
        floor = accumulator[SCALE_FRACTION_BITS:].as_signed()
        below = accumulator[: SCALE_FRACTION_BITS - 1]
        half = accumulator[SCALE_FRACTION_BITS - 1]
        m.submodules[f"round{column}"] = finish = Finish()
        sign = floor[-1]
        top = floor[WIDE_BITS - 1 :]  # all equal when the floor fits
        m.d.comb += [
            finish.floor.eq(floor),
            finish.up.eq(half & (floor[0] | below.any())),
            finish.over.eq(~Mux(sign, top.all(), ~top.any())),
            finish.negative.eq(sign),
        ]
        return finish.o
