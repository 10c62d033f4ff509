"""Layers through the simulated LayerNorm unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.operands import command_of, parameters_of, transfers_of
from sim.bench.packing import unpack
from sim.bench.player import BackPressure, Flip
from sim.bench.unit import CompiledUnit, Job, columns, run_jobs
from sim.contract.layer_norm import LayerNorm


@dataclass(frozen=True)
class NormCase:
    """A layer, its tokens int16 (tokens, C), and the order of the results' channels (None: as they come)."""

    layer: LayerNorm
    tokens: NDArray[np.int16]
    permutation: NDArray[np.integer] | None = None


@dataclass(frozen=True)
class NormRun:
    """Results int16 (tokens, C); cycles from the first transfer in to the first, and through the last, out."""

    wide: NDArray[np.int16]
    latency: int
    cycles: int


def run_layers(
    compiled: CompiledUnit[LayerNormUnit],
    cases: Sequence[NormCase],
    back_pressure: BackPressure,
    *,
    seed: int = 0,
    flips: Sequence[Flip] = (),
) -> list[NormRun]:
    """Run layers one after another in one simulation; flips: faults within the first layer.

    Raises BenchError when the simulation fails or the unit breaks a rule of its streams.
    """
    unit, geometry = compiled.unit, compiled.unit.geometry
    jobs = []
    for case in cases:
        tokens, channels = case.tokens.shape
        inputs: dict[str, Any] = {
            "i_command": columns([command_of(geometry, case.layer, tokens)]),
            "i": transfers_of(geometry, case.tokens),
        }
        parameters = {"i_parameters": columns(parameters_of(geometry, case.layer, case.permutation))}
        jobs.append(Job(parameters, inputs, tokens * geometry.groups(channels)))
    results = run_jobs(compiled, jobs, back_pressure, idle="o_idle", seed=seed, flips=flips)
    runs = []
    for case, result in zip(cases, results, strict=True):
        tokens, channels = case.tokens.shape
        wide = unpack(unit.o.payload.shape(), result.payloads["o"]).reshape(tokens, -1)
        assert not wide[:, channels:].any(), "a lane without a channel is not 0"
        entered, left = result.transfer_cycles["i"], result.transfer_cycles["o"]
        runs.append(
            NormRun(
                wide=wide[:, :channels].astype(np.int16),
                latency=int(left[0] - entered[0]),
                cycles=int(left[-1] - entered[0] + 1),
            )
        )
    return runs
