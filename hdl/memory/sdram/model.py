"""An SDRAM that does what it is told and says which rule was broken; plain logic, for any simulator."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Elaboratable, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.bank_model import Age, BankModel
from hdl.memory.sdram.burst_model import BurstModel
from hdl.memory.sdram.interface import RowCommand
from hdl.memory.sdram.pins import ALL_BANKS, Command, SdramPins, mode_register
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import BANKS, WORD_BITS, SdramCycles, SdramPart

REFRESH_SLACK = 2
"""Intervals that refreshes may be behind."""


class SdramModel(wiring.Component):
    """The part without its cells: protocol, timing, the words of a burst; and `violations`, sticky, a bit per Rule.

    Cells: `cell` numbers a word, from the top by bank, row, column (AddressMap.cell). With `cell_write` it becomes
    `cell_word`; without, what it holds is at `cell_data` in the next cycle. So the cells can be any memory: one of the
    simulator for a whole part, that of Sdram for a small one.

    part: geometry. cycles: every time that is checked. burst: words (4, 8), as the mode register must say.
    """

    def __init__(self, part: SdramPart, cycles: SdramCycles, *, burst: int) -> None:
        self._part, self._cycles, self._burst = part, cycles, burst
        super().__init__(
            {
                "pins": In(SdramPins()),
                "violations": Out(len(Rule)),
                "cell": Out(range(BANKS * part.rows * part.columns)),
                "cell_write": Out(1),
                "cell_word": Out(WORD_BITS),
                "cell_data": In(WORD_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Banks, bursts, and what concerns the part as a whole."""
        m = Module()
        pins, given = self.pins, Signal(RowCommand)
        m.submodules.bursts = bursts = BurstModel(self._part, self._cycles, burst=self._burst)
        banks = [BankModel(number, self._part, self._cycles) for number in range(BANKS)]
        m.d.comb += [given.command.eq(pins.command), given.ba.eq(pins.ba), given.a.eq(pins.a)]
        for number, bank in enumerate(banks):
            m.submodules[f"bank{number}"] = bank
            m.d.comb += [bank.command.eq(given), bank.writes.eq(bursts.writing & (bursts.bank == number))]
        m.d.comb += [
            bursts.command.eq(given),
            bursts.row.eq(Array(bank.row for bank in banks)[pins.ba]),
            bursts.dq_oe.eq(pins.dq_oe),
            pins.dq_i.eq(bursts.dq_i),
            self.cell.eq(bursts.cell),
            self.cell_write.eq(bursts.writing),
            self.cell_word.eq(pins.dq_o),
            bursts.cell_data.eq(self.cell_data),
        ]
        own = Signal(len(Rule))
        self._commands(m, own)
        self._initialisation(m, own)
        broken = reduce(or_, [bank.broken for bank in banks], own | bursts.broken)
        m.d.sync += self.violations.eq(self.violations | broken)
        return m

    def _commands(self, m: Module, broken: Signal) -> None:
        """Distances of commands to the part, and what no part of this size, or this model, understands."""
        pins, cycles = self.pins, self._cycles
        active = pins.command == Command.ACTIVATE
        column = (pins.command == Command.READ) | (pins.command == Command.WRITE)
        other = pins.command != Command.NOP
        refresh, mode = pins.command == Command.REFRESH, pins.command == Command.MODE
        too_far = Mux(active, pins.a >= self._part.rows, (pins.a & ~ALL_BANKS) >= self._part.columns)
        refused = (pins.command == Command.STOP) | (column & ((pins.a & ALL_BANKS) != 0)) | (other & ~pins.cke)
        m.d.comb += [
            broken[Rule.RRD].eq(active & Age(m, active, "any_activate", limit=cycles.rrd).below(cycles.rrd)),
            broken[Rule.RFC].eq(other & Age(m, refresh, "refresh", limit=cycles.rfc).below(cycles.rfc)),
            broken[Rule.MRD].eq(other & Age(m, mode, "mode", limit=cycles.mrd).below(cycles.mrd)),
            broken[Rule.ADDRESS].eq((active | column) & too_far),
            broken[Rule.UNSUPPORTED].eq(refused | (column & (pins.dqm != 0))),
        ]

    def _initialisation(self, m: Module, broken: Signal) -> None:
        """Power-up, the steps before the first row is opened, and refresh from then on."""
        cycles, pins = self._cycles, self.pins
        refresh, mode = pins.command == Command.REFRESH, pins.command == Command.MODE
        powered, all_closed, mode_set, late = (Signal(name=name) for name in ("powered", "closed", "mode_set", "late"))
        up = Signal(range(cycles.power_up + 1))
        refreshes = Signal(range(cycles.initial_refreshes + 1))
        behind = Signal(range((REFRESH_SLACK + 1) * cycles.refresh_interval))
        m.d.comb += [powered.eq(up == cycles.power_up), late.eq(behind > REFRESH_SLACK * cycles.refresh_interval)]
        with m.If(~powered):
            m.d.sync += up.eq(up + 1)
        with m.If((pins.command == Command.PRECHARGE) & ((pins.a & ALL_BANKS) != 0)):
            m.d.sync += all_closed.eq(1)
        with m.If(refresh & (refreshes != cycles.initial_refreshes)):
            m.d.sync += refreshes.eq(refreshes + 1)
        with m.If(mode):
            m.d.sync += mode_set.eq(1)
        with m.If(refresh):
            m.d.sync += behind.eq(Mux(behind > cycles.refresh_interval, behind - cycles.refresh_interval, 0))
        with m.Elif(mode_set & ~late):
            m.d.sync += behind.eq(behind + 1)
        expected = mode_register(burst=self._burst, cas_latency=cycles.cas_latency)
        ready = mode_set & (refreshes == cycles.initial_refreshes)
        m.d.comb += [
            broken[Rule.POWER_UP].eq((pins.command != Command.NOP) & ~powered),
            broken[Rule.INITIALIZATION].eq(
                ((pins.command == Command.ACTIVATE) & ~ready) | ((refresh | mode) & ~all_closed)
            ),
            broken[Rule.MODE_CONTENT].eq(mode & ((pins.a != expected) | (pins.ba != 0))),
            broken[Rule.REFRESH_INTERVAL].eq(late),
        ]


class Sdram(wiring.Component):
    """The model with its cells in a memory: for parts with few rows, whose content is `cells.data`, a word a cell."""

    def __init__(self, part: SdramPart, cycles: SdramCycles, *, burst: int) -> None:
        self._model = SdramModel(part, cycles, burst=burst)
        self.cells = memory.Memory(shape=WORD_BITS, depth=BANKS * part.rows * part.columns, init=[])
        super().__init__({"pins": In(SdramPins()), "violations": Out(len(Rule))})

    def elaborate(self, platform: Any) -> Elaboratable:
        """One port to write, one to read; never both at once."""
        m = Module()
        m.submodules.model = model = self._model
        m.submodules.cells = self.cells
        write, read = self.cells.write_port(), self.cells.read_port()
        wiring.connect(m, wiring.flipped(self.pins), model.pins)
        m.d.comb += [
            self.violations.eq(model.violations),
            write.addr.eq(model.cell),
            write.en.eq(model.cell_write),
            write.data.eq(model.cell_word),
            read.addr.eq(model.cell),
            model.cell_data.eq(read.data),
        ]
        return m
