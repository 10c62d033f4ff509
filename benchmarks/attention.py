# amaranth: UnusedElaboratable=no

"""Attention composed, in simulated RTL: a real window of an exported model, and rows of 4,096 keys.

Both go through one compiled attention unit (array of 32 x 8, softmax of 4 lanes) and are compared bit for bit with the
contract. Cycles are measured, and given beside the formula of hdl.attention; for the full array (64 x 32), which is not
simulated here, by the formula alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import PRESETS
from hdl.attention.code_buffer import CodeBuffer
from hdl.attention.code_gather import CodeGather
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.reorder_buffer import ReorderBuffer
from hdl.ecp5.block_memory import BlockMemory
from sim.assets import retina_picture
from sim.bench.attention_bench import SIMULATED, AttentionRun, CompiledAttention, compile_attention, run_plan
from sim.bench.attention_cases import synthetic_attention, synthetic_operands
from sim.bench.attention_schedule import Plan, plan
from sim.bench.difference import compare
from sim.bench.player import BackPressure
from sim.bench.verilator import BenchError
from sim.contract.attention import Attention
from sim.contract.errors import UserError
from sim.golden import GoldenModel
from sim.golden.parameters import Executed
from sim.golden.tap import executed_operation
from sim.machine.settings import Phase
from sim.picture import load_picture
from sim.progress import progress_bar
from sim.record import write_json

FULL: Final = AttentionGeometry(array=PRESETS["full"], lanes=8, logit_words=2048, code_words=1024, block_words=1024)
"""The full array with buffers for the same sets as the simulated one's."""

WINDOW: Final = 196
GLOBAL_KEYS: Final = 4096
GLOBAL_QUERIES: Final = 32
HEAD_CHANNELS: Final = 64
"""Of ViT-B, -L and -H."""

HEADS_OF_FORMULA: Final = 12
"""Heads of ViT-B: what the formula counts for the full array."""

EXAMPLE: Final = """\
example:
  python -m benchmarks.attention build/model --json out/attention.json

exit status: 0 no value differs, 1 some do, or a fault in what was given
"""


@dataclass(frozen=True)
class Case:
    """An attention, codes uint8 (1, tokens, H * D) by operand, and the contract's int16 (1, queries, H * D)."""

    name: str
    operation: Attention
    codes: dict[str, NDArray[np.uint8]]
    expected: NDArray[np.int16]


