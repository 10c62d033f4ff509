"""Bursts of the modelled SDRAM: which word of which row, when, and who drives the data pins."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.interface import RowCommand
from hdl.memory.sdram.pins import ALL_BANKS, Command
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import BANKS, WORD_BITS, SdramCycles, SdramPart
from hdl.pipeline import chain


class BurstModel(wiring.Component):
    """Words of a burst, one a cycle from its command on; those read are on `dq_i` cas_latency cycles later.

    command: of the part. row: the open one of the command's bank. dq_o, dq_oe: what the controller drives. cell,
    cell_write, cell_data: see SdramModel. bank, writing: of the word of this cycle, if it is one to write.
    """

    def __init__(self, part: SdramPart, cycles: SdramCycles, *, burst: int) -> None:
        self._part, self._latency, self._burst = part, cycles.cas_latency, burst
        super().__init__(
            {
                "command": In(RowCommand),
                "row": In(range(part.rows)),
                "dq_oe": In(1),
                "dq_i": Out(WORD_BITS),
                "cell": Out(range(BANKS * part.rows * part.columns)),
                "cell_data": In(WORD_BITS),
                "bank": Out(2),
                "writing": Out(1),
                "broken": Out(len(Rule)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """What the command says in its own cycle, what was noted of it in those after it."""
        m = Module()
        given, size = self.command, self._burst
        step_bits, column_bits = size.bit_length() - 1, self._part.columns.bit_length() - 1
        column, read, write, starts = Signal(column_bits), Signal(), Signal(), Signal()
        left, noted_write, noted_bank = Signal(range(size)), Signal(), Signal(2)
        noted_row, noted_block = Signal.like(self.row), Signal(column_bits - step_bits)
        step, noted_step = Signal(step_bits), Signal(step_bits)
        running, reading = Signal(), Signal()
        m.d.comb += [
            read.eq(given.command == Command.READ),
            write.eq(given.command == Command.WRITE),
            column.eq(given.a),
            running.eq(left != 0),
            starts.eq((read | write) & ~running),
            step.eq(Mux(starts, column[:step_bits], noted_step)),
            self.bank.eq(Mux(starts, given.ba, noted_bank)),
            self.writing.eq(Mux(starts, write, running & noted_write)),
            reading.eq(Mux(starts, read, running & ~noted_write)),
            # A burst stays in its block of words: behind the last one it goes on with the first.
            self.cell.eq(
                Cat(
                    step,
                    Mux(starts, column[step_bits:], noted_block),
                    Mux(starts, self.row, noted_row),
                    self.bank,
                )
            ),
        ]
        m.d.sync += noted_step.eq(step + 1)
        with m.If(starts):
            m.d.sync += [
                noted_write.eq(write),
                noted_bank.eq(given.ba),
                noted_row.eq(self.row),
                noted_block.eq(column[step_bits:]),
                left.eq(size - 1),
            ]
        with m.Elif(running):
            m.d.sync += left.eq(left - 1)

        words = chain(m, self.cell_data, self._latency - 1, "word")
        *_, driving, drove = chain(m, reading, self._latency + 1, "drives", reset_less=False)
        closes_bank = (given.command == Command.PRECHARGE) & ((given.ba == noted_bank) | ((given.a & ALL_BANKS) != 0))
        m.d.comb += [
            # While nobody drives, the pins read as what no READ can want.
            self.dq_i.eq(Mux(driving, words[-1], ~words[-1])),
            self.broken[Rule.BURST_CUT].eq(running & (read | write | closes_bank)),
            self.broken[Rule.DQ_CONTENTION].eq(self.dq_oe & (driving | drove)),
            self.broken[Rule.DATA_MISSING].eq(self.writing & ~self.dq_oe),
        ]
        return m
