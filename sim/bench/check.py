"""`python -m sim check`: a layer of an exported model through the simulated hardware, compared bit for bit."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hdl.array.geometry import PRESETS, ArrayGeometry
from sim.assets import retina_picture
from sim.bench.activity_bench import compile_traced_matmul, trace_of_log
from sim.bench.difference import compare
from sim.bench.matmul_bench import CompiledMatmul, LayerRun, compile_matmul, run_layers
from sim.bench.player import BackPressure
from sim.bench.verilator import BenchError
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.linear import QuantizedLinear
from sim.golden import GoldenModel
from sim.golden.tap import LayerTap, layer_codes
from sim.picture import load_picture
from sim.record import write_json
from sim.trace import Trace, shares, write_trace

DEFAULT_TOKENS: Final = 196
"""One 14 x 14 window of the default layer."""

QKV: Final = ".attn.qkv"
"""Last part of the names of the layers that see the map in windows."""

EXAMPLE: Final = """\
example:
  python -m sim check build/model --layer image_encoder.layers.2.blocks.0.attn.qkv --json check.json

Runs the picture through the golden model up to the layer, sends the layer's 4-bit codes through the Verilog of
the matmul array under Verilator, and compares every output with the golden model's. A layer of 8-bit inputs or
weights takes two or four passes over the array. The first run of a geometry compiles it (half a minute to some
minutes); later runs take it from build/sim.
exit status: 0 no bit differs and the cycle formulas hold, 1 they do not, or a fault in what was given, 2 bad use
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command's parser to the subparsers of `python -m sim`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check",
        description="Compare the simulated hardware with the golden model, bit for bit.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    parser.add_argument(
        "--layer", metavar="NAME", help=f"dense layer to run (default: {QKV[1:]} of the middle attention block)"
    )
    parser.add_argument("--image", metavar="FILE", type=Path, help="picture (default: the retina of scikit-image)")
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        default=DEFAULT_TOKENS,
        help=f"tokens to send: from the middle window of an attn.qkv, from the middle of the picture elsewhere "
        f"(default: {DEFAULT_TOKENS})",
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="small", help="geometry of the array (default: small)"
    )
    parser.add_argument("--rows", metavar="N", type=int, help="rows of the array, instead of the preset's")
    parser.add_argument("--columns", metavar="N", type=int, help="columns of the array, instead of the preset's")
    parser.add_argument(
        "--back-pressure",
        metavar="P",
        type=float,
        default=0.0,
        help="probability that a source pauses, and that the sink is not ready, in a cycle (default: 0)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the back-pressure (default: 0)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the figures as JSON")
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="where to write what the units did in each cycle, for ui.perfetto.dev; compiles an array of its own",
    )
    return parser


def geometry_of(preset: str, rows: int | None, columns: int | None) -> ArrayGeometry:
    """A preset with other rows or columns. Raises UserError, naming the nearest valid value, for impossible ones."""
    geometry = PRESETS[preset]
    changes: dict[str, int] = {}
    if rows is not None:
        changes |= {"rows": rows, "loader_rows": min(geometry.loader_rows, rows)}
    if columns is not None:
        changes["columns"] = columns
    try:
        return replace(geometry, **changes)
    except ValueError as error:
        raise UserError(f"--preset {preset} with the given --rows and --columns: {error}") from None


