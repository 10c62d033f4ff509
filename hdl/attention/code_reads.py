"""Which words of a block the RUNs of a command stream: a command into the reads of hdl.attention.code_buffer."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.attention.geometry import AttentionGeometry, read_layout
from hdl.attention.loops import Loops
from hdl.attention.sequencer import LOOPS


class CodeReads(wiring.Component):
    """A read for every RUN of SCORES and DENSE: that of group g and run r begins at word `word` + g * `runs` + r.

    Planes and tiles read the same words again. `release` comes with the last read of a command.
    Throughput: a read per cycle. Latency: 1 cycle from a command to its first read; it runs ahead of the RUNs, so codes
    are there when a RUN begins. The next command is taken when the last read of this one has gone.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        command = geometry.command_layout.members
        read = read_layout(geometry.block_words, geometry.array.token_depth)
        reads = data.StructLayout({**read.members, **{name: command[name] for name in LOOPS}})
        super().__init__(
            {
                "i": In(stream.Signature(reads)),
                "o": Out(stream.Signature(read)),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(command: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """Fields of every read of a command, in order."""
        counts = [range(command[name]) for name in reversed(LOOPS)]
        steps = list(product(*counts))
        for number, (_, group, _, run) in enumerate(steps):
            yield {
                "word": command["word"] + group * command["runs"] + run,
                "pitch": command["pitch"],
                "queries": command["queries"],
                "release": int(command["release"] and number == len(steps) - 1),
            }

    def elaborate(self, platform: Any) -> Elaboratable:
        """Words are counted; `group` is where planes begin again, `first` where tiles do."""
        m = Module()
        shape, output = self.i.payload, self.o.payload
        limits = [(1 << len(shape[name])) - 1 for name in LOOPS]
        m.submodules.loops = loops = Loops(limits)
        active, release = Signal(), Signal(reset_less=True)
        word, pitch, queries = (
            Signal.like(shape[name], name=name, reset_less=True) for name in ("word", "pitch", "queries")
        )
        group, first = (Signal.like(word, name=name, reset_less=True) for name in ("group", "first"))
        runs_end, planes_end, groups_end, tiles_end = loops.ends
        m.d.comb += [
            self.i.ready.eq(~active),
            self.o_idle.eq(~active),
            self.o.valid.eq(active),
            output.word.eq(word),
            output.pitch.eq(pitch),
            output.queries.eq(queries),
            output.release.eq(release & tiles_end),
            loops.start.eq(self.i.valid & ~active),
            loops.step.eq(active & self.o.ready),
        ]
        m.d.comb += [loops.counts[f"loop{number}"].eq(shape[name]) for number, name in enumerate(LOOPS)]
        with m.If(loops.start):
            m.d.sync += [active.eq(1), release.eq(shape.release), pitch.eq(shape.pitch), queries.eq(shape.queries)]
            m.d.sync += [target.eq(shape.word) for target in (word, group, first)]
        with m.If(loops.step):
            m.d.sync += active.eq(~tiles_end)
            with m.If(groups_end):
                m.d.sync += [word.eq(first), group.eq(first)]
            with m.Elif(runs_end & ~planes_end):
                m.d.sync += word.eq(group)
            with m.Else():
                m.d.sync += word.eq(word + 1)
                with m.If(planes_end):
                    m.d.sync += group.eq(word + 1)
        return m
