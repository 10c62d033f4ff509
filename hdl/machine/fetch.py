"""Command fetch: reads the program from address 0 on, some commands ahead, and goes back where it says REPEAT."""

from typing import Any, Final

from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.fault import WHERE_BITS
from hdl.machine.jobs import COMMAND_LAYOUT, COUNT_BITS, Beats
from hdl.memory.port import response_layout
from hdl.parameters import require
from sim.machine.commands import COMMAND_BYTES, Opcode

OFFSET_BITS: Final = COMMAND_BYTES.bit_length() - 1

FETCHED_LAYOUT: Final = data.StructLayout(
    {
        "command": COMMAND_LAYOUT,
        "error": unsigned(1),
        "refused": unsigned(1),
        "again": unsigned(1),
        "where": unsigned(WHERE_BITS),
        "outside": unsigned(1),
    }
)
"""error: memory could not read it. refused: a REPEAT of a body or rounds that do not exist. again: a REPEAT whose body
follows once more. where: its number. outside: there is none, memory has ended."""

QUEUED_BITS: Final = FETCHED_LAYOUT.size - 1
"""All but `outside`."""


class Fetch(wiring.Component):
    """Commands in the order in which they are done, on `o`, from `start` to `stop`; `start` only while `o_idle`.

    A REPEAT is looked at when it arrives, ahead of its turn, so that the commands of the next round are on their way
    before it is done: what memory still answers from behind it is dropped. With `stop`, commands under way are dropped.
    `o_idle`: stopped, and no response is due.

    depth: commands read ahead, 1..64; `places`: beats of them. Raises ValueError naming the parameter, its limit and
    the nearest valid value.
    """

    def __init__(self, beats: Beats, *, depth: int = 8) -> None:
        self._beats = beats
        self._depth = require("depth", depth, range(1, 65), "in 1..64")
        self.places = depth * beats.per_command
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "request": Out(stream.Signature(unsigned(beats.port_bits))),
                "response": In(stream.Signature(response_layout(beat_bits=beats.bits))),
                "o": Out(stream.Signature(FETCHED_LAYOUT)),
                "o_idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Credits count beats, so that a command is asked for only when it has a place."""
        m = Module()
        beats, places = self._beats, self.places
        m.submodules.words = words = fifo.SyncFIFOBuffered(width=QUEUED_BITS, depth=self._depth)
        running, empty = Signal(), Signal()
        address = Signal(range(beats.count + 1))
        credits = Signal(range(places + 1), init=places)
        due, stale = Signal(range(places + 1)), Signal(range(places + 1))
        asked, taken, fresh, complete = Signal(), Signal(), Signal(), Signal()
        # Of a command under way: its number, beats so far, and whether one of them failed.
        where, index = Signal(WHERE_BITS), Signal(range(max(beats.per_command, 2)))
        earlier, failed = Signal((beats.per_command - 1) * beats.bits), Signal()
        answer = self.response.payload
        arriving, queued = Signal(FETCHED_LAYOUT), Signal(FETCHED_LAYOUT)
        m.d.comb += [
            self.request.valid.eq(running & (credits != 0) & (address != beats.count)),
            self.request.payload.eq(address),
            asked.eq(self.request.valid & self.request.ready),
            self.response.ready.eq(1),
            fresh.eq(self.response.valid & (stale == 0)),
            complete.eq(fresh & (index == beats.per_command - 1)),
            arriving.command.as_value().eq(Cat(earlier, answer.data)),
            arriving.error.eq(failed | answer.error),
            arriving.where.eq(where),
            words.w_en.eq(complete & running),
            words.w_data.eq(arriving.as_value()),
            words.r_en.eq(self.o.ready | ~running),
            taken.eq(words.r_rdy & words.r_en),
            empty.eq(~words.r_rdy & (words.level == 0)),
            queued.as_value().eq(words.r_data),
            self.o.payload.eq(queued),
            self.o.valid.eq(words.r_rdy & running),
            self.o_idle.eq(~running & (due == 0) & empty),
        ]
        with m.If(empty & (due == 0) & (address == beats.count)):
            m.d.comb += [self.o.valid.eq(running), self.o.payload.outside.eq(1), self.o.payload.where.eq(where)]

        jumping = Signal()
        self._repeat(m, arriving, complete, jumping)
        target = arriving.command.address[beats.offset_bits :]
        dropped = self.response.valid & ~fresh
        m.d.sync += [
            due.eq(due + asked - self.response.valid),
            credits.eq(credits - asked + dropped + (taken << (beats.per_command.bit_length() - 1))),
            stale.eq(stale - dropped),
        ]
        with m.If(asked):
            m.d.sync += address.eq(address + 1)
        with m.If(fresh):
            m.d.sync += [
                index.eq(index + 1),
                earlier.eq(Cat(earlier, answer.data)[beats.bits :]),
                failed.eq(arriving.error & ~complete),
            ]
            with m.If(complete):
                m.d.sync += [index.eq(0), where.eq(where + 1)]
        with m.If(jumping):
            m.d.sync += [
                address.eq(target),
                where.eq(arriving.command.address[OFFSET_BITS:]),
                stale.eq(due + asked - self.response.valid),
            ]
        with m.If(self.stop):
            m.d.sync += running.eq(0)
        with m.Elif(self.start):
            m.d.sync += [running.eq(1), address.eq(0), where.eq(0), index.eq(0), failed.eq(0), credits.eq(places)]
            m.d.sync += stale.eq(0)
        return m

    def _repeat(self, m: Module, arriving: Any, complete: Signal, jumping: Signal) -> None:
        """Fields `refused` and `again` of a command that arrives, and whether its body is to come once more."""
        command, where = arriving.command, arriving.where
        rounds = command.counts[0]
        done, body_end = Signal(COUNT_BITS), Signal(WHERE_BITS)
        repeat = Signal()
        m.d.comb += [
            repeat.eq(command.opcode == Opcode.REPEAT),
            arriving.refused.eq(
                repeat
                & (
                    (rounds == 0)
                    | command.address[:OFFSET_BITS].any()
                    | (command.address[OFFSET_BITS:] >= where)
                    | ((done != 0) & (where != body_end))
                )
            ),
            arriving.again.eq(repeat & ~arriving.refused & (done + 1 < rounds)),
            jumping.eq(complete & arriving.again & ~arriving.error),
        ]
        with m.If(complete & repeat):
            m.d.sync += [done.eq(done + 1), body_end.eq(where)]
            with m.If(~arriving.again):
                m.d.sync += done.eq(0)
        with m.If(self.start):
            m.d.sync += done.eq(0)
