"""A memory of any width and depth, made of block RAMs."""

from typing import Any

from amaranth.hdl import Array, Cat, Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_ram import MODES, BlockRam
from hdl.pipeline import delay


class BlockMemory(wiring.Component):
    """`depth` words of `width` bits: one write port, one read port, same clock; `block_rams` block RAMs.

    The word at `read_address` appears `latency` cycles later: 2, and one more where several banks of block RAM
    are needed for the depth. One word per cycle. The promise of BlockRam holds: the caller does not use what it
    reads in the cycle of a write to the same address.

    Of the shapes of a block RAM (512 x 36, 1024 x 18, 2048 x 9) the one that needs the fewest is taken, and of
    two the deeper. Raises ValueError when width or depth is below 1.
    """

    def __init__(self, *, width: int, depth: int) -> None:
        for name, value in (("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1; nearest valid value: 1")
        self._width, self._depth = width, depth
        self._slice, self._banks = self._shape(width, depth)
        self._bank_bits = MODES[self._slice]
        self.block_rams = self._banks * -(-width // self._slice)
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "read_address": In(range(depth)),
                "read_data": Out(width),
            }
        )

    @staticmethod
    def _shape(width: int, depth: int) -> tuple[int, int]:
        """(bits per block RAM, banks)."""
        banks = {mode: -(-depth >> MODES[mode]) for mode in MODES}  # rounded up
        best = min(MODES, key=lambda mode: (banks[mode] * -(-width // mode), banks[mode]))
        return best, banks[best]

    @classmethod
    def latency(cls, *, width: int, depth: int) -> int:
        """Cycles from an address to its word."""
        return BlockRam.LATENCY + (cls._shape(width, depth)[1] > 1)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Banks of slices; the bank of a read is chosen behind the output registers."""
        m = Module()
        words: list[Any] = []
        for bank in range(self._banks):
            first = bank << self._bank_bits
            words_here = min(self._depth - first, 1 << self._bank_bits)
            write_enable = Signal(name=f"write_enable{bank}")
            m.d.comb += write_enable.eq(self.write_enable & (self.write_address[self._bank_bits :] == bank))
            slices = []
            for low in range(0, self._width, self._slice):
                width = min(self._slice, self._width - low)
                m.submodules[f"ram{bank}_{low}"] = ram = BlockRam(width=width, depth=words_here)
                m.d.comb += [
                    ram.write_enable.eq(write_enable),
                    ram.write_address.eq(self.write_address),
                    ram.write_data.eq(self.write_data[low : low + width]),
                    ram.read_address.eq(self.read_address),
                ]
                slices.append(ram.read_data)
            words.append(Cat(slices))
        if self._banks == 1:
            m.d.comb += self.read_data.eq(words[0])
            return m
        high = Signal(len(self.read_address) - self._bank_bits)
        output = Signal(self._width, reset_less=True)
        m.d.comb += [high.eq(self.read_address[self._bank_bits :]), self.read_data.eq(output)]
        m.d.sync += output.eq(Array(words)[delay(m, high, BlockRam.LATENCY, "bank")])
        return m
