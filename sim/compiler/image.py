"""The image of a program: commands, constants behind them, then the memory that the program works in.

Until then addresses are relative: those of constants count from DATA on, those of near memory from NEAR on, those of
working memory from 0 on, and distances between them carry DATA and NEAR along, so that placing all is one addition.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sim.compiler.memory import aligned
from sim.contract.errors import UserError
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.presets import MEMORY_MB, MachinePreset

DATA: Final = 1 << 40
NEAR: Final = 1 << 56


def placed_image(
    relative: Sequence[Command], constants: bytes | bytearray, tensors: int, preset: MachinePreset
) -> tuple[bytes, list[Command], int]:
    """Bytes of commands and constants, the commands as they stand in them, and the first address of working memory.

    tensors: bytes of working memory. Raises UserError when the memory of the preset is too small.
    """
    data = aligned(len(relative) * COMMAND_BYTES)
    work = data + aligned(len(constants))
    needed = work + tensors
    if needed > preset.memory_bytes:
        raise UserError(
            f"the program needs {needed:,} bytes of memory (commands {data:,}, constants {work - data:,}, tensors "
            f"{tensors:,}), preset {preset.name} has {preset.memory_bytes:,}; {_larger(needed)}"
        )

    def placed(address: int) -> int:
        near = (address + NEAR // 2) // NEAR
        address -= near * NEAR
        of_data = (address + DATA // 2) // DATA
        return near * (preset.memory_bytes - work) + of_data * (data - work) + address - of_data * DATA

    commands = []
    for command in relative:
        if command.opcode in (Opcode.READ, Opcode.WRITE):
            a, b, c = (placed(stride) for stride in command.strides)
            commands.append(replace(command, address=work + placed(command.address), strides=(a, b, c)))
        elif command.opcode == Opcode.REPEAT:
            a, b, c, d, e = (placed(step) for step in command.steps)
            commands.append(replace(command, steps=(a, b, c, d, e)))
        else:
            commands.append(command)
    image = bytearray(b"".join(command.encode() for command in commands))
    image.extend(bytes(data - len(image)))
    image.extend(constants)
    image.extend(bytes(work - len(image)))
    return bytes(image), commands, work


def _larger(needed: int) -> str:
    fitting = [size for size in MEMORY_MB if size << 20 >= needed]
    return f"give --memory-mb {fitting[0]}" if fitting else "no memory is as large; export a smaller model"
