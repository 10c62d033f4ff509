"""`python -m sim cycles`: what an image encoder costs on the machine, layer by layer, by the cycle model."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sim.compiler.program_choice import add_program_options, chosen_program
from sim.contract.errors import UserError
from sim.contract.folder import read_folder
from sim.cycles.again import bytes_again
from sim.cycles.memory import MEMORIES, SDRAM_MHZ, memory_rate, with_source
from sim.cycles.model import program_cycles
from sim.cycles.roofline import roofline
from sim.cycles.trace import model_trace
from sim.golden import GoldenModel
from sim.probes import check_writable
from sim.record import write_json, write_whole
from sim.trace import write_trace
from sim.weight_source import add_weight_source, weight_source_of

EXAMPLE = """\
example:
  python -m sim cycles build/model --preset full --memory sdram --json cycles.json
  python -m sim cycles build/model --preset full --trace cycles-trace.json --roofline roofline.svg

Prints per layer: cycles, the share of the highest roof, how many times the lower bound they are (tokens of the array's
RUNs, or of external memory inputs, weights and result once and what the preset's buffers make it give again), bytes of
external memory and the least of them.
Needs no picture and simulates nothing; how far it is from the hardware: "Cycles" in docs/machine.md.
exit status: 0 success, 1 a fault in what was given (one line on stderr), 2 bad use of the command line
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "cycles",
        description="Cycles of the image encoder of an exported model on the machine, by a model of the hardware.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    add_program_options(parser)
    parser.add_argument("--memory", choices=MEMORIES, default=MEMORIES[0], help="memory (default: onchip)")
    parser.add_argument(
        "--sdram-mhz",
        metavar="MHZ",
        type=float,
        default=SDRAM_MHZ,
        help=f"clock of the SDRAM (default: {SDRAM_MHZ}); simulated hardware has it on the preset's clock",
    )
    add_weight_source(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write figures, layer by layer, as JSON")
    parser.add_argument(
        "--trace", metavar="FILE", type=Path, help="where to write layers and units as a timeline, for ui.perfetto.dev"
    )
    parser.add_argument(
        "--roofline", metavar="SVG", type=Path, help="where to draw layers below the roofs of array and memory"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    if arguments.sdram_mhz <= 0:
        raise UserError(f"--sdram-mhz {arguments.sdram_mhz:g} is no clock; give MHz above 0")
    if arguments.roofline is not None and arguments.roofline.suffix.lower() != ".svg":
        raise UserError(f"{arguments.roofline} is written as SVG; give it a name that ends in .svg")
    outputs = [path for path in (arguments.json, arguments.trace, arguments.roofline) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("--json, --trace and --roofline would write the same file; name one for each")
    for path in outputs:
        check_writable(path)
    source_mb_s = weight_source_of(arguments)
    folder = read_folder(arguments.model)
    model = GoldenModel.from_contents(folder)
    program = chosen_program(arguments, folder, model)
    preset = program.preset
    memory = memory_rate(arguments.memory, preset, sdram_mhz=arguments.sdram_mhz)
    if source_mb_s is not None:
        memory = with_source(memory, preset, source_mb_s)
    layers = program_cycles(program, memory, bytes_again(model.parameters, model.architecture, preset))
    cycles = sum(layer.cycles for layer in layers)
    seconds = cycles / (preset.clock_mhz * 1e6)
    bound = sum(layer.lower_bound for layer in layers)
    totals = {
        "total_cycles": cycles,
        "total_lower_bound_cycles": bound,
        "ratio": cycles / bound,
        "total_seconds": seconds,
        "frames_per_second": 1 / seconds,
        "total_macs": sum(layer.macs for layer in layers),
        "total_roof_cycles": sum(layer.roof for layer in layers),
        "bytes_read": sum(layer.bytes_read for layer in layers),
        "bytes_written": sum(layer.bytes_written for layer in layers),
        "bytes_once": sum(layer.bytes_once for layer in layers),
        "bytes_again": sum(layer.bytes_again for layer in layers),
        "bytes_near_read": sum(layer.bytes_near_read for layer in layers),
        "bytes_near_written": sum(layer.bytes_near_written for layer in layers),
        "bytes_constants": sum(layer.bytes_constants for layer in layers),
    }
    if arguments.json is not None:
        document = {
            "model": str(folder.manifest["model"]),
            "preset": preset.name,
            "memory": memory.name,
            "sdram_mhz": arguments.sdram_mhz if memory.name == "sdram" else None,
            "weight_source_mb_s": source_mb_s,
            "clock_mhz": preset.clock_mhz,
            **totals,
            "layers": [
                {**asdict(layer), "bound": layer.bound, "lower_bound": layer.lower_bound, "ratio": layer.ratio}
                for layer in layers
            ],
        }
        write_json(arguments.json, document)
    title = f"{folder.manifest['model']}, {preset.name}, memory {memory.name}"
    if arguments.trace is not None:
        write_trace(arguments.trace, model_trace(f"cycle model of {title}", layers))
    if arguments.roofline is not None:
        write_whole(arguments.roofline, roofline(title, layers, preset, memory).encode())
    for layer in layers:
        share = layer.roof / layer.cycles
        moved = (layer.bytes_read + layer.bytes_written) / 1e6
        print(
            f"{layer.cycles:>12,} cycles, {share:4.0%} of them {layer.bound}, {layer.ratio:5.2f} of the lower bound, "
            f"{moved:7.2f} MB external, least {(layer.bytes_once + layer.bytes_again) / 1e6:7.2f}, {layer.names[-1]}"
        )
    print(
        f"{cycles:,} cycles, {seconds:.4f} s, {1 / seconds:.2f} frames per second at {preset.clock_mhz} MHz, "
        f"memory {memory.name}; {(totals['bytes_read'] + totals['bytes_written']) / 1e6:,.0f} MB external"
    )
    print(
        f"{cycles / bound:.2f} of the lower bound of all steps, {bound:,} cycles: of each the higher of its RUNs "
        f"({sum(layer.mac_roof for layer in layers):,}) and the least traffic: inputs, weights and result once "
        f"({totals['bytes_once'] / 1e6:,.0f} MB), and again what these buffers do not hold "
        f"({totals['bytes_again'] / 1e6:,.0f} MB), {sum(layer.traffic_bound for layer in layers):,}"
    )
    return 0
