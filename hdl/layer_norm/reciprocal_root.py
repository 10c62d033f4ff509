"""The reciprocal root of a token's variance, by one multiplier in some forty cycles."""

from typing import Any

import numpy as np
from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.carry import AddSubtract
from hdl.ecp5.multiplier import OPERAND_BITS, RegisteredMultiplier
from hdl.layer_norm.geometry import DEPTH_MAX
from hdl.layer_norm.root_program import PROGRAM, Left, Move, Right, Step
from hdl.layer_norm.root_table import INDEX_BITS, MANTISSA_BITS, RootTable
from hdl.layer_norm.token_sums import SUM_BITS, SUMS_LAYOUT
from sim.contract.layer_norm import ROOT_FRACTION_BITS, reciprocal_root

PIECE_BITS = 16
"""Bits of the sums that are multiplied at once."""

SPREAD_BITS = 62
"""Bits of the accumulator: v is below 2**61, and a whole number of bit pairs leads to the mantissa."""

EPSILON_BITS = 61
"""Width of epsilon, up to 2**60."""

MAX_EXPONENT = SPREAD_BITS // 2 - 1
"""Largest s, half the exponent of v: 30."""

CHANNELS_BITS = DEPTH_MAX.bit_length()

NORMALISING = (Move.BY_2, Move.BY_4, Move.BY_16)

CORRECTION_BITS = 10
"""Signed width of 2**16 - n, at most 510 in size: see root_program."""

SCALE_LAYOUT = data.StructLayout(
    {"sum": signed(SUM_BITS), "root": unsigned(ROOT_FRACTION_BITS), "exponent": range(MAX_EXPONENT + 1)}
)
"""What normalises a token: its sum, and 1 / sqrt(v) = root / 2**(16 + exponent)."""