def window_attention(model: GoldenModel) -> str:
    """The middle one of the attentions over windows of 14 x 14. Raises UserError when there is none."""
    operations = model.parameters.operations
    names = [
        name
        for name in model.encoder_layers()
        if isinstance(one := operations[name], Attention) and getattr(one.position, "window", 0) ** 2 == WINDOW
    ]
    if not names:
        raise UserError(f"the model has no attention over windows of {WINDOW} tokens; give one with --attention")
    return names[len(names) // 2]


def tapped(model: GoldenModel, picture: NDArray[np.uint8], name: str) -> Executed:
    """One attention of the image encoder as it ran for a picture. Raises UserError when the model has no such one."""
    if name not in model.encoder_layers() or not isinstance(model.parameters.operations[name], Attention):
        raise UserError(f"the image encoder has no attention {name}; choose one of its *.attend")
    return executed_operation(model, picture, name)


def window_case(executed: Executed) -> Case:
    """The middle window: borders of a picture are often plain."""
    assert isinstance(executed.operation, Attention) and isinstance(executed.codes, dict)
    middle = len(executed.output.values) // 2
    part = slice(middle, middle + 1)
    codes = {name: values[part] for name, values in executed.codes.items()}
    return Case(f"{executed.name}, window {middle}", executed.operation, codes, executed.output.values[part])


def synthetic_case(name: str, *, heads: int, side: int, queries: int, seed: int) -> Case:
    """A made attention of ViT's shape over side * side tokens, positions decomposed as in SAM."""
    generator = np.random.default_rng(seed)
    operation = synthetic_attention(generator, heads=heads, width=HEAD_CHANNELS, side=side, position="decomposed")
    operands = synthetic_operands(generator, operation, windows=1, queries=side * side, keys=side * side)
    codes, result = operation.run(*operands)
    return Case(name, operation, codes, result.values[:, :queries])


def cycles_by_formula(case: Case, work: Plan, geometry: AttentionGeometry, cycles: int) -> dict[str, Any]:
    """What the array and the softmax do in so many cycles: counts, and fractions of the cycles."""
    array = geometry.array
    scores = [command for command in work.commands if command["phase"] == Phase.SCORES]
    rows = sum(command["queries"] * geometry.softmax.words(command["keys"]) for command in scores)
    return {
        "cycles": cycles,
        "loads": work.loads,
        "code_cycles": work.code_cycles,
        "array_utilisation": work.code_cycles / cycles,
        "multiply_accumulates": work.multiply_accumulates,
        "multiplier_utilisation": work.multiply_accumulates / (array.macs * cycles),
        "softmax_cycles": rows,
        "softmax_share": rows / cycles,
    }


def simulate(
    compiled: CompiledAttention, case: Case, pressure: BackPressure, *, seed: int
) -> tuple[dict[str, Any], AttentionRun]:
    """A case through the simulated unit: figures for the JSON file, and the run."""
    geometry = compiled.unit.geometry
    queries = case.expected.shape[1]
    work = plan(case.operation, case.codes, geometry, queries=queries)
    start = time.monotonic()
    run = run_plan(compiled, work, pressure, seed=seed, limit_s=7200.0)
    result = np.zeros_like(case.expected)
    work.assemble(run.transfers, result)
    difference = compare(result.reshape(-1, result.shape[-1]), case.expected.reshape(-1, result.shape[-1]))
    predicted = work.predicted_cycles(geometry)
    # Between the second and the last but one command nothing waits for the first row or the last.
    steady = slice(2, len(predicted) - 2)
    return {
        "case": case.name,
        "heads": case.operation.heads,
        "queries": queries,
        "keys": case.codes["k"].shape[1],
        "outputs_compared": difference.outputs,
        "differing_values": len(difference.places),
        "differing_bits": difference.differing_bits,
        **cycles_by_formula(case, work, geometry, run.total),
        "predicted_cycles": sum(predicted),
        "command_cycles": run.command_cycles.tolist(),
        "predicted_command_cycles": predicted,
        "steady_cycles": int(run.command_cycles[steady].sum()),
        "steady_predicted_cycles": sum(predicted[steady]),
        "softmax_cycles_per_set": [int(last - first + 1) for first, last in run.row_cycles],
        "simulate_seconds": time.monotonic() - start,
    }, run


def by_formula(case: Case, geometry: AttentionGeometry) -> dict[str, Any]:
    """The cycles of a case on a geometry that is not simulated, nobody waiting."""
    work = plan(case.operation, case.codes, geometry, queries=case.expected.shape[1])
    cycles = sum(work.predicted_cycles(geometry))
    return {"case": case.name, **cycles_by_formula(case, work, geometry, cycles)}


def memories(geometry: AttentionGeometry) -> dict[str, int]:
    """Block RAMs of the buffers."""
    array = geometry.array
    codes = CodeBuffer(rows=array.rows, code_beat_bits=geometry.code_beat_bits, block_words=geometry.block_words)
    count = {}
    for name, (banks, width, depth) in (
        ("reorder_buffer", ReorderBuffer(geometry).memory),
        ("code_gather", CodeGather(geometry).memory),
        ("code_buffer", codes.memory),
    ):
        count[name] = banks * BlockMemory(width=width, depth=depth).block_rams
    return count


def measure(arguments: argparse.Namespace, announce: Callable[[str], None]) -> dict[str, Any]:
    """All figures. Raises UserError for what the user can mend, BenchError when the simulation fails."""
    pressure = BackPressure(arguments.back_pressure, arguments.back_pressure)
    announce("golden model")
    model = GoldenModel.from_folder(arguments.model)
    name = arguments.attention or window_attention(model)
    window = window_case(tapped(model, load_picture(arguments.image or retina_picture()), name))
    announce("rows of 4,096 keys")
    rows = synthetic_case("ViT, global", heads=1, side=64, queries=arguments.queries, seed=arguments.seed)
    vit_window = synthetic_case("ViT-B, window", heads=HEADS_OF_FORMULA, side=14, queries=WINDOW, seed=arguments.seed)
    announce("Verilog and Verilator model")
    compiled = compile_attention()
    simulated = []
    for case in (window, rows):
        announce(case.name)
        simulated.append(simulate(compiled, case, pressure, seed=arguments.seed)[0])
    return {
        "model": str(arguments.model),
        "seed": arguments.seed,
        "back_pressure": arguments.back_pressure,
        "simulated_geometry": asdict(SIMULATED),
        "simulated_block_rams": memories(SIMULATED),
        "simulated": simulated,
        "full_geometry": asdict(FULL),
        "full_block_rams": memories(FULL),
        "full_by_formula": [by_formula(case, FULL) for case in (window, vit_window, rows)],
        "compile_seconds": compiled.model.compile_seconds,
    }


def report(figures: Mapping[str, Any]) -> None:
    """The figures for a reader."""
    for one in figures["simulated"]:
        print(
            f"{one['case']}: {one['differing_values']} of {one['outputs_compared']} values differ; {one['cycles']} "
            f"cycles, by formula {one['predicted_cycles']}"
        )
    for label, cases in (("32 x 8, measured", "simulated"), ("64 x 32, formula", "full_by_formula")):
        for one in figures[cases]:
            print(
                f"{label}: {one['case']}: codes in {one['array_utilisation']:.1%} of the cycles, multipliers used "
                f"{one['multiplier_utilisation']:.1%}, softmax {one['softmax_share']:.1%}"
            )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention",
        description="Attention composed in simulated RTL, compared with the contract bit for bit; its cycles.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="exported model folder")
    parser.add_argument("--attention", metavar="NAME", help="attention of the image encoder (default: a middle one)")
    parser.add_argument("--image", metavar="FILE", type=Path, help="picture (default: the retina of scikit-image)")
    parser.add_argument(
        "--queries", metavar="N", type=int, default=GLOBAL_QUERIES, help="of the 4,096-key rows (%(default)s)"
    )
    parser.add_argument(
        "--back-pressure", metavar="P", type=float, default=0.0, help="probability of gaps and stalls (%(default)s)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of operands and pauses (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, required=True, help="write the figures here")
    arguments = parser.parse_args()
    try:
        with progress_bar(None, "step") as announce:
            figures = measure(arguments, announce)
        write_json(arguments.json, figures)
    except (UserError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(figures)
    return int(any(one["differing_bits"] for one in figures["simulated"]))


if __name__ == "__main__":
    sys.exit(main())
