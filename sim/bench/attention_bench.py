"""Attentions through the simulated attention unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import CODE_BITS, PRESETS
from hdl.array.sweep import STEPS_PER_CODEBOOK, sweep_program
from hdl.attention.attention import Attention
from hdl.attention.geometry import AttentionGeometry
from hdl.softmax.search import threshold_words
from sim.bench.attention_schedule import Plan
from sim.bench.packing import pack, payload_bytes, unpack
from sim.bench.player import BackPressure, Episode, Flip, play
from sim.bench.unit import CompiledUnit, compile_unit
from sim.machine.settings import Phase

TOP: Final = "attention"

SIMULATED: Final = AttentionGeometry(array=PRESETS["small"], lanes=4, logit_words=8192, code_words=2048)
"""What tests and benchmarks compile, once for both: buffers for 16 queries of 4,096 keys, or a window of 196 tokens."""

VISIBLE: Final = (("attention.reorder", "next_row"), ("attention.gather", "group"), ("attention.reads", "first"))
"""Signals of it that a `Flip` may change."""


CompiledAttention = CompiledUnit[Attention]


@dataclass(frozen=True)
class AttentionRun:
    """What the simulated unit made of a plan.

    transfers: int16 (n, columns) of port `o`. command_cycles: int64, cycles from the transfer of each command to that
    of the next; the last one lasts until the unit is idle. row_cycles: int64 (sets, 2), the cycles at which the softmax
    took the first and the last word of each set, empty without a position bias. total: cycles of it all.
    """

    transfers: NDArray[np.int16]
    command_cycles: NDArray[np.int64]
    row_cycles: NDArray[np.int64]
    total: int


def compile_attention() -> CompiledAttention:
    """Compile the unit of SIMULATED, or take it from the cache; errors: see `compile_model`."""
    return compile_unit(Attention(SIMULATED), TOP, visible=VISIBLE)


def run_plan(
    compiled: CompiledAttention,
    plan: Plan,
    back_pressure: BackPressure = BackPressure(),
    *,
    seed: int = 0,
    flips: Sequence[Flip] = (),
    limit_s: float = 1800.0,
) -> AttentionRun:
    """Write the tables, then run a plan. Raises BenchError when the simulation fails or a rule of streams is broken."""
    unit, geometry = compiled.unit, compiled.unit.geometry
    layout = unit.o.payload.shape()
    sink = (plan.output_transfers(geometry), payload_bytes(layout))
    episodes = [
        _episode(unit, _tables(unit, plan)),
        Episode(_episode(unit, _operands(geometry, plan)).sources, {"o": sink}, flips),
    ]
    _, result = play(compiled.model, episodes, idle="o_idle", back_pressure=back_pressure, seed=seed, limit_s=limit_s)
    starts = result.transfer_cycles["i_command"]
    return AttentionRun(
        transfers=unpack(layout, result.payloads["o"]).astype(np.int16),
        command_cycles=np.diff(np.append(starts, result.cycles)),
        row_cycles=_row_cycles(geometry, plan, result.transfer_cycles.get("i_position")),
        total=int(result.cycles - starts[0]),
    )


def _row_cycles(geometry: AttentionGeometry, plan: Plan, cycles: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if cycles is None:
        return np.zeros((0, 2), np.int64)
    words = [c["queries"] * geometry.softmax.words(c["keys"]) for c in plan.commands if c["phase"] == Phase.SCORES]
    ends = np.cumsum(words)
    return np.stack([cycles[ends - words], cycles[ends - 1]], axis=1)


def _episode(unit: Attention, ports: dict[str, Any]) -> Episode:
    return Episode({name: pack(getattr(unit, name).payload.shape(), values) for name, values in ports.items()})


def _tables(unit: Attention, plan: Plan) -> dict[str, Any]:
    """Codebooks, thresholds and levels of P."""
    words = [
        (index * STEPS_PER_CODEBOOK + place, step)
        for index, levels in enumerate(plan.codebooks)
        for place, step in enumerate(sweep_program(levels))
    ]
    address, step = np.array(words, np.int64).T
    table = threshold_words(plan.thresholds, unit.geometry.softmax.code_bits)
    return {
        "i_codebook": {"address": address, "step": step},
        "i_threshold": {"code": np.arange(1, table.size + 1), "threshold": table},
        "i_level": {"code": np.arange(len(plan.nibbles)), "nibbles": plan.nibbles},
    }


def _operands(geometry: AttentionGeometry, plan: Plan) -> dict[str, Any]:
    """Commands and everything they consume."""
    array, lanes = geometry.array, geometry.lanes
    names = geometry.command_layout.members
    ports = {
        "i_command": {name: np.array([command[name] for command in plan.commands]) for name in names},
        "i_weights": np.stack(plan.weights).reshape(-1, array.loader_rows, array.columns),
        "i_scale": np.stack(plan.scale),
        "i_bias": np.stack(plan.bias),
        "i_block": np.array([len(block) for block in plan.blocks]),
        "i_codes": np.concatenate(plan.blocks).reshape(-1, geometry.code_beat_bits // CODE_BITS),
    }
    if geometry.bias:
        rows = [_words(block, lanes) for block in plan.position]
        ports["i_position"] = np.concatenate(rows)
    return ports


def _words(rows: NDArray[np.int64], lanes: int) -> NDArray[np.int64]:
    """Words (n, lanes) of rows (queries, keys), each padded to whole words."""
    padding = -rows.shape[1] % lanes
    return np.pad(rows, ((0, 0), (0, padding))).reshape(-1, lanes)
