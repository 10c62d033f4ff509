"""Layers through the simulated LayerNorm unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.operands import command_of, parameters_of, transfers_of
from sim.bench.packing import pack, payload_bytes, unpack
from sim.bench.player import BackPressure, Episode, Flip, play
from sim.bench.verilator import VerilatedModel, compile_model, verilog_of
from sim.contract.layer_norm import LayerNorm

TOP = "layer_norm"


@dataclass(frozen=True)
class CompiledLayerNorm:
    """A unit, asked for its ports, formulas and model only, and its compiled simulation."""

    unit: LayerNormUnit
    model: VerilatedModel


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


def compile_layer_norm(unit: LayerNormUnit, *, visible: Sequence[tuple[str, str]] = ()) -> CompiledLayerNorm:
    """Compile a unit, or take it from the cache; visible: signals that a `Flip` may change."""
    return CompiledLayerNorm(unit, compile_model(verilog_of(unit, TOP), TOP, visible=visible))


def run_layers(
    compiled: CompiledLayerNorm,
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
    layout = unit.o.payload.shape()
    episodes = []
    for number, case in enumerate(cases):
        tokens, channels = case.tokens.shape
        payloads: dict[str, Any] = {
            "i_parameters": _columns(parameters_of(geometry, case.layer, case.permutation)),
            "i_command": _columns([command_of(geometry, case.layer, tokens)]),
            "i": transfers_of(geometry, case.tokens),
        }
        packed = {port: pack(getattr(unit, port).payload.shape(), values) for port, values in payloads.items()}
        results = {"o": (tokens * geometry.groups(channels), payload_bytes(layout))}
        episodes.append(Episode({"i_parameters": packed.pop("i_parameters")}))
        episodes.append(Episode(packed, results, flips if number == 0 else ()))
    played = play(compiled.model, episodes, idle="o_idle", back_pressure=back_pressure, seed=seed)
    runs = []
    for case, result in zip(cases, played[1::2], strict=True):
        tokens, channels = case.tokens.shape
        wide = unpack(layout, result.payloads["o"]).reshape(tokens, -1)
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


def _columns(payloads: Sequence[dict[str, int]]) -> dict[str, NDArray[np.int64]]:
    return {name: np.array([payload[name] for payload in payloads], np.int64) for name in payloads[0]}
