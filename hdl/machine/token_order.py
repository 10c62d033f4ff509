"""In front of the encoder: tokens are written in the order of their channels and read in the order of positions."""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.block_memory import BlockMemory
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from sim.contract.constants import WIDE_BITS
from sim.machine.settings import TOKEN_BEATS_MAX

LANES: Final = (2, 4, 8, 16)
TOKENS: Final = 2
"""One is written while the other is read."""


class TokenOrder(wiring.Component):
    """Position p of a token takes the value of the channel that `i_order` wrote for p.

    - `i`: tokens, `last` with their final transfer; lane k of transfer b is channel b * lanes + k. `o`: the same tokens
      in as many transfers, lane k of transfer b is position b * lanes + k.
    - `i_order`: always ready. What is in use must be left alone; a channel of every position of a token must have been
      written, and must be one of that token.
    - `o_idle`: nothing is inside.

    Cycles, nobody stalling: a token of b transfers every b + 3 / 2, as one is read while the next is written, and a
    place is free three cycles after its last read. Latency from the last transfer of a token to its first on `o`:
    `latency` cycles.

    lanes: 2, 4, 8, 16. beats: most transfers of a token, 2..512. Block RAM: per lane two tokens, as any lane may want
    any channel. Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, *, lanes: int = 8, beats: int = TOKEN_BEATS_MAX) -> None:
        self.lanes = require("lanes", lanes, LANES, f"one of {LANES}")
        self.beats = require("beats", beats, range(2, TOKEN_BEATS_MAX + 1), f"in 2..{TOKEN_BEATS_MAX}")
        self._lane_bits = lanes.bit_length() - 1
        self._beat_bits = (beats - 1).bit_length()
        channel_bits = self._beat_bits + self._lane_bits
        self._order = {"width": channel_bits, "depth": beats}
        self._tokens = {"width": WIDE_BITS * lanes, "depth": TOKENS << self._beat_bits}
        self._order_latency = BlockMemory.latency(**self._order)
        self._read_latency = self._order_latency + BlockMemory.latency(**self._tokens)
        self.latency = self._read_latency + 3
        values = data.StructLayout({"values": data.ArrayLayout(signed(WIDE_BITS), lanes), "last": unsigned(1)})
        order = data.StructLayout({"position": unsigned(channel_bits), "channel": unsigned(channel_bits)})
        super().__init__(
            {
                "i_order": In(stream.Signature(order)),
                "i": In(stream.Signature(values)),
                "o": Out(stream.Signature(values)),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(tokens: NDArray[np.int16], order: NDArray[np.integer]) -> NDArray[np.int16]:
        """Tokens (n, positions) of tokens (n, channels), both with whole transfers."""
        return tokens[:, order]

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer, a reader, and the number of tokens between them; the reader has a place for all it reads."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.latency + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        beat, half = range(1 << self._beat_bits), range(TOKENS)
        write_beat, read_beat = Signal(beat), Signal(beat)
        write_half, read_half = Signal(half), Signal(half)
        last_beats = [Signal(beat, name=f"last_beat{number}") for number in range(TOKENS)]
        held = Signal(range(TOKENS + 1))  # written and not yet read, and their places
        full = Signal(range(TOKENS + 1))
        accepted, filled, reading, emptied = Signal(), Signal(), Signal(), Signal()
        at_end = Signal()
        m.d.comb += [
            self.i.ready.eq(held != TOKENS),
            accepted.eq(self.i.valid & self.i.ready),
            filled.eq(accepted & self.i.payload.last),
            reading.eq((full != 0) & fifo.o_room),
            at_end.eq(read_beat == Mux(read_half, last_beats[1], last_beats[0])),
            emptied.eq(delay(m, reading & at_end, self._order_latency + 1, "emptied", reset_less=False)),
            fifo.spend.eq(reading),
            fifo.store.eq(delay(m, reading, self._read_latency + 1, "stored", reset_less=False)),
            fifo.word.last.eq(delay(m, at_end, self._read_latency + 1, "last")),
            self.o_idle.eq((held == 0) & fifo.o_empty & (write_beat == 0)),
        ]
        m.d.sync += [
            held.eq(held + filled - emptied),
            full.eq(full + filled - (reading & at_end)),
        ]
        with m.If(accepted):
            m.d.sync += write_beat.eq(Mux(self.i.payload.last, 0, write_beat + 1))
        with m.If(filled):
            m.d.sync += write_half.eq(~write_half)
            for number, last_beat in enumerate(last_beats):
                with m.If(write_half == number):
                    m.d.sync += last_beat.eq(write_beat)
        with m.If(reading):
            m.d.sync += read_beat.eq(Mux(at_end, 0, read_beat + 1))
            with m.If(at_end):
                m.d.sync += read_half.eq(~read_half)

        m.d.comb += self.i_order.ready.eq(1)
        written = {
            "enable": delay(m, accepted, 1, "write_enable", reset_less=False),
            "address": delay(m, Cat(write_beat, write_half), 1, "write_address"),
            "data": delay(m, self.i.payload.values, 1, "write_data"),
        }
        order_enable = delay(m, self.i_order.valid, 1, "order_enable", reset_less=False)
        order = delay(m, self.i_order.payload, 1, "order")
        for lane in range(self.lanes):
            m.submodules[f"order{lane}"] = channels = BlockMemory(**self._order)
            m.submodules[f"tokens{lane}"] = tokens = BlockMemory(**self._tokens)
            mine = order.position[: self._lane_bits] == lane
            m.d.comb += [
                channels.write_enable.eq(order_enable & mine),
                channels.write_address.eq(order.position[self._lane_bits :]),
                channels.write_data.eq(order.channel),
                channels.read_address.eq(read_beat),
                tokens.write_enable.eq(written["enable"]),
                tokens.write_address.eq(written["address"]),
                tokens.write_data.eq(written["data"].as_value()),
                tokens.read_address.eq(
                    Cat(
                        channels.read_data[self._lane_bits :],
                        delay(m, read_half, self._order_latency, f"half{lane}"),
                    )
                ),
            ]
            chosen = delay(
                m, channels.read_data[: self._lane_bits], self._read_latency - self._order_latency, f"lane{lane}"
            )
            value = Signal(signed(WIDE_BITS), name=f"value{lane}", reset_less=True)
            m.d.sync += value.eq(tokens.read_data.word_select(chosen, WIDE_BITS))
            m.d.comb += fifo.word.values[lane].eq(value)
        return m
