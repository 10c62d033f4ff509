"""Cycles of a program, layer by layer, and what binds each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from sim.compiler.compile import Layer, Program
from sim.compiler.traffic import traffic
from sim.cycles.memory import MemoryRate
from sim.cycles.once import Once
from sim.cycles.timeline import Timeline
from sim.machine.commands import BASES, COMMAND_BYTES, Command, Opcode


@dataclass(frozen=True)
class LayerCycles:
    """A layer by itself, from reset to STOP, as `python -m sim layers` measures it.

    macs: of the array's passes, all rows and columns, missing ones included. passes: RUNs. mac_roof: cycles of their
    tokens. bytes_read, bytes_written: of external memory, by READs and WRITEs. memory_roof: cycles of all its beats,
    commands included. bytes_near_read, bytes_near_written, near_roof: of near memory, whose ports move both at once.
    bytes_constants: of bytes_read, those of the program's image. source_roof: cycles of these and of the commands where
    a source of its own has the image; memory_roof is without them then.
    bytes_once: of external memory, its inputs, weights and result once each (Once). bytes_again: the least beyond that
    with the preset's buffers (sim.cycles.again). traffic_bound: cycles of both.
    busy: cycles that every unit needs at its rate, by the names of hdl.activity.machine_parts.
    """

    names: tuple[str, ...]
    kind: str
    cycles: int
    macs: int
    passes: int
    mac_roof: int
    memory_roof: int
    near_roof: int
    bytes_read: int
    bytes_written: int
    bytes_near_read: int
    bytes_near_written: int
    bytes_constants: int
    source_roof: int
    bytes_once: int
    bytes_again: int
    traffic_bound: int
    busy: Mapping[str, float]

    @property
    def lower_bound(self) -> int:
        """Cycles below which this step cannot be on this array and memory; with `bytes_again`, in any of the ways to
        hold operands that sim.cycles.again knows."""
        return max(self.mac_roof, self.traffic_bound)

    @property
    def ratio(self) -> float:
        """Cycles over those of the lower bound."""
        return self.cycles / max(self.lower_bound, 1)

    @property
    def roof(self) -> int:
        """The highest of all."""
        return max(self.mac_roof, self.memory_roof, self.near_roof, self.source_roof)

    @property
    def bound(self) -> str:
        """`array`, `memory`, `near` or `source`: whose roof is the highest."""
        roofs = {"array": self.mac_roof, "memory": self.memory_roof, "near": self.near_roof, "source": self.source_roof}
        return max(roofs, key=lambda name: roofs[name])


def rolled_out(commands: list[Command], first: int, stop: int) -> Iterator[tuple[Command, bool]]:
    """Commands first..stop in the order in which they are done, addresses resolved; and whether a REPEAT goes back."""
    at, done = first, 0
    bases = [0] * (BASES + 1)
    while at < stop:
        command = commands[at]
        if command.opcode == Opcode.REPEAT:
            again = done + 1 < command.rounds
            yield command, again
            if again:
                done += 1
                bases = [0, *(base + step for base, step in zip(bases[1:], command.steps, strict=True))]
                at = command.address // COMMAND_BYTES
                continue
            done, bases = 0, [0] * (BASES + 1)
        elif command.base:
            yield replace(command, address=command.address + bases[command.base]), False
        else:
            yield command, False
        at += 1


def layer_cycles(program: Program, layer: Layer, memory: MemoryRate, more: Mapping[str, int]) -> LayerCycles:
    """Of one layer. more: as of program_cycles."""
    preset = program.preset
    image = np.frombuffer(program.image, np.uint8)
    timeline, once = Timeline(preset, memory, image), Once(preset, layer.result)
    first, stop = (address // COMMAND_BYTES for address in layer.commands)
    for command, again in rolled_out(program.commands, first, stop):
        timeline.do(command, again=again)
        once.do(command)
    timeline.do(Command(Opcode.STOP))
    moved = traffic(program.commands, layer.commands, preset, program.writable)
    fetched = moved.run_commands * COMMAND_BYTES // preset.beat_bytes
    of_image = moved.beats_constants + fetched
    beats = moved.beats_read - moved.beats_constants + moved.beats_written
    beats += of_image if memory.source is None else 0
    array, roof = timeline.array, round(beats * memory.beat)
    source_roof = round(of_image * (memory.source or 0))
    bytes_again = sum(more.get(name, 0) for name in layer.names)
    near_roof = max(moved.beats_near_read, moved.beats_near_written)
    return LayerCycles(
        names=layer.names,
        kind=layer.kind,
        # The timeline gives fetch what READs leave, but does not slow them down for it.
        cycles=max(round(timeline.end()), array.run_cycles, roof, near_roof, source_roof),
        macs=array.run_cycles * preset.rows * preset.columns,
        passes=array.passes,
        mac_roof=array.run_cycles,
        memory_roof=roof,
        near_roof=near_roof,
        bytes_read=moved.beats_read * preset.beat_bytes,
        bytes_written=moved.beats_written * preset.beat_bytes,
        bytes_near_read=moved.beats_near_read * preset.beat_bytes,
        bytes_near_written=moved.beats_near_written * preset.beat_bytes,
        bytes_constants=moved.beats_constants * preset.beat_bytes,
        source_roof=source_roof,
        bytes_once=once.beats * preset.beat_bytes,
        bytes_again=bytes_again,
        traffic_bound=round((once.beats + bytes_again / preset.beat_bytes) * memory.beat),
        busy={
            "fetch": float(fetched),
            "reader": float(moved.beats_read + moved.beats_near_read),
            "writer": float(moved.beats_written + moved.beats_near_written),
            "external memory": beats * memory.beat,
            "near memory": float(near_roof),
            **timeline.busy(),
        },
    )


def program_cycles(
    program: Program, memory: MemoryRate, more: Mapping[str, int] = MappingProxyType({})
) -> list[LayerCycles]:
    """Of every layer. more: bytes by operation that external memory gives more than once (sim.cycles.again); without
    it the bounds are those of buffers of any size."""
    return [layer_cycles(program, layer, memory, more) for layer in program.layers]
