"""A program on the verilated machine: in one go, or layer by layer from the executor's state.

Layer by layer, a run is the commands of some layers, moved to address 0 and ended by a STOP, on the memory that the
executor has after the layer before. So layers need not wait for one another, and what differs is found where it begins.
Near memory and routes belong to a layer: what one leaves there the next cannot see.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.bench.machine_activity import Activity, Watch, trace_of_runs
from sim.bench.machine_bench import NEVER, ImageSourceModel, MachineRun, Wave, run_program
from sim.bench.verilator import BenchError
from sim.compiler.compile import Layer, Program
from sim.compiler.run import StepDone, initial_memory, taken
from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.executor import Executor
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.faults import Fault
from sim.probes import Probes
from sim.trace import Trace, write_trace

CYCLES_MAX: Final = 1 << 40


@dataclass(frozen=True)
class LayerRun:
    """layer; its cycles from start to STOP, beats of external memory read and written; bytes of it that differ from the
    executor's, and the first of them as text, or None; what the units did, if they were watched; beats of a source."""

    layer: Layer
    cycles: int
    reads: int
    writes: int
    seconds: float
    differing_bytes: int
    difference: str | None
    activity: Activity | None = None
    source_reads: int = 0


def commands_of(program: Program, layer: Layer) -> bytes:
    """The commands of one layer as a program of its own, from address 0 on."""
    begin, end = layer.commands
    part = program.commands[begin // COMMAND_BYTES : end // COMMAND_BYTES]
    moved = [
        replace(command, address=command.address - begin) if command.opcode == Opcode.REPEAT else command
        for command in part
    ]
    return b"".join(command.encode() for command in [*moved, Command(Opcode.STOP)])


def simulate(
    program: Program,
    memory: NDArray[np.uint8],
    *,
    sdram: bool = False,
    source: ImageSourceModel | None = None,
    probes: Probes | None = None,
    marks: tuple[int, ...] = (),
) -> MachineRun:
    """The program at the beginning of memory uint8 (bytes,); `sdram`, `source` as in `run_program`.

    probes: what to record; a waveform is written, what the units did is in the run, from `marks` (Watch) on by layers.
    Raises BenchError when the machine stops with an error, breaks a rule of the SDRAM, or the simulation fails,
    UserError when the run does not reach the cycles of the waveform.
    """
    probes = probes or Probes()
    watch = Watch(probes.trace_cycles, marks) if probes.trace is not None else None
    first, stop = probes.wave_cycles
    wave = Wave(probes.wave, first, NEVER if stop is None else stop) if probes.wave is not None else None
    run = run_program(
        *(program.preset, memory.tobytes(), program.writable, CYCLES_MAX),
        sdram=sdram,
        source=source,
        watch=watch,
        wave=wave,
    )
    if wave is not None and run.cycles <= first:
        wave.file.unlink()
        raise UserError(f"--wave-cycles begins at {first}, but the run has {run.cycles} cycles; nothing was written")
    return checked(run)


def run_whole(
    program: Program,
    picture: Wide,
    *,
    sdram: bool = False,
    source: ImageSourceModel | None = None,
    probes: Probes | None = None,
) -> tuple[Wide, MachineRun]:
    """Image embedding of a preprocessed picture (side, side, 3), and the run that made it; what `probes` asks for is
    written. Raises what `simulate` does."""
    memory = initial_memory(program, picture)
    marks = tuple(layer.commands[0] // COMMAND_BYTES for layer in program.layers)
    run = simulate(program, memory, sdram=sdram, source=source, probes=probes, marks=marks)
    if probes is not None and probes.trace is not None and run.activity is not None:
        names = [layer.names[-1] for layer in program.layers]
        write_trace(probes.trace, trace_of_runs(f"machine {program.preset.name}", [(run.activity, names)]))
    embedding = taken(np.frombuffer(run.memory, np.uint8), program.embedding)
    return Wide(embedding, program.embedding.exponent), run


def run_machine(
    program: Program,
    picture: Wide,
    step_done: StepDone | None = None,
    *,
    sdram: bool = False,
    source: ImageSourceModel | None = None,
    probes: Probes | None = None,
) -> Wide:
    """`run_whole` as sim.compiler.run.EncoderRun; steps are not told apart. Raises UserError where it raises."""
    try:
        return run_whole(program, picture, sdram=sdram, source=source, probes=probes)[0]
    except BenchError as error:
        raise UserError(str(error)) from error


def run_layers(
    program: Program,
    picture: Wide,
    layers: Collection[int],
    *,
    sdram: bool = False,
    source: ImageSourceModel | None = None,
    probes: Probes | None = None,
) -> Iterator[tuple[int, LayerRun]]:
    """Every layer of `layers` on the machine, each from the executor's state and compared with it in all of memory.

    Layers in between are computed by the executor alone. probes: a waveform is that of the last layer; what the units
    did is in the LayerRun. Raises what `simulate` does.
    """
    memory = initial_memory(program, picture)
    executor = Executor(program.preset, memory, program.writable)
    address = 0
    for number, layer in enumerate(program.layers[: max(layers, default=-1) + 1]):
        before = memory.copy() if number in layers else None
        # The executor first: what it refuses is known before hours of simulation.
        address = executor.run(address, layer.commands[1])
        if before is not None:
            commands = np.frombuffer(commands_of(program, layer), np.uint8)
            before[: commands.size] = commands
            run = simulate(program, before, sdram=sdram, source=source, probes=probes)
            yield number, _compared(program, layer, run, memory)


def trace_of_layers(program: Program, runs: Sequence[LayerRun]) -> Trace:
    """Layers one behind the other, each from its own reset to its STOP, as they were watched."""
    watched = [(run.activity, [run.layer.names[-1]]) for run in runs if run.activity is not None]
    return trace_of_runs(f"machine {program.preset.name}, layer by layer", watched)


def checked(run: MachineRun) -> MachineRun:
    """The run. Raises BenchError when the machine did not come to its STOP, or the SDRAM was used against its rules."""
    if not run.done or run.fault != Fault.NONE:
        raise BenchError(f"the machine stopped with {run.fault.name} at command {run.where:#x}, cycle {run.cycles}")
    if run.violations:
        rules = ", ".join(rule.name for rule in sorted(run.violations))
        raise BenchError(f"rules of the SDRAM were broken: {rules}; see hdl/memory/sdram/rules.py for what they demand")
    return run


def _compared(program: Program, layer: Layer, run: MachineRun, expected: NDArray[np.uint8]) -> LayerRun:
    found = np.frombuffer(run.memory, np.uint8)
    differing = np.flatnonzero(found[program.writable :] != expected[program.writable :]) + program.writable
    text = None
    if differing.size:
        text = f"byte {differing[0]:#x} is {found[differing[0]]}, the executor has {expected[differing[0]]}"
        mine, its = (taken(memory, layer.result).reshape(-1, layer.result.shape[-1]) for memory in (found, expected))
        wrong = np.argwhere(mine != its)
        if len(wrong):
            token, channel = wrong[0].tolist()
            text = f"token {token}, channel {channel} is {mine[token, channel]}, not {its[token, channel]}"
    return LayerRun(
        *(layer, run.cycles, run.reads, run.writes, run.seconds, int(differing.size), text),
        activity=run.activity,
        source_reads=run.source_reads,
    )
