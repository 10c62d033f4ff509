"""In front of the encoder: tokens come in the order of their channels and leave in the order of positions.

i --> a bank for each value --> banks, two tokens --> the bank of each position --> o
"""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.block_ram import PARTS, BlockRam
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
      in as many transfers, lane k of transfer b is position b * lanes + k. Waits while an order is being written.
    - `i_order`: always ready. `bank`: sim.machine.banks.banks_of, the same for all values with so many transfers. What
      is in use must be left alone; the channels of the positions of a token must be those of the token, each once.
    - `o_idle`: nothing is inside.

    Throughput: one transfer per cycle, as one token is read while the next is written. Latency from the last transfer
    of a token to its first on `o`: `latency` = 8 cycles.

    lanes: 2, 4, 8, 16. beats: most transfers of a token, 2..512. Block RAMs: one per lane for two tokens, as every
    transfer that comes or leaves has a value in each bank; of 36 bits per four lanes one for the channels to read, one
    for the banks they lie in, one for the lanes that values come on.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, *, lanes: int = 8, beats: int = TOKEN_BEATS_MAX) -> None:
        self.lanes = require("lanes", lanes, LANES, f"one of {LANES}")
        self.beats = require("beats", beats, range(2, TOKEN_BEATS_MAX + 1), f"in 2..{TOKEN_BEATS_MAX}")
        self._lane_bits = lanes.bit_length() - 1
        self._beat_bits = (beats - 1).bit_length()
        channel_bits = self._beat_bits + self._lane_bits
        # Look up, choose a register, read, choose.
        self._read_stage = BlockRam.LATENCY + 1
        self._value_stage = self._read_stage + BlockRam.LATENCY + 1
        self.latency = 1 + self._value_stage + 1
        values = data.StructLayout({"values": data.ArrayLayout(signed(WIDE_BITS), lanes), "last": unsigned(1)})
        order = data.StructLayout(
            {
                "position": unsigned(channel_bits),
                "channel": unsigned(channel_bits),
                "bank": unsigned(self._lane_bits),
            }
        )
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
        """A writer, a reader, and the number of tokens between them; the reader has a place for all it reads.

        A token may be read the cycle after its last transfer, and its place be filled the cycle after its last read:
        either way what is looked up first takes as long.
        """
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.latency + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        beat, half = range(1 << self._beat_bits), range(TOKENS)
        write_beat, read_beat = Signal(beat), Signal(beat)
        write_half, read_half = Signal(half), Signal(half)
        last_beats = [Signal(beat, name=f"last_beat{number}") for number in range(TOKENS)]
        held = Signal(range(TOKENS + 1))
        accepted, filled, reading, emptied = Signal(), Signal(), Signal(), Signal()
        at_end = Signal()
        ordered = delay(m, self.i_order.valid, 1, "ordered", reset_less=False)
        m.d.comb += [
            self.i_order.ready.eq(1),
            self.i.ready.eq((held != TOKENS) & ~self.i_order.valid & ~ordered),
            accepted.eq(self.i.valid & self.i.ready),
            filled.eq(accepted & self.i.payload.last),
            reading.eq((held != 0) & fifo.o_room),
            at_end.eq(read_beat == Mux(read_half, last_beats[1], last_beats[0])),
            emptied.eq(reading & at_end),
            fifo.spend.eq(reading),
            fifo.store.eq(delay(m, reading, self._value_stage, "stored", reset_less=False)),
            fifo.word.last.eq(delay(m, at_end, self._value_stage, "last")),
            self.o_idle.eq((held == 0) & fifo.o_empty & (write_beat == 0)),
        ]
        m.d.sync += held.eq(held + filled - emptied)
        with m.If(accepted):
            m.d.sync += write_beat.eq(Mux(self.i.payload.last, 0, write_beat + 1))
        with m.If(filled):
            m.d.sync += write_half.eq(~write_half)
            for number, last_beat in enumerate(last_beats):
                with m.If(write_half == number):
                    m.d.sync += last_beat.eq(write_beat)
        with m.If(reading):
            m.d.sync += read_beat.eq(Mux(at_end, 0, read_beat + 1))
        with m.If(emptied):
            m.d.sync += read_half.eq(~read_half)

        order = delay(m, self.i_order.payload, 1, "order")
        position_beat, position_lane = order.position[self._lane_bits :], order.position[: self._lane_bits]
        channel_beat, channel_lane = order.channel[self._lane_bits :], order.channel[: self._lane_bits]
        # By bank: the lane it takes its value from, and the transfer to read; by lane: the bank to read.
        of_channel = {"read": write_beat, "enable": ordered, "address": channel_beat}
        of_position = {"read": read_beat, "enable": ordered, "address": position_beat}
        sources = self._table(m, "sources", place=order.bank, entry=channel_lane, **of_channel)
        wanted = self._table(m, "wanted", place=order.bank, entry=channel_beat, **of_position)
        choices = self._table(m, "choices", place=position_lane, entry=order.bank, **of_position)

        come = delay(m, self.i.payload.values, BlockRam.LATENCY, "come").as_value()
        write_enable = delay(m, accepted, BlockRam.LATENCY + 1, "write_enable", reset_less=False)
        write_address = delay(m, Cat(write_beat, write_half), BlockRam.LATENCY + 1, "write_address")
        read_half_late = delay(m, read_half, BlockRam.LATENCY, "read_half_late")
        words = []
        for bank, (source, transfer) in enumerate(zip(sources, wanted, strict=True)):
            m.submodules[f"bank{bank}"] = memory = BlockRam(width=WIDE_BITS, depth=TOKENS << self._beat_bits)
            word = Signal(WIDE_BITS, name=f"word{bank}", reset_less=True)
            read_address = Signal(self._beat_bits + 1, name=f"read_address{bank}", reset_less=True)
            m.d.sync += [
                word.eq(come.word_select(source, WIDE_BITS)),
                read_address.eq(Cat(transfer, read_half_late)),
            ]
            m.d.comb += [
                memory.write_enable.eq(write_enable),
                memory.write_address.eq(write_address),
                memory.write_data.eq(word),
                memory.read_address.eq(read_address),
            ]
            words.append(memory.read_data)
        for lane, choice in enumerate(choices):
            chosen = delay(m, choice, self._value_stage - 1 - BlockRam.LATENCY, f"choice{lane}")
            value = Signal(signed(WIDE_BITS), name=f"value{lane}", reset_less=True)
            m.d.sync += value.eq(Cat(words).word_select(chosen, WIDE_BITS))
            m.d.comb += fifo.word.values[lane].eq(value)
        return m

    def _table(
        self, m: Module, name: str, *, read: Signal, enable: Signal, address: Any, place: Any, entry: Any
    ) -> list[Any]:
        """Entries of the word at `read`, by place, BlockRam.LATENCY cycles later; `enable` writes one."""
        parts = min(self.lanes, max(PARTS))
        found: list[Any] = []
        for first in range(0, self.lanes, parts):
            m.submodules[f"{name}{first}"] = table = BlockRam(
                width=parts * len(entry), depth=1 << self._beat_bits, parts=parts
            )
            enables = [enable & (place == number) for number in range(first, first + parts)]
            m.d.comb += [
                table.write_enable.eq(Cat(enables)),
                table.write_address.eq(address),
                table.write_data.eq(entry.replicate(parts)),
                table.read_address.eq(read),
            ]
            found += [table.read_data.word_select(number, len(entry)) for number in range(parts)]
        return found
