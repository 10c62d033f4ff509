"""Near memory: block RAM behind the machine's reader and writer, a read and a write in the same cycle."""

from typing import Any

from amaranth.hdl import Array, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_memory import BlockMemory
from hdl.ecp5.block_ram import MODES
from hdl.memory.port import BEAT_BITS
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo

BEATS_MAX = 1 << 24

CHOICE_BITS = 2
CHOICE = 1 << CHOICE_BITS
"""Words of which one is chosen in a cycle."""

BANK_BITS = max(MODES.values())
"""Address bits of a bank: the deepest that is one block RAM deep."""


class NearMemory(wiring.Component):
    """`beats` beats of `beat_bits`, undefined at first.

    - `write`: address and beat, taken in every cycle.
    - `read`: addresses, taken while there is a place for what is read; `o`: what was read, in that order. A read sees
      every write taken in an earlier cycle; of one taken in its own cycle, its word is undefined.

    The two do not know of each other. Throughput: a read and a write per cycle. Latency from `read` to `o`: `latency`
    cycles. beats: 1..2**24. beat_bits: as of hdl.memory.port. Addresses from `beats` on must not come.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, *, beats: int, beat_bits: int) -> None:
        require("near_beats", beats, range(1, BEATS_MAX + 1), f"in 1..{BEATS_MAX}")
        require("beat_bits", beat_bits, BEAT_BITS, f"one of {BEAT_BITS}")
        self._bits = beat_bits
        self._place_bits = min(max((beats - 1).bit_length(), 1), BANK_BITS)
        self._banks = -(-beats >> BANK_BITS)
        self._bank = {"width": beat_bits, "depth": min(beats, 1 << BANK_BITS)}
        # Two registers on the way to the block RAMs, whose places are all over the device; behind them choices.
        choices = -(-(self._banks - 1).bit_length() // CHOICE_BITS)
        self._read_latency = 2 + BlockMemory.latency(**self._bank) + choices
        self.latency = self._read_latency + 1
        address = unsigned(max((beats - 1).bit_length(), 1))
        super().__init__(
            {
                "write": In(stream.Signature(data.StructLayout({"address": address, "data": unsigned(beat_bits)}))),
                "read": In(stream.Signature(address)),
                "o": Out(stream.Signature(unsigned(beat_bits))),
            }
        )

    @staticmethod
    def model(content: list[int], steps: list[tuple[int | None, tuple[int, int] | None]]) -> list[int]:
        """What is read in steps of (address to read or None, (address, beat) to write or None); changes `content`."""
        found = []
        for read, written in steps:
            if read is not None:
                found.append(content[read])
            if written is not None:
                content[written[0]] = written[1]
        return found

    def elaborate(self, platform: Any) -> Elaboratable:
        """Banks of block RAM between registers, and a FIFO that promises places."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(unsigned(self._bits), depth=self.latency + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        reading = Signal()
        m.d.comb += [
            self.write.ready.eq(1),
            self.read.ready.eq(fifo.o_room),
            reading.eq(self.read.valid & fifo.o_room),
            fifo.spend.eq(reading),
            fifo.store.eq(delay(m, reading, self._read_latency, "stored", reset_less=False)),
        ]
        address = delay(m, self.read.payload, 1, "read_address")
        writing = delay(m, self.write.valid, 1, "write_enable", reset_less=False)
        written = delay(m, self.write.payload, 1, "write")
        written_data = delay(m, written.data, 1, "write_data")
        words = []
        for number in range(self._banks):
            m.submodules[f"bank{number}"] = bank = BlockMemory(**self._bank)
            # Registers of its own, not to be merged with those of other banks, whose places are far away.
            enable, place, wanted = (
                Signal(shape, name=f"{name}{number}", reset_less=name != "enable", attrs={"keep": 1})
                for name, shape in (("enable", 1), ("place", self._place_bits), ("wanted", self._place_bits))
            )
            m.d.sync += [
                enable.eq(writing & (written.address[self._place_bits :] == number)),
                place.eq(written.address),
                wanted.eq(address),
            ]
            m.d.comb += [
                bank.write_enable.eq(enable),
                bank.write_address.eq(place),
                bank.write_data.eq(written_data),
                bank.read_address.eq(wanted),
            ]
            words.append(bank.read_data)
        # The bank of the word that the block RAMs give now.
        number = delay(m, address[self._place_bits :], 1 + BlockMemory.latency(**self._bank), "bank")
        while len(words) > 1:
            words = [self._choose(m, words[at : at + CHOICE], number) for at in range(0, len(words), CHOICE)]
            number = delay(m, number[CHOICE_BITS:], 1, f"group_of_{len(words)}")
        m.d.comb += fifo.word.eq(words[0])
        return m

    def _choose(self, m: Module, words: list[Any], number: Any) -> Signal:
        """One of a few words, from a register."""
        word = Signal(self._bits, reset_less=True)
        m.d.sync += word.eq(Array(words)[number[:CHOICE_BITS]] if len(words) > 1 else words[0])
        return word