def default_layer(golden: GoldenModel) -> str:
    """The qkv projection of the middle attention block of the image encoder: past the first, plain maps."""
    names = [name for name in golden.encoder_layers() if name.endswith(QKV)]
    return names[len(names) // 2]


def choose_tokens(tap: LayerTap, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Codes uint8 (tokens, K) and wide int16 (tokens, N) of at most `count` consecutive tokens of a layer.

    From the start of the middle window where a layer sees several, around the middle elsewhere: borders of a picture
    are often plain. Raises UserError when count is below 1.
    """
    if count < 1:
        raise UserError(f"--tokens {count}: at least one token is needed")
    codes, wide = tap.codes.reshape(-1, tap.codes.shape[-1]), tap.wide.reshape(-1, tap.wide.shape[-1])
    count = min(count, len(codes))
    windows, window = tap.codes.shape[:2]
    if tap.name.endswith(QKV) and windows > 1:
        start = min(windows // 2 * window, len(codes) - count)
    else:
        start = (len(codes) - count) // 2
    return codes[start : start + count], wide[start : start + count]


@contextmanager
def step(bar: "tqdm[Any]", what: str) -> Iterator[None]:
    """Shows `what` on the progress line while the block runs."""
    bar.set_description(what)
    yield
    bar.update()


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns the exit status; raises UserError for what the user can mend."""
    start = time.monotonic()
    geometry = geometry_of(arguments.preset, arguments.rows, arguments.columns)
    try:
        back_pressure = BackPressure(arguments.back_pressure, arguments.back_pressure)
    except ValueError as error:
        raise UserError(f"--back-pressure: {error}") from None
    picture = load_picture(arguments.image if arguments.image is not None else retina_picture())
    golden = GoldenModel.from_folder(arguments.model)
    name = arguments.layer if arguments.layer is not None else default_layer(golden)
    try:
        with tqdm(total=3, unit="step", bar_format="{desc} [{n_fmt}/{total_fmt}, {elapsed}]") as bar:
            with step(bar, f"golden model up to {name}"):
                tap = layer_codes(golden, picture, name)
                codes, expected = choose_tokens(tap, arguments.tokens)
            with step(bar, f"Verilog and Verilator model of {geometry.rows} x {geometry.columns}"):
                compiled = (compile_matmul if arguments.trace is None else compile_traced_matmul)(geometry)
            with step(bar, f"{len(codes)} tokens through the array"):
                layer = golden.parameters.operation(name, QuantizedLayer).array_form
                simulating = time.monotonic()
                layer_run, trace = run_layer(
                    compiled, codes, layer, back_pressure, seed=arguments.seed, traced=arguments.trace is not None
                )
                simulate_seconds = time.monotonic() - simulating
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    difference = compare(layer_run.wide, expected)
    stalled = arguments.back_pressure > 0
    cycles_hold = (
        layer_run.cycles >= layer_run.predicted_cycles if stalled else layer_run.cycles == layer_run.predicted_cycles
    )
    if arguments.json is not None:
        figures = figures_of(compiled, layer, codes, layer_run)
        figures |= {
            "model": str(arguments.model),
            "preset": arguments.preset,
            "back_pressure": arguments.back_pressure,
            "seed": arguments.seed,
            "differing_bits": difference.differing_bits,
            "outputs_compared": difference.outputs,
            "cycles_as_predicted": cycles_hold,
            "seconds": time.monotonic() - start,
            "compile_seconds": compiled.model.compile_seconds,
            "simulate_seconds": simulate_seconds,
        }
        write_json(arguments.json, figures)
    if trace is not None:
        write_trace(arguments.trace, trace)
    print(f"{name} on {geometry.rows} x {geometry.columns}: {difference}")
    relation = "at least " if stalled else ""
    print(
        f"{layer_run.cycles} cycles, predicted {relation}{layer_run.predicted_cycles}; "
        f"{layer_run.utilisation(geometry):.1%} of the multipliers' time used"
    )
    if trace is not None:
        print(shares(trace))
    return 0 if difference.differing_bits == 0 and cycles_hold else 1


def run_layer(
    compiled: CompiledMatmul,
    codes: NDArray[np.uint8],
    layer: QuantizedLinear,
    back_pressure: BackPressure,
    *,
    seed: int,
    traced: bool,
) -> tuple[LayerRun, Trace | None]:
    """The layer on the array, and with `traced` what a model of `compile_traced_matmul` printed meanwhile."""
    with tempfile.TemporaryDirectory(prefix="nibblesam-trace-") as scratch:
        log = Path(scratch) / "simulation.log" if traced else None
        (run,) = run_layers(compiled, [(codes, layer)], back_pressure, seed=seed, log=log)
        if log is None:
            return run, None
        with log.open(errors="replace") as lines:
            title = f"{layer.name} on {compiled.geometry.rows} x {compiled.geometry.columns}"
            return run, trace_of_log(lines, title=title)


def figures_of(
    compiled: CompiledMatmul, layer: QuantizedLinear, codes: NDArray[np.uint8], layer_run: LayerRun
) -> dict[str, Any]:
    """Sizes and cycles for the JSON file: counts are integers, utilisation is a fraction.

    "inputs" are those of the array, 4 bits each: a channel counts once for each of its "passes".
    """
    geometry = compiled.array.geometry
    return {
        "layer": layer.name,
        "tokens": len(codes),
        "inputs": layer.in_features,
        "passes": layer.passes,
        "outputs": layer.out_features,
        "geometry": asdict(geometry),
        "cycles": layer_run.cycles,
        "cycles_predicted": layer_run.predicted_cycles,
        "codebook_cycles": layer_run.commands.codebook_cycles,
        "utilisation": layer_run.utilisation(geometry),
    }
