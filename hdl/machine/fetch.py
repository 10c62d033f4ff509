"""Command fetch: reads the program from address 0 on, some commands ahead."""

from typing import Any, Final

from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.fault import WHERE_BITS
from hdl.machine.jobs import COMMAND_LAYOUT, Beats
from hdl.memory.port import response_layout
from hdl.parameters import require

FETCHED_LAYOUT: Final = data.StructLayout(
    {
        "command": COMMAND_LAYOUT,
        "error": unsigned(1),
        "outside": unsigned(1),
        "where": unsigned(WHERE_BITS),
    }
)
"""error: memory could not read it. outside: there is none, memory has ended. where: its number."""


class Fetch(wiring.Component):
    """Commands in order on `o`, from `start` to `stop`; `start` only while `o_idle`.

    With `stop`, commands under way are dropped. `o_idle`: stopped, and no response is due.

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
        beats = self._beats
        places = self.places
        m.submodules.words = words = fifo.SyncFIFOBuffered(width=COMMAND_LAYOUT.size + 1, depth=self._depth)
        running, dropping = Signal(), Signal()
        address = Signal(range(beats.count + 1))
        credits = Signal(range(places + 1), init=places)
        asked, taken, empty = Signal(), Signal(), Signal()
        due = Signal(range(places + 1))
        m.d.comb += [
            self.request.valid.eq(running & (credits != 0) & (address != beats.count)),
            self.request.payload.eq(address),
            asked.eq(self.request.valid & self.request.ready),
            self.response.ready.eq(1),
            dropping.eq(~running),
            words.r_en.eq(self.o.ready | dropping),
            taken.eq(words.r_rdy & words.r_en),
            empty.eq(~words.r_rdy & (words.level == 0)),
            self.o.payload.outside.eq(empty & (due == 0) & (address == beats.count)),
            self.o.valid.eq((words.r_rdy | self.o.payload.outside) & running),
            Cat(self.o.payload.command.as_value(), self.o.payload.error).eq(words.r_data),
        ]
        # Of a command cut off by `stop` the beats asked for come all the same; the count of beats says when.
        index = Signal(range(max(beats.per_command, 2)))
        earlier = Signal((beats.per_command - 1) * beats.bits)
        failed = Signal()
        complete = Signal()
        answer = self.response.payload
        m.d.comb += [
            complete.eq(self.response.valid & (index == beats.per_command - 1)),
            words.w_en.eq(complete & running),
            words.w_data.eq(Cat(earlier, answer.data, failed | answer.error)),
            self.o_idle.eq(~running & (due == 0) & empty),
        ]
        m.d.sync += due.eq(due + asked - self.response.valid)
        with m.If(self.response.valid):
            m.d.sync += [
                index.eq(index + 1),
                earlier.eq(Cat(earlier, answer.data)[beats.bits :]),
                failed.eq((failed | answer.error) & ~complete),
            ]
            with m.If(complete):
                m.d.sync += index.eq(0)
        with m.If(asked):
            m.d.sync += address.eq(address + 1)
        m.d.sync += credits.eq(credits - asked + (taken << (beats.per_command.bit_length() - 1)))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.payload.where.eq(self.o.payload.where + 1)
        with m.If(self.stop):
            m.d.sync += running.eq(0)
        with m.Elif(self.start):
            m.d.sync += [
                running.eq(1),
                address.eq(0),
                index.eq(0),
                failed.eq(0),
                credits.eq(places),
                self.o.payload.where.eq(0),
            ]
        return m
