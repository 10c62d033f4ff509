"""One bank of the modelled SDRAM: its row, and the rules that hold per bank."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.interface import RowCommand
from hdl.memory.sdram.pins import ALL_BANKS, Command
from hdl.memory.sdram.rules import Rule
from hdl.memory.sdram.timing import SdramCycles, SdramPart


class Age:
    """`age`: cycles since the last `event`, 1 in the cycle after it; `limit` when it was earlier, or never."""

    def __init__(self, m: Module, event: Any, name: str, *, limit: int) -> None:
        self.age = Signal(range(limit + 1), name=f"since_{name}", init=limit)
        with m.If(event):
            m.d.sync += self.age.eq(1)
        with m.Elif(self.age != limit):
            m.d.sync += self.age.eq(self.age + 1)

    def below(self, cycles: int) -> Any:
        """Whether the event was fewer than `cycles` cycles ago."""
        return self.age < cycles


class BankModel(wiring.Component):
    """Bank `number`: whether a row is open, which one, and the rules that it sees broken, a bit per Rule.

    command: of the part. writes: a word is written to this bank.
    """

    def __init__(self, number: int, part: SdramPart, cycles: SdramCycles) -> None:
        self._number, self._cycles = number, cycles
        super().__init__(
            {
                "command": In(RowCommand),
                "writes": In(1),
                "opened": Out(1),
                "row": Out(range(part.rows)),
                "broken": Out(len(Rule)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """The age of everything that a time counts from."""
        m = Module()
        cycles, given = self._cycles, self.command
        here, every = given.ba == self._number, (given.a & ALL_BANKS) != 0
        activates, closes, wants_idle, column = (Signal() for _ in range(4))
        m.d.comb += [
            activates.eq((given.command == Command.ACTIVATE) & here),
            closes.eq((given.command == Command.PRECHARGE) & (here | every)),
            column.eq(((given.command == Command.READ) | (given.command == Command.WRITE)) & here),
            wants_idle.eq(activates | (given.command == Command.REFRESH) | (given.command == Command.MODE)),
        ]
        since_activate = Age(m, activates, "activate", limit=max(cycles.ras_max, cycles.rc) + 1)
        since_close = Age(m, closes, "close", limit=cycles.rp)
        since_write = Age(m, self.writes, "write", limit=cycles.wr)
        with m.If(closes):
            m.d.sync += self.opened.eq(0)
        with m.Elif(activates):
            m.d.sync += [self.opened.eq(1), self.row.eq(given.a)]
        m.d.comb += [
            self.broken[Rule.BANK_OPEN].eq(wants_idle & self.opened),
            self.broken[Rule.ROW_CLOSED].eq(column & ~self.opened),
            self.broken[Rule.RCD].eq(column & since_activate.below(cycles.rcd)),
            self.broken[Rule.RP].eq(wants_idle & since_close.below(cycles.rp)),
            self.broken[Rule.RAS].eq(closes & self.opened & since_activate.below(cycles.ras)),
            self.broken[Rule.RAS_MAX].eq(self.opened & (since_activate.age > cycles.ras_max)),
            self.broken[Rule.RC].eq(activates & since_activate.below(cycles.rc)),
            self.broken[Rule.WR].eq(closes & self.opened & (self.writes | since_write.below(cycles.wr))),
        ]
        return m
