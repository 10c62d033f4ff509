"""What a program moves: commands fetched, beats read and written of external and near memory, rounds included."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.presets import MachinePreset


@dataclass(frozen=True)
class Beats:
    """Of memory, by READs and WRITEs. beats_constants: those of beats_read that are of the program's image."""

    beats_read: int = 0
    beats_written: int = 0
    beats_near_read: int = 0
    beats_near_written: int = 0
    beats_constants: int = 0

    def __add__(self, other: "Beats") -> "Beats":
        return Beats(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Beats)))

    def __mul__(self, times: int) -> "Beats":
        return Beats(*(getattr(self, one.name) * times for one in fields(Beats)))


@dataclass(frozen=True)
class Traffic:
    """stored_commands: in the image. run_commands: with all rounds. beats_read, beats_written: by READs and WRITEs, of
    external memory; beats_near_read, beats_near_written: of near memory; beats_constants: of beats_read, those of the
    image: weights, scales and tables, which nothing writes."""

    stored_commands: int
    run_commands: int
    beats_read: int
    beats_written: int
    beats_near_read: int
    beats_near_written: int
    beats_constants: int


def is_near(command: Command, preset: MachinePreset) -> bool:
    """A READ or WRITE of near memory: its first beat is, and rounds move none from one memory to the other."""
    return command.address >= preset.memory_bytes


def near_share(command: Command, preset: MachinePreset) -> float:
    """Of the beats of a READ or WRITE, how many are of near memory; operands of an addition may be in one memory each.

    A loop that goes from one memory to the other has two rounds.
    """
    near = is_near(command, preset)
    for count, stride in zip(command.counts[1:], command.strides, strict=True):
        if count == 2 and (command.address + stride >= preset.memory_bytes) != near:
            return 0.5
    return 1.0 if near else 0.0


def moved(command: Command, preset: MachinePreset, writable: int) -> Beats:
    """By one command, done once. writable: where the image ends; rounds move none across it."""
    beats, near = command.beats, is_near(command, preset)
    if command.opcode == Opcode.READ:
        of_near = int(beats * near_share(command, preset))
        constants = beats - of_near if command.address < writable else 0
        return Beats(beats_near_read=of_near, beats_read=beats - of_near, beats_constants=constants)
    if command.opcode == Opcode.WRITE:
        return Beats(beats_near_written=beats) if near else Beats(beats_written=beats)
    return Beats()


def traffic(commands: Sequence[Command], span: tuple[int, int], preset: MachinePreset, writable: int) -> Traffic:
    """Of the commands at addresses span[0]..span[1] of a program that may write from `writable` on."""
    first, stop = span[0] // COMMAND_BYTES, span[1] // COMMAND_BYTES
    run, beats = stop - first, Beats()
    for number in range(first, stop):
        command = commands[number]
        if command.opcode == Opcode.REPEAT:
            body = commands[command.address // COMMAND_BYTES : number]
            more = command.rounds - 1
            run += more * (len(body) + 1)
            beats += sum((moved(one, preset, writable) for one in body), Beats()) * more
        else:
            beats += moved(command, preset, writable)
    return Traffic(stop - first, run, *(getattr(beats, one.name) for one in fields(Beats)))
