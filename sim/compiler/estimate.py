"""What commands cost, roughly, in cycles with an SDRAM: enough to choose between ways to lower the same operations.

Between two WAITs array, reader, writer and external memory work side by side; at a WAIT all of them end.
"""

from collections.abc import Iterable
from typing import Final

from sim.compiler.builder import NEAR
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port, payload_bytes
from sim.machine.presets import MachinePreset
from sim.machine.records import sent_fields

EXTERNAL_CYCLES: Final = 7
"""Cycles of a beat of external memory: SDRAM at full."""


def estimate(commands: Iterable[Command], preset: MachinePreset, load: int, *, in_turns: bool = False) -> int:
    """Cycles of commands whose addresses are a Builder's.

    load: cycles of a LOAD. in_turns: the reader has nothing else to do while external memory answers, as it takes one
    READ after another: nearer to the cycle model where much of both memories is read between two WAITs.
    """
    beat = preset.beat_bytes
    external_cycles = EXTERNAL_CYCLES if in_turns else 1
    total = array = read = written = external = 0
    for command in commands:
        external += COMMAND_BYTES // beat
        if command.opcode == Opcode.READ:
            assert command.port is not None
            far = external_beats(command)
            payloads = max(1, beat // payload_bytes(command.port, preset))
            read += (command.beats - far) * payloads + far * max(external_cycles, payloads)
        elif command.opcode == Opcode.WRITE:
            written += command.beats
        elif command.opcode == Opcode.SEND and command.port == Port.ARRAY_COMMAND:
            fields = sent_fields(command.port, command.payload)
            passes = fields["tiles"] * fields["groups"] * fields["planes"] * fields["runs"]
            array += passes * (load + fields["queries"])
        if command.opcode in (Opcode.READ, Opcode.WRITE):
            external += external_beats(command)
        if command.opcode == Opcode.WAIT:
            total += max(array, read, written, EXTERNAL_CYCLES * external)
            array = read = written = external = 0
    return total + max(array, read, written, EXTERNAL_CYCLES * external)


def external_beats(command: Command) -> int:
    """Beats of a READ or WRITE that are not of near memory; of an addition the operands may be in one each."""
    near = command.address >= NEAR // 2
    for count, stride in zip(command.counts[1:], command.strides, strict=True):
        if count == 2 and abs(stride) >= NEAR // 2:
            return command.beats // 2
    return 0 if near else command.beats
