"""The output FIFO: takes the skew of the column groups out and gives back-pressure by credits."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.geometry import ArrayGeometry
from hdl.pipeline import chain
from sim.contract.constants import WIDE_BITS


def check_depth(depth: int) -> int:
    """`depth` if an output FIFO may have it; else ValueError."""
    if not 2 <= depth <= 512:
        raise ValueError(f"output_depth={depth} must be in 2..512; nearest valid value: {min(max(depth, 2), 512)}")
    return depth


class OutputFifo(wiring.Component):
    """Collects wide results that column group j delivers j cycles after group 0, and streams whole tokens.

    `i_valid` marks group 0's results on `wide`; group j's are taken j cycles later, at an address that travels
    with them. A token is on `o` once its last group is stored: column_groups cycles after i_valid. There is no
    ready towards the writer: it may have at most `depth` tokens between its promise and the transfer on `o`,
    and counts them itself (`o_taken` pulses per transfer).

    Distributed RAM, one per column group. Raises ValueError when depth is outside 2..512.
    """

    def __init__(self, geometry: ArrayGeometry, *, depth: int) -> None:
        self._geometry = geometry
        self._depth = check_depth(depth)
        tokens = data.ArrayLayout(signed(WIDE_BITS), geometry.columns)
        super().__init__(
            {
                "i_valid": In(1),
                "wide": In(tokens),
                "o": Out(stream.Signature(tokens)),
                "o_taken": Out(1),
                "o_empty": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """One write pointer that hops along the groups, one read pointer."""
        m = Module()
        geometry, width = self._geometry, self._geometry.column_group
        write_pointer = Signal(range(self._depth))
        read_pointer = Signal(range(self._depth))
        level = Signal(range(self._depth + 1))
        stored, taken = Signal(), Signal()

        def advance(pointer: Signal) -> Any:
            with m.If(pointer == self._depth - 1):
                m.d.sync += pointer.eq(0)
            with m.Else():
                m.d.sync += pointer.eq(pointer + 1)

        with m.If(self.i_valid):
            advance(write_pointer)
        with m.If(taken):
            advance(read_pointer)
        enables = chain(m, self.i_valid, geometry.column_groups - 1, "enable", reset_less=False)
        pointers = chain(m, write_pointer, geometry.column_groups - 1, "pointer")
        m.d.comb += [
            stored.eq(enables[-1]),
            taken.eq(self.o.valid & self.o.ready),
            self.o.valid.eq(level != 0),
            self.o_taken.eq(taken),
            self.o_empty.eq(level == 0),
        ]
        m.d.sync += level.eq(level + stored - taken)
        row = data.ArrayLayout(signed(WIDE_BITS), width)
        for group in range(geometry.column_groups):
            m.submodules[f"group{group}"] = storage = memory.Memory(shape=row.size, depth=self._depth, init=[])
            write, read = storage.write_port(), storage.read_port(domain="comb")
            results = Signal(row, name=f"results{group}")
            m.d.comb += [
                write.en.eq(enables[group]),
                write.addr.eq(pointers[group]),
                read.addr.eq(read_pointer),
                results.as_value().eq(read.data),
            ]
            words = Signal(row, name=f"words{group}")
            m.d.comb += write.data.eq(words.as_value())
            for lane in range(width):
                column = group * width + lane
                m.d.comb += [words[lane].eq(self.wide[column]), self.o.payload[column].eq(results[lane])]
        return m
