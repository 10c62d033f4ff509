"""Initialisation, refresh, and the rows of the banks: one request at a time is given an open row."""

from typing import Any

from amaranth.hdl import Const, Elaboratable, Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.countdown import Countdown
from hdl.memory.sdram.interface import RowCommand, prepared_layout
from hdl.memory.sdram.pins import ALL_BANKS, Command, mode_register
from hdl.memory.sdram.timing import BANKS, SdramCycles


class RowControl(wiring.Component):
    """Takes requests, opens the row that each needs, and hands them on (`prepared_valid`, `prepared`).

    A request whose row is open takes REQUEST_CYCLES. Another bank's row is opened while earlier requests are still on
    the bus. A row is closed only when another one of its bank is wanted, or for a refresh.

    i: address in beats, and whether it is a write. row_command, row_valid: held until `sent`; the bus gives way to
    READ and WRITE. closable: by bank, nobody needs its row any more and the part allows to close it. room: a request
    may be handed on.

    Refresh is due every `refresh_interval` cycles by a timer that never waits; then no request is taken until it is
    done. It waits only for requests handed on before, which nothing can stop.

    Times fit the structure (limits.check_times): rcd and rrd are kept by the shortest way through the states.
    """

    def __init__(self, address: AddressMap, cycles: SdramCycles, *, address_bits: int) -> None:
        self._map, self._cycles = address, cycles
        self._address_bits = address_bits
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout({"address": address_bits, "write": 1}))),
                "row_valid": Out(1),
                "row_command": Out(RowCommand),
                "sent": In(1),
                "closable": In(BANKS),
                "room": In(1),
                "prepared_valid": Out(1),
                "prepared": Out(prepared_layout(address.place_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """One state machine; commands go through a register that waits for its turn on the bus."""
        m = Module()
        cycles, split = self._cycles, self._map
        wide = Signal(max(split.bits, self._address_bits))
        place, bank, row = split.split(wide)
        outside = wide[split.bits :].any()
        m.d.comb += wide.eq(self.i.payload.address)

        held_row, held = Signal(split.row_bits), Signal.like(self.prepared)
        m.submodules.rows = rows = memory.Memory(shape=split.row_bits, depth=BANKS, init=[])
        open_row, set_row = rows.read_port(domain="comb"), rows.write_port()
        m.d.comb += [
            open_row.addr.eq(held.bank),
            set_row.addr.eq(held.bank),
            set_row.data.eq(held_row),
            self.prepared.eq(held),
        ]
        is_open, same_row, closed = Signal(BANKS), Signal(), Signal()
        due, initialised = Signal(), Signal()
        interval = Signal(range(cycles.refresh_interval), init=cycles.refresh_interval - 1)
        refreshes = Signal(range(cycles.initial_refreshes + 1), init=cycles.initial_refreshes)
        longest = max(cycles.rfc, cycles.rp, cycles.mrd)
        wait = Countdown(m, "wait", longest=longest, initial=cycles.power_up)

        with m.If(self.sent):
            m.d.sync += self.row_valid.eq(0)

        def give(command: Any, a: Any, ba: Any = Const(0, 2)) -> None:
            m.d.sync += [
                self.row_valid.eq(1),
                self.row_command.command.eq(command),
                self.row_command.ba.eq(ba),
                self.row_command.a.eq(a),
            ]

        # A command given in the cycle in which `wait` is done is on the pins one cycle after the register was free.
        with m.FSM():
            with m.State("POWER_UP"), m.If(wait.done):
                give(Command.PRECHARGE, ALL_BANKS)
                m.next = "CLOSE"
            with m.State("CLOSE"), m.If(self.sent):
                m.d.sync += is_open.eq(0)
                wait.start(m, cycles.rp - 1)
                m.next = "CLOSING"
            with m.State("CLOSING"), m.If(wait.done):
                give(Command.REFRESH, 0)
                m.next = "REFRESH"
            with m.State("REFRESH"), m.If(self.sent):
                m.d.sync += due.eq(0)
                wait.start(m, cycles.rfc - 1)
                m.next = "REFRESHING"
            with m.State("REFRESHING"), m.If(wait.done):
                with m.If(initialised):
                    m.next = "TAKE"
                with m.Elif(refreshes == 1):
                    give(Command.MODE, mode_register(burst=split.burst, cas_latency=cycles.cas_latency))
                    m.next = "MODE"
                with m.Else():
                    m.d.sync += refreshes.eq(refreshes - 1)
                    give(Command.REFRESH, 0)
                    m.next = "REFRESH"
            with m.State("MODE"), m.If(self.sent):
                m.d.sync += initialised.eq(1)
                wait.start(m, cycles.mrd - 1)
                m.next = "MODE_SET"
            with m.State("MODE_SET"), m.If(wait.done):
                m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += self.i.ready.eq(~due)
                m.d.sync += [
                    held.write.eq(self.i.payload.write),
                    held.error.eq(outside),
                    held.bank.eq(bank),
                    held.place.eq(place),
                    held_row.eq(row),
                ]
                with m.If(due):
                    m.next = "DRAIN"
                with m.Elif(self.i.valid):
                    m.next = "COMPARE"
            with m.State("DRAIN"), m.If(self.closable.all()):
                give(Command.PRECHARGE, ALL_BANKS)
                m.next = "CLOSE"
            with m.State("COMPARE"):
                m.d.sync += [
                    same_row.eq(held.error | (is_open.bit_select(held.bank, 1) & (open_row.data == held_row))),
                    closed.eq(~is_open.bit_select(held.bank, 1)),
                ]
                m.next = "HAND_ON"
            with m.State("HAND_ON"):
                with m.If(same_row):
                    m.d.comb += self.prepared_valid.eq(self.room)
                    with m.If(self.room):
                        m.next = "TAKE"
                with m.Elif(closed):
                    give(Command.ACTIVATE, held_row, held.bank)
                    m.next = "ACTIVATE"
                with m.Elif(self.closable.bit_select(held.bank, 1)):
                    give(Command.PRECHARGE, 0, held.bank)
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"), m.If(self.sent):
                wait.start(m, cycles.rp - 1)
                m.next = "PRECHARGING"
            with m.State("PRECHARGING"), m.If(wait.done):
                give(Command.ACTIVATE, held_row, held.bank)
                m.next = "ACTIVATE"
            with m.State("ACTIVATE"), m.If(self.sent):
                m.d.comb += set_row.en.eq(1)
                m.d.sync += [is_open.bit_select(held.bank, 1).eq(1), same_row.eq(1)]
                m.next = "HAND_ON"

        # Last, so that a refresh that falls due in the cycle of one before it is not forgotten.
        m.d.sync += interval.eq(interval - 1)
        with m.If(interval == 0):
            m.d.sync += [interval.eq(cycles.refresh_interval - 1), due.eq(1)]
        return m
