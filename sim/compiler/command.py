"""`python -m sim compile`: an exported model as a program of the machine."""

import argparse
from pathlib import Path
from typing import Any

from sim.compiler.compile import compile_encoder
from sim.compiler.folder import ModelIdentity, write_program
from sim.contract.folder import read_folder
from sim.golden import GoldenModel
from sim.machine.presets import PRESETS, preset_of
from sim.record import write_json

EXAMPLE = """\
example:
  python -m sim compile build/model --preset full --out build/program

The folder holds image.bin, commands and constants as they lie in the machine's memory, and program.json.
exit status: 0 success, 1 a fault in what was given (one line on stderr), 2 bad use of the command line
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compile",
        description="Compile the image encoder of an exported model to a program of the machine.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    parser.add_argument("--preset", metavar="NAME", required=True, help=f"machine: {', '.join(PRESETS)}")
    parser.add_argument(
        "--memory-mb", metavar="N", type=int, help="MB of external memory, a power of two (default: the preset's)"
    )
    parser.add_argument("--out", metavar="PROGRAM_DIR", type=Path, required=True, help="folder of the program")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write figures, layer by layer, as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    preset = preset_of(arguments.preset, arguments.memory_mb)
    folder = read_folder(arguments.model)
    model = GoldenModel.from_contents(folder)
    program = compile_encoder(model.parameters, model.architecture, preset)
    document = write_program(arguments.out, program, ModelIdentity.of_manifest(folder.manifest))
    layers = document["layers"]
    beat = preset.beat_bytes
    totals = {
        "commands_stored": len(program.commands),
        "commands_run": sum(layer["run_commands"] for layer in layers) + 1,
        "bytes_read": beat * sum(layer["beats_read"] for layer in layers),
        "bytes_written": beat * sum(layer["beats_written"] for layer in layers),
        "image_bytes": len(program.image),
        "needed_bytes": program.needed_bytes,
        "memory_bytes": preset.memory_bytes,
    }
    if arguments.json is not None:
        write_json(arguments.json, {"preset": preset.name, "model": document["model"], **totals, "layers": layers})
    print(
        f"{arguments.out}: {len(layers)} steps, {len(program.commands):,} commands, {totals['commands_run']:,} run, "
        f"{program.needed_bytes:,} of {preset.memory_bytes:,} bytes, "
        f"{(totals['bytes_read'] + totals['bytes_written']) / 1e6:,.1f} MB moved"
    )
    return 0
