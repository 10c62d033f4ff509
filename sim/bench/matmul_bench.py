"""Whole linear layers through the simulated matmul array."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.array.sweep import STEPS_PER_CODEBOOK, sweep_program
from hdl.matmul import Matmul, command_cycles
from sim.bench.packing import pack, payload_bytes, unpack
from sim.bench.player import BackPressure, Episode, EpisodeResult, Flip, play
from sim.bench.schedule import RUN, Command, Phase, assemble, schedule
from sim.bench.verilator import VerilatedModel, compile_model, verilog_of
from sim.contract.linear import QuantizedLinear

TOP = "matmul"

SENTINEL = Command(RUN)
"""A RUN of no tokens behind the last command: its transfer shows when the array could take the next one."""

LayerCase: TypeAlias = tuple[NDArray[np.uint8], QuantizedLinear]
"""Codes uint8 (tokens, K) in permuted order, and the layer they go through."""


@dataclass(frozen=True)
class CompiledMatmul:
    """An array, and its compiled simulation; `array` is asked for its ports and its geometry only."""

    array: Matmul
    model: VerilatedModel

    @property
    def geometry(self) -> ArrayGeometry:
        """Sizes of the array."""
        return self.array.geometry


@dataclass(frozen=True)
class CommandRun:
    """What the simulated array made of a list of phases.

    transfers: int16 (n, columns) of port `o`, per phase. command_cycles: int64, cycles from the transfer of each
    command to that of the next, all phases in a row. predicted: the same by the formulas of hdl.matmul.
    codebook_cycles: cycles spent on writing codebook memory.
    """

    transfers: list[NDArray[np.int16]]
    command_cycles: NDArray[np.int64]
    predicted: NDArray[np.int64]
    codebook_cycles: int


@dataclass(frozen=True)
class LayerRun:
    """A layer on the simulated array: wide results int16 (tokens, N), and cycles with the codebooks in place."""

    wide: NDArray[np.int16]
    commands: CommandRun
    multiply_accumulates: int

    @property
    def cycles(self) -> int:
        """Measured cycles of all commands."""
        return int(self.commands.command_cycles.sum())

    @property
    def predicted_cycles(self) -> int:
        """The same by the formulas of hdl.matmul, nobody stalling."""
        return int(self.commands.predicted.sum())

    def utilisation(self, geometry: ArrayGeometry) -> float:
        """Multiply-accumulates of the layer (padding not counted) over what the array could have done meanwhile."""
        return self.multiply_accumulates / (geometry.macs * self.cycles)


def compile_matmul(
    geometry: ArrayGeometry,
    *,
    visible: Sequence[tuple[str, str]] = (),
    mutate: Callable[[str], str] | None = None,
    cache_folder: Path | None = None,
) -> CompiledMatmul:
    """Compile an array, or take it from the cache.

    visible: (module, name) of signals and memories that a `Flip` may change. mutate: changes the Verilog first,
    to make a faulty array. cache_folder, errors: see `compile_model`.
    """
    array, source = _array_and_verilog(geometry)
    if mutate is not None:
        source = mutate(source)
    return CompiledMatmul(array, compile_model(source, TOP, visible=visible, cache_folder=cache_folder))


@cache
def _array_and_verilog(geometry: ArrayGeometry) -> tuple[Matmul, str]:
    """Seconds of work for a large array, so done once per process."""
    array = Matmul(geometry)
    return array, verilog_of(array, TOP)


def run_layers(
    compiled: CompiledMatmul,
    cases: Sequence[LayerCase],
    back_pressure: BackPressure,
    *,
    seed: int = 0,
    flips: Sequence[Flip] = (),
    log: Path | None = None,
) -> list[LayerRun]:
    """Run layers one after another in one simulation.

    seed: of the back-pressure. flips: faults within the first phase of the first layer. log: a file that keeps what
    the simulation printed. Raises BenchError when the simulation fails or the array breaks a rule of its streams.
    """
    plans = [schedule(codes, layer, compiled.geometry) for codes, layer in cases]
    runs = run_commands(compiled, plans, back_pressure, seed=seed, flips=flips, log=log)
    return [
        LayerRun(
            wide=assemble(phases, run.transfers, (len(codes), layer.out_features)),
            commands=run,
            multiply_accumulates=len(codes) * layer.in_features * layer.out_features,
        )
        for (codes, layer), phases, run in zip(cases, plans, runs, strict=True)
    ]


def run_commands(
    compiled: CompiledMatmul,
    plans: Sequence[Sequence[Phase]],
    back_pressure: BackPressure,
    *,
    seed: int = 0,
    flips: Sequence[Flip] = (),
    log: Path | None = None,
) -> list[CommandRun]:
    """Run lists of phases one after another in one simulation; arguments and errors as in `run_layers`."""
    episodes: list[Episode] = []
    for phases in plans:
        for phase in phases:
            episodes.append(codebook_episode(compiled.array, phase))
            episodes.append(command_episode(compiled.array, phase, flips if len(episodes) == 1 else ()))
    results = iter(play(compiled.model, episodes, idle="o_idle", back_pressure=back_pressure, seed=seed, log=log))
    return [_command_run(compiled, phases, results) for phases in plans]


def codebook_episode(array: Matmul, phase: Phase) -> Episode:
    """Writes the sweep programs of a phase into codebook memory."""
    words = [
        (index * STEPS_PER_CODEBOOK + place, step)
        for index, levels in enumerate(phase.codebooks)
        for place, step in enumerate(sweep_program(levels))
    ]
    address, step = np.array(words, np.int64).reshape(-1, 2).T
    return Episode({"i_codebook": pack(array.i_codebook.payload.shape(), {"address": address, "step": step})})


def command_episode(array: Matmul, phase: Phase, flips: Sequence[Flip] = ()) -> Episode:
    """Sends the commands of a phase, then the sentinel, with all their operands."""
    geometry = array.geometry
    commands = [*phase.commands, SENTINEL]
    fields = {
        name: np.array([getattr(command, name) for command in commands], np.int64)
        for name in ("opcode", "codebook", "load_bias", "tokens", "first", "last")
    }
    weights = np.stack(phase.weights).reshape(-1, geometry.loader_rows, geometry.columns)
    ports: dict[str, Any] = {
        "i_command": fields,
        "i_weights": weights,
        "i_scale": np.stack(phase.scale),
        "i_bias": np.stack(phase.bias) if phase.bias else np.zeros((0, geometry.columns), np.int32),
        "i_codes": np.concatenate(phase.codes),
    }
    sources = {name: pack(getattr(array, name).payload.shape(), values) for name, values in ports.items()}
    return Episode(sources, {"o": (phase.output_transfers, payload_bytes(array.o.payload.shape()))}, flips)


def predicted_cycles(geometry: ArrayGeometry, phase: Phase) -> list[int]:
    """Cycles of each command of a phase by the formulas of hdl.matmul."""
    return command_cycles(geometry, [asdict(command) for command in phase.commands], dict(enumerate(phase.codebooks)))


def _command_run(compiled: CompiledMatmul, phases: Sequence[Phase], results: Iterator[EpisodeResult]) -> CommandRun:
    transfers, command_cycles, predicted = [], [], []
    codebook_cycles = 0
    layout = compiled.array.o.payload.shape()
    for phase in phases:
        codebook_cycles += next(results).cycles
        result = next(results)
        transfers.append(unpack(layout, result.payloads["o"]).astype(np.int16))
        command_cycles.append(np.diff(result.transfer_cycles["i_command"]))
        predicted.extend(predicted_cycles(compiled.geometry, phase))
    return CommandRun(transfers, np.concatenate(command_cycles), np.array(predicted, np.int64), codebook_cycles)
