"""Which program a command runs: one that `python -m sim compile` wrote, or one that is made now."""

import argparse
from pathlib import Path
from typing import Any

from sim.compiler.compile import Program, compile_encoder
from sim.compiler.folder import ModelIdentity, read_program
from sim.contract.errors import UserError
from sim.contract.folder import ModelFolder
from sim.golden import GoldenModel
from sim.machine.presets import PRESETS, preset_of


def add_program_options(parser: Any) -> None:
    """Add the options from which `chosen_program` takes the program to a parser or a group of one."""
    parser.add_argument("--preset", metavar="NAME", help=f"compile the program for this machine: {', '.join(PRESETS)}")
    parser.add_argument(
        "--memory-mb", metavar="N", type=int, help="MB of external memory, a power of two (default: the preset's)"
    )
    parser.add_argument(
        "--program", metavar="PROGRAM_DIR", type=Path, help="program that `python -m sim compile` wrote, as it stands"
    )


def chosen_program(arguments: argparse.Namespace, folder: ModelFolder, model: GoldenModel) -> Program:
    """The program that is named, or one made for the preset.

    arguments: preset, memory_mb and program as `add_program_options` has them, and `model`, the model's folder.
    Raises UserError where neither is named, and for a program of another model, preset or size of memory.
    """
    if arguments.program is None:
        if arguments.preset is None:
            raise UserError("there is no program; give --preset NAME to compile one, or --program PROGRAM_DIR")
        return compile_encoder(model.parameters, model.architecture, preset_of(arguments.preset, arguments.memory_mb))
    program, identity = read_program(arguments.program)
    if identity != ModelIdentity.of_manifest(folder.manifest):
        raise UserError(f"{arguments.program} is of another model than {arguments.model}; compile the program again")
    if arguments.preset not in (None, program.preset.name):
        raise UserError(
            f"{arguments.program} is for preset {program.preset.name}, not {arguments.preset}; compile it for that one"
        )
    if arguments.memory_mb is not None and arguments.memory_mb << 20 != program.preset.memory_bytes:
        raise UserError(
            f"{arguments.program} is for {program.preset.memory_bytes >> 20} MB of memory, not {arguments.memory_mb}; "
            "compile it for that size"
        )
    return program
