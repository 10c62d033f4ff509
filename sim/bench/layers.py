"""`python -m sim layers`: a program on the simulated hardware, layer by layer, against the executor."""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sim.bench.machine_bench import HARDWARE_SHA256, ImageSourceModel
from sim.bench.machine_layers import LayerRun, run_layers, trace_of_layers
from sim.bench.verilator import BenchError
from sim.compiler.program_choice import add_program_options, chosen_program
from sim.contract.errors import UserError
from sim.contract.folder import read_folder
from sim.cycles.memory import MEMORIES
from sim.golden import GoldenModel
from sim.picture import load_picture, preprocess
from sim.probes import Probes, add_probes, probes_of
from sim.record import write_json
from sim.trace import shares, write_trace
from sim.weight_source import add_weight_source, weight_source_of

EXAMPLE = """\
example:
  python -m sim layers build/model --preset small --image retina.jpg --json layers.json
  python -m sim layers build/model --preset small --image retina.jpg --layers 0:20 --json first.json
  python -m sim layers build/model --preset small --image retina.jpg --memory sdram --json sdram.json
  python -m sim layers build/model --preset small --image retina.jpg --layers 3:4 --json l.json --trace trace.json

Every layer starts from the state in which the executor leaves memory before it, and all of memory is compared behind
it. The JSON is written after every layer: an interrupted run goes on where it stopped, and ranges may run side by side.
With --trace or --wave the layers run, whether the JSON has them or not; --wave is of one layer (docs/tracing.md).
exit status: 0 no bit differs, 1 a bit differs or a fault in what was given (one line on stderr), 2 bad use
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "layers",
        description="Run the image encoder on the simulated hardware, layer by layer, and compare with the executor.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    add_program_options(parser)
    parser.add_argument("--image", metavar="FILE", type=Path, required=True, help="picture to encode (PNG, JPEG, ...)")
    parser.add_argument("--layers", metavar="A:B", default=":", help="layers A to B - 1 of the program (default: all)")
    parser.add_argument(
        "--memory",
        choices=MEMORIES,
        default=MEMORIES[0],
        help="what is behind the machine's port: onchip, a fixed latency (default); sdram, the controller and a part",
    )
    add_weight_source(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, required=True, help="where to keep every layer's result")
    add_probes(parser)
    return parser


def parse_layers(text: str, count: int) -> range:
    """`A:B` as layer numbers; either may be missing. Raises UserError when it is no range of 0..count."""
    first, colon, last = text.partition(":")
    try:
        layers = range(int(first or 0), int(last or count))
    except ValueError:
        colon = ""
    if not colon or not 0 <= layers.start < layers.stop <= count:
        raise UserError(f"--layers {text}: give A:B with 0 <= A < B <= {count}, the layers of this program")
    return layers


def check_probes(probes: Probes, record: Path, layers: range, count: int) -> None:
    """Raise UserError for a waveform of several layers of `count`, or one file for two things."""
    if probes.wave is not None and len(layers) != 1:
        raise UserError(f"--wave is of one layer; give --layers N:N+1 with N in 0..{count - 1}")
    if record in (probes.trace, probes.wave):
        raise UserError(f"--json keeps the results in {record}; name another file for --trace or --wave")


def known_results(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Results of an earlier run of the same `identity`, by layer number; none where there is no file.

    Raises UserError where the file is of another.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        same = {key: found[key] for key in identity} == identity
        layers: dict[str, Any] = found["layers"]
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"{path} is of another program, hardware, memory or picture; name another file, or delete it")
    return layers


def _entry(run: LayerRun) -> dict[str, Any]:
    return {
        "names": list(run.layer.names),
        "kind": run.layer.kind,
        "cycles": run.cycles,
        "beats_read": run.reads,
        "beats_written": run.writes,
        "beats_of_source": run.source_reads,
        "seconds": run.seconds,
        "differing_bytes": run.differing_bytes,
        "difference": run.difference,
    }


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    probes, source_mb_s = probes_of(arguments), weight_source_of(arguments)
    source = None if source_mb_s is None else ImageSourceModel(source_mb_s)
    picture = load_picture(arguments.image)
    folder = read_folder(arguments.model)
    model = GoldenModel.from_contents(folder)
    program = chosen_program(arguments, folder, model)
    layers = parse_layers(arguments.layers, len(program.layers))
    check_probes(probes, arguments.json, layers, len(program.layers))
    wide = model.wide_picture(preprocess(picture, model.architecture.input_format).pixels)
    identity = {
        "preset": program.preset.name,
        "hardware_sha256": HARDWARE_SHA256,
        "memory": arguments.memory,
        "weight_source_mb_s": source_mb_s,
        "program_sha256": hashlib.sha256(program.image).hexdigest(),
        "picture_sha256": hashlib.sha256(wide.values.tobytes()).hexdigest(),
    }
    results = known_results(arguments.json, identity)
    probing = probes.trace is not None or probes.wave is not None
    missing = [number for number in layers if probing or str(number) not in results]
    runs = []
    with tqdm(total=len(layers), initial=len(layers) - len(missing), desc="layers", unit="layer") as progress:
        try:
            for number, layer_run in run_layers(
                *(program, wide, missing), sdram=arguments.memory == "sdram", source=source, probes=probes
            ):
                results[str(number)] = _entry(layer_run)
                runs.append(layer_run)
                write_json(arguments.json, {**identity, "layers": results})
                progress.update()
        except BenchError as error:
            raise UserError(str(error)) from error
    if probes.trace is not None:
        trace = trace_of_layers(program, runs)
        write_trace(probes.trace, trace)
        print(shares(trace))
    chosen = [results[str(number)] for number in layers]
    wrong = [entry for entry in chosen if entry["differing_bytes"]]
    cycles = sum(entry["cycles"] for entry in chosen)
    print(f"{len(chosen)} layers, {len(wrong)} of them differ, {cycles:,} cycles")
    if wrong:
        raise UserError(f"{wrong[0]['names'][-1]}: {wrong[0]['difference']}; the hardware is wrong, or the executor")
    return 0
