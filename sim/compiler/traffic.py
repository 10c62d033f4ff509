"""What a program moves: commands fetched and beats read and written, rounds included."""

from collections.abc import Sequence
from dataclasses import dataclass

from sim.machine.commands import COMMAND_BYTES, Command, Opcode


@dataclass(frozen=True)
class Traffic:
    """stored_commands: in the image. run_commands: with all rounds. beats_read, beats_written: by READs and WRITEs."""

    stored_commands: int
    run_commands: int
    beats_read: int
    beats_written: int


def traffic(commands: Sequence[Command], span: tuple[int, int]) -> Traffic:
    """Of the commands at addresses span[0]..span[1] of a program."""
    first, stop = span[0] // COMMAND_BYTES, span[1] // COMMAND_BYTES
    run, read, written = stop - first, 0, 0
    for number in range(first, stop):
        command = commands[number]
        if command.opcode == Opcode.READ:
            read += command.beats
        elif command.opcode == Opcode.WRITE:
            written += command.beats
        elif command.opcode == Opcode.REPEAT:
            body = commands[command.address // COMMAND_BYTES : number]
            more = command.rounds - 1
            run += more * (len(body) + 1)
            read += more * sum(one.beats for one in body if one.opcode == Opcode.READ)
            written += more * sum(one.beats for one in body if one.opcode == Opcode.WRITE)
    return Traffic(stop - first, run, read, written)
