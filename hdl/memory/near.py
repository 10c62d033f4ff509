"""Near memory: block RAM behind the machine's reader and writer, a read and a write in the same cycle."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_memory import BlockMemory
from hdl.memory.port import BEAT_BITS
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo

BEATS_MAX = 1 << 24


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
        self._shape = {"width": beat_bits, "depth": beats}
        # A register in front of the block RAMs, whose addresses go to all of them, and one behind: the FIFO.
        self._read_latency = 1 + BlockMemory.latency(**self._shape)
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
        """Block RAM between registers, and a FIFO that promises places."""
        m = Module()
        m.submodules.storage = storage = BlockMemory(**self._shape)
        m.submodules.fifo = fifo = CreditFifo(
            unsigned(self._shape["width"]), depth=self.latency + CreditFifo.TURNAROUND
        )
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        reading = Signal()
        m.d.comb += [
            self.write.ready.eq(1),
            self.read.ready.eq(fifo.o_room),
            reading.eq(self.read.valid & fifo.o_room),
            fifo.spend.eq(reading),
            fifo.store.eq(delay(m, reading, self._read_latency, "stored", reset_less=False)),
            fifo.word.eq(storage.read_data),
            storage.read_address.eq(delay(m, self.read.payload, 1, "read_address")),
            storage.write_enable.eq(delay(m, self.write.valid, 1, "write_enable", reset_less=False)),
            storage.write_address.eq(delay(m, self.write.payload.address, 1, "write_address")),
            storage.write_data.eq(delay(m, self.write.payload.data, 1, "write_data")),
        ]
        return m