class ReciprocalRoot(wiring.Component):
    """v = C * squares - sum**2 + epsilon, then (root, exponent) of sim.contract.layer_norm.reciprocal_root.

    One token at a time: `i` is ready while no token is inside, `o.valid` comes `CYCLES` = 37 cycles after the
    transfer on `i`. `channels` (C) and `epsilon` must not change meanwhile. `sum` goes along.

    One multiplier, one adder of 62 bits, one block RAM; see root_program for the steps.
    """

    CYCLES = len(PROGRAM) + 2

    def __init__(self) -> None:
        super().__init__(
            {
                "channels": In(CHANNELS_BITS),
                "epsilon": In(EPSILON_BITS),
                "i": In(stream.Signature(SUMS_LAYOUT)),
                "o": Out(stream.Signature(SCALE_LAYOUT)),
            }
        )

    @staticmethod
    def model(sums: dict[str, int], channels: int, epsilon: int) -> dict[str, int]:
        """The payload of `o` for a payload of `i`."""
        spread = channels * sums["squares"] - sums["sum"] ** 2 + epsilon
        root, exponent = reciprocal_root(np.array([spread], np.int64))
        return {"sum": sums["sum"], "root": int(root[0]), "exponent": int(exponent[0])}

    def elaborate(self, platform: Any) -> Elaboratable:
        """A counter walks through the program; its word of each step is registered before it is used."""
        m = Module()
        total = Signal(signed(SUM_BITS), reset_less=True)
        squares = Signal(3 * PIECE_BITS, reset_less=True)
        spread = Signal(SPREAD_BITS)
        exponent = Signal(range(MAX_EXPONENT + 1))
        estimate = Signal(OPERAND_BITS, reset_less=True)
        step = Signal(range(len(PROGRAM) + 2), init=len(PROGRAM))  # beyond the program: idle
        busy, done, starting = Signal(), Signal(), Signal()
        left, right, move, piece = Signal(Left), Signal(Right), Signal(Move), Signal(2)
        subtract, always, take_estimate, ends = Signal(), Signal(), Signal(), Signal()
        when_clear = Signal(3)  # shift by 2, 4, 16 if the bits that leave are clear
        m.d.comb += [
            starting.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(~busy & ~done),
            self.o.valid.eq(done),
            self.o.payload.sum.eq(total),
            self.o.payload.root.eq(estimate[1:]),
            self.o.payload.exponent.eq(exponent),
        ]
        with m.If(starting):
            m.d.sync += [busy.eq(1), step.eq(0)]
        with m.If(busy):
            m.d.sync += step.eq(step + 1)
        with m.If(ends):
            m.d.sync += [busy.eq(0), done.eq(1)]
        with m.If(done & self.o.ready):
            m.d.sync += done.eq(0)

        with m.Switch(step):
            for number, word in enumerate((*PROGRAM, Step())):
                with m.Case(number) if number < len(PROGRAM) else m.Default():
                    m.d.sync += [
                        left.eq(word.left),
                        right.eq(word.right),
                        move.eq(word.move),
                        piece.eq(word.piece),
                        subtract.eq(word.subtract),
                        always.eq(word.always),
                        when_clear.eq(sum((word.clears == move) << bit for bit, move in enumerate(NORMALISING))),
                        take_estimate.eq(word.take_estimate),
                        ends.eq(number == len(PROGRAM) - 1),
                    ]

        m.submodules.multiplier = multiplier = RegisteredMultiplier()
        m.submodules.table = table = RootTable()
        high, low = total[PIECE_BITS:].as_signed(), total[:PIECE_BITS]
        correction = Signal(signed(CORRECTION_BITS), reset_less=True)
        m.d.sync += correction.eq(-estimate[:CORRECTION_BITS])
        m.d.comb += table.index.eq(spread[-INDEX_BITS:])
        for operand, choice, values in (
            (
                multiplier.a,
                left,
                {
                    Left.HIGH: high,
                    Left.LOW: low,
                    Left.SQUARES: squares[-PIECE_BITS:],
                    Left.MANTISSA: _less_half(spread[-MANTISSA_BITS:]),
                    Left.ESTIMATE: _less_half(estimate),
                    Left.CORRECTION: correction,
                },
            ),
            (
                multiplier.b,
                right,
                {Right.HIGH: high, Right.LOW: low, Right.CHANNELS: self.channels, Right.ROOT: table.root},
            ),
        ):
            with m.Switch(choice):
                for name, value in values.items():
                    with m.Case(name):
                        m.d.comb += operand.eq(value)
        with m.If(take_estimate):
            m.d.sync += estimate.eq((table.root << 1) + (multiplier.o >> ROOT_FRACTION_BITS))

        product = Signal(signed(2 * PIECE_BITS + 2), reset_less=True)
        m.d.sync += product.eq(multiplier.o)
        m.submodules.adder = adder = AddSubtract(width=SPREAD_BITS, b_width=len(product))
        m.d.comb += [adder.a[0].eq(spread), adder.b[0].eq(product), adder.subtract.eq(subtract)]
        pieces = [self.epsilon[low : low + PIECE_BITS] for low in range(0, EPSILON_BITS, PIECE_BITS)]
        incoming = Signal(PIECE_BITS)
        m.d.comb += incoming.eq(Mux(always, Array(pieces)[piece], 0))
        following = Signal(SPREAD_BITS)
        with m.Switch(move):
            with m.Case(Move.SUM):
                m.d.comb += following.eq(adder.o[0])
            with m.Case(Move.BY_16):
                m.d.comb += following.eq(Cat(incoming, spread))
            with m.Case(Move.BY_4):
                m.d.comb += following.eq(spread << 4)
            with m.Case(Move.BY_2):
                m.d.comb += following.eq(spread << 2)
        clear = Cat(~spread[-places:].any() for places in (2, 4, PIECE_BITS))
        with m.If(always | (when_clear & clear).any()):
            m.d.sync += [
                spread.eq(following),
                exponent.eq(exponent - Cat(when_clear[:2], Const(0, 1), when_clear[2])),  # 1, 2, 8
            ]
        with m.If(left == Left.SQUARES):
            m.d.sync += squares.eq(squares << PIECE_BITS)
        with m.If(starting):
            m.d.sync += [
                total.eq(self.i.payload.sum),
                squares.eq(self.i.payload.squares),
                spread.eq(0),
                exponent.eq(MAX_EXPONENT),
            ]
        return m


def _less_half(value: Any) -> Any:
    """An unsigned value less half its range, as a signed value of the same width."""
    return Cat(value[:-1], ~value[-1]).as_signed()
