"""READ and WRITE: when the data pins are free for which, and when a row may be closed behind them."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.countdown import Countdown
from hdl.memory.sdram.interface import QUEUE_DEPTH, prepared_layout
from hdl.memory.sdram.pins import Command
from hdl.memory.sdram.timing import BANKS, SdramCycles
from hdl.softmax.queue import CreditQueue, Credits


class ColumnControl(wiring.Component):
    """Gives READ and WRITE for requests in their order, a burst as soon as the data pins are free for it.

    Bursts of one kind, and a READ behind a WRITE, follow each other without a gap; a WRITE behind a READ comes
    burst + cas_latency + 1 cycles after it: data of the READ, and a cycle in which nobody drives.

    i_valid, i: requests whose row is open, taken at once; `room` says whether one more may come. valid: the cycle of a
    burst's command, or of nothing in its place (`error`); first, last: burst of its beat. closable: by bank, high when
    no request that came in needs its row and PRECHARGE, given two cycles later, is allowed.

    Times fit the structure (limits.check_times): a WRITE's recovery is over when the burst after it ends.
    """

    def __init__(self, address: AddressMap, cycles: SdramCycles) -> None:
        self._map, self._cycles = address, cycles
        layout = prepared_layout(address.place_bits)
        super().__init__(
            {
                "i_valid": In(1),
                "i": In(layout),
                "room": Out(1),
                "valid": Out(1),
                "command": Out(Command),
                "request": Out(layout),
                "burst": Out(range(max(2, address.bursts))),
                "first": Out(1),
                "last": Out(1),
                "closable": Out(BANKS),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A decision, and a register behind it; what follows from a command counts from that register."""
        m = Module()
        cycles, burst, bursts = self._cycles, self._map.burst, self._map.bursts
        m.submodules.queue = queue = CreditQueue(prepared_layout(self._map.place_bits), depth=QUEUE_DEPTH)
        m.submodules.credits = credits = Credits(QUEUE_DEPTH)
        read_gap = burst + cycles.cas_latency + 1
        may_read = Countdown(m, "may_read", longest=burst)
        may_write = Countdown(m, "may_write", longest=read_gap)
        head, go, ending, number = queue.o.payload, Signal(), Signal(), Signal.like(self.burst)
        m.d.comb += [
            queue.i_valid.eq(self.i_valid),
            queue.i.eq(self.i),
            credits.spend.eq(self.i_valid),
            credits.refund.eq(go & ending),
            self.room.eq(credits.available),
            go.eq(queue.o.valid & Mux(head.write, may_write.done, may_read.done)),
            ending.eq(number == bursts - 1),
            queue.o.ready.eq(go & ending),
        ]
        m.d.sync += [self.valid.eq(go), self.request.eq(head), self.burst.eq(number)]
        m.d.sync += [self.first.eq(number == 0), self.last.eq(ending)]
        m.d.sync += self.command.eq(Mux(head.error, Command.NOP, Mux(head.write, Command.WRITE, Command.READ)))
        with m.If(go):
            if bursts > 1:
                m.d.sync += number.eq(Mux(ending, 0, number + 1))
            may_read.start(m, burst)
            with m.If(head.write):
                may_write.start(m, burst)
            with m.Else():
                may_write.start(m, read_gap)

        # An ACTIVATE is never without a burst: the shortest times of a row are kept by waiting behind the burst.
        row_time = max(cycles.ras - cycles.rcd, cycles.rc - cycles.rp - cycles.rcd)
        read_hold, write_hold = max(burst, row_time), max(burst - 1 + cycles.wr, row_time)
        for bank in range(BANKS):
            needed = Signal(range(QUEUE_DEPTH + 2), name=f"needed{bank}")
            hold = Countdown(m, f"hold{bank}", longest=max(read_hold, write_hold))
            enters, burst_here, leaves = (Signal(name=f"{name}{bank}") for name in ("enters", "burst_here", "leaves"))
            m.d.comb += [
                enters.eq(self.i_valid & ~self.i.error & (self.i.bank == bank)),
                burst_here.eq(self.valid & ~self.request.error & (self.request.bank == bank)),
                leaves.eq(burst_here & self.last),
            ]
            with m.If(enters & ~leaves):
                m.d.sync += needed.eq(needed + 1)
            with m.Elif(leaves & ~enters):
                m.d.sync += needed.eq(needed - 1)
            # `closable`, one register behind, may rise one cycle before PRECHARGE passes the register of `valid`.
            with m.If(burst_here & self.request.write):
                hold.start(m, write_hold - 2)
            with m.Elif(burst_here):
                hold.start(m, read_hold - 2)
            m.d.sync += self.closable[bank].eq((needed == 0) & hold.done & ~enters)
        return m
