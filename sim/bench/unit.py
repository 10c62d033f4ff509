"""A compiled unit, and jobs through its streams: parameters first, then inputs until all results are out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from amaranth.lib.wiring import Component

from sim.bench.packing import pack, payload_bytes
from sim.bench.player import BackPressure, Episode, EpisodeResult, Flip, play
from sim.bench.verilator import VerilatedModel, compile_model, verilog_of

UnitType = TypeVar("UnitType", bound=Component)


@dataclass(frozen=True)
class CompiledUnit(Generic[UnitType]):
    """A unit, asked for its ports, formulas and model only, and its compiled simulation."""

    unit: UnitType
    model: VerilatedModel


@dataclass(frozen=True)
class Job:
    """What goes through a unit, by port name, values as `pack` takes them for the port's payload.

    parameters: sent first, one port after another. inputs: sent together behind them. outputs: transfers of `o`
    expected from the inputs.
    """

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: int


def compile_unit(unit: UnitType, top: str, *, visible: Sequence[tuple[str, str]] = ()) -> CompiledUnit[UnitType]:
    """Compile a unit as module `top`, or take it from the cache; visible: signals that a `Flip` may change.

    Errors: see `compile_model`.
    """
    return CompiledUnit(unit, compile_model(verilog_of(unit, top), top, visible=visible))


def run_jobs(
    compiled: CompiledUnit[Any],
    jobs: Sequence[Job],
    back_pressure: BackPressure,
    *,
    idle: str | None = None,
    seed: int = 0,
    flips: Sequence[Flip] = (),
) -> list[EpisodeResult]:
    """Run jobs one after another in one simulation; the results are those of their inputs.

    idle: see `play`. flips: faults while the first job's inputs pass. Raises BenchError when the simulation fails or
    the unit breaks a rule of its streams.
    """
    unit = compiled.unit

    def packed(port: str, values: Any) -> Any:
        return pack(getattr(unit, port).payload.shape(), values)

    episodes: list[Episode] = []
    with_results: list[int] = []
    for number, job in enumerate(jobs):
        episodes += [Episode({port: packed(port, values)}) for port, values in job.parameters.items()]
        with_results.append(len(episodes))
        sources = {port: packed(port, values) for port, values in job.inputs.items()}
        sinks = {"o": (job.outputs, payload_bytes(unit.o.payload.shape()))}
        episodes.append(Episode(sources, sinks, flips if number == 0 else ()))
    played = play(compiled.model, episodes, idle=idle, back_pressure=back_pressure, seed=seed)
    return [played[index] for index in with_results]


def columns(payloads: Sequence[Any]) -> Any:
    """One array (n, ...) per field, fields within fields too, of n payloads that are mappings of integers or lists."""
    if isinstance(payloads[0], Mapping):
        return {name: columns([payload[name] for payload in payloads]) for name in payloads[0]}
    return np.array(payloads, np.int64)
