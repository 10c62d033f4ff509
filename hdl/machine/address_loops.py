"""Four nested loops with strides to one address of a beat per cycle."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.loops import Loops
from hdl.machine.fault import WHERE_BITS
from hdl.machine.jobs import Beats
from sim.machine.commands import COUNT_MAX, DIMENSIONS


class AddressLoops(wiring.Component):
    """The beats of a READ or WRITE, one per transfer of `o`, and whether each of them may be touched.

    Step (i0, i1, i2, i3), i0 fastest, is at address + i0 + i1 * strides[0] + i2 * strides[1] + i3 * strides[2] modulo
    2**address_bits. `last`: the step ends the innermost token_dims loops all at once; `final`: it ends all four.
    `near`: in near memory; `outside`: in neither memory; `below`: less than `lowest`, and in external memory. `where`
    is handed through.

    Throughput: one step per cycle, and one idle cycle between two jobs. Latency from a job to its first step: 2 cycles.
    """

    LATENCY = 2

    def __init__(self, beats: Beats) -> None:
        self._beats = beats
        step = {
            "address": unsigned(beats.address_bits),
            **{name: unsigned(1) for name in ("last", "final", "near", "outside", "below")},
            "where": unsigned(WHERE_BITS),
        }
        super().__init__(
            {
                "lowest": In(beats.address_bits),
                "i": In(stream.Signature(beats.loops_layout)),
                "o": Out(stream.Signature(data.StructLayout(step))),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(
        address: int, counts: Sequence[int], strides: Sequence[int], token_dims: int, address_bits: int
    ) -> list[tuple[int, bool, bool]]:
        """(address, last, final) of every step."""
        steps: list[tuple[int, bool, bool]] = []
        total = counts[0] * counts[1] * counts[2] * counts[3]
        for number in range(total):
            rest, place, ends, last = number, address, True, False
            for dimension, count in enumerate(counts):
                rest, index = divmod(rest, count)
                place += index * (1, *strides)[dimension]
                ends = ends and index == count - 1
                last = last or (ends and dimension == token_dims - 1)
            steps.append((place % (1 << address_bits), last, number == total - 1))
        return steps

    def elaborate(self, platform: Any) -> Elaboratable:
        """Every loop notes where its round began; the innermost one that goes on says where all inside it begin."""
        m = Module()
        m.submodules.loops = loops = Loops([COUNT_MAX] * DIMENSIONS)
        job = self.i.payload
        active, starting, stepping, free = Signal(), Signal(), Signal(), Signal()
        bits = self._beats.address_bits
        places = [Signal(bits, name=f"place{number}", reset_less=True) for number in range(DIMENSIONS)]
        strides = [Const(1, bits)] + [
            Signal(bits, name=f"stride{number}", reset_less=True) for number in range(1, DIMENSIONS)
        ]
        token_dims = Signal.like(job.token_dims, reset_less=True)
        where = Signal.like(job.where, reset_less=True)
        m.d.comb += [
            self.i.ready.eq(~active),
            starting.eq(self.i.valid & ~active),
            loops.start.eq(starting),
            *(loops.counts[f"loop{number}"].eq(job.counts[number]) for number in range(DIMENSIONS)),
            free.eq(~self.o.valid | self.o.ready),
            stepping.eq(active & free),
            loops.step.eq(stepping),
            self.o_idle.eq(~active & ~self.o.valid),
        ]
        origin, stride = places[-1], strides[-1]
        for number in reversed(range(DIMENSIONS - 1)):
            origin = Mux(loops.ends[number], origin, places[number])
            stride = Mux(loops.ends[number], stride, strides[number])
        following, external = Signal(bits), Signal()
        m.d.comb += external.eq(places[0] < self._beats.count)
        m.d.comb += following.eq(origin + stride)
        with m.If(starting):
            m.d.sync += [
                active.eq(1),
                token_dims.eq(job.token_dims),
                where.eq(job.where),
                *(place.eq(job.address) for place in places),
                *(own.eq(given) for own, given in zip(strides[1:], job.strides, strict=True)),
            ]
        with m.Elif(stepping):
            m.d.sync += [active.eq(~loops.ends[-1]), places[0].eq(following)]
            for number in range(1, DIMENSIONS):
                with m.If(loops.ends[number - 1]):
                    m.d.sync += places[number].eq(following)
        with m.If(free):
            o = self.o.payload
            m.d.sync += [
                self.o.valid.eq(active),
                o.address.eq(places[0]),
                o.last.eq(Cat(Const(0, 1), loops.ends).bit_select(token_dims, 1)),
                o.final.eq(loops.ends[-1]),
                o.near.eq(~external),
                o.outside.eq(places[0] >= self._beats.count + self._beats.near),
                o.below.eq(external & (places[0] < self.lowest)),
                o.where.eq(where),
            ]
        return m
