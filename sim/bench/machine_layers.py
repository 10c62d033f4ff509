"""A program on the verilated machine: in one go, or layer by layer from the executor's state.

Layer by layer, a run is the commands of some layers, moved to address 0 and ended by a STOP, on the memory that the
executor has after the layer before. So layers need not wait for one another, and what differs is found where it begins.
Near memory and routes belong to a layer: what one leaves there the next cannot see.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.bench.machine_bench import MachineRun, run_program
from sim.bench.verilator import BenchError
from sim.compiler.compile import Layer, Program
from sim.compiler.run import StepDone, initial_memory, taken
from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.executor import Executor
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.faults import Fault

CYCLES_MAX: Final = 1 << 40


@dataclass(frozen=True)
class LayerRun:
    """layer; its cycles from start to STOP, beats of external memory read and written; bytes of it that differ from the
    executor's, and the first of them as text, or None."""

    layer: Layer
    cycles: int
    reads: int
    writes: int
    seconds: float
    differing_bytes: int
    difference: str | None


def commands_of(program: Program, layer: Layer) -> bytes:
    """The commands of one layer as a program of its own, from address 0 on."""
    begin, end = layer.commands
    part = program.commands[begin // COMMAND_BYTES : end // COMMAND_BYTES]
    moved = [
        replace(command, address=command.address - begin) if command.opcode == Opcode.REPEAT else command
        for command in part
    ]
    return b"".join(command.encode() for command in [*moved, Command(Opcode.STOP)])


def run_whole(program: Program, picture: Wide, *, sdram: bool = False) -> tuple[Wide, MachineRun]:
    """Image embedding of a preprocessed picture (side, side, 3), and the run that made it; `sdram` as in `run_program`.

    Raises BenchError when the machine stops with an error, breaks a rule of the SDRAM, or the simulation fails.
    """
    memory = initial_memory(program, picture)
    run = checked(run_program(program.preset, memory.tobytes(), program.writable, CYCLES_MAX, sdram=sdram))
    embedding = taken(np.frombuffer(run.memory, np.uint8), program.embedding)
    return Wide(embedding, program.embedding.exponent), run


def run_machine(program: Program, picture: Wide, step_done: StepDone | None = None, *, sdram: bool = False) -> Wide:
    """`run_whole` as sim.compiler.run.EncoderRun; steps are not told apart. Raises UserError where it raises."""
    try:
        return run_whole(program, picture, sdram=sdram)[0]
    except BenchError as error:
        raise UserError(str(error)) from error


def run_layers(
    program: Program, picture: Wide, layers: Collection[int], *, sdram: bool = False
) -> Iterator[tuple[int, LayerRun]]:
    """Every layer of `layers` on the machine, each from the executor's state and compared with it in all of memory.

    Layers in between are computed by the executor alone. Raises BenchError like `run_whole`.
    """
    memory = initial_memory(program, picture)
    executor = Executor(program.preset, memory, program.writable)
    address = 0
    for number, layer in enumerate(program.layers[: max(layers, default=-1) + 1]):
        if number in layers:
            image = memory.copy()
            commands = np.frombuffer(commands_of(program, layer), np.uint8)
            image[: commands.size] = commands
            run = checked(run_program(program.preset, image.tobytes(), program.writable, CYCLES_MAX, sdram=sdram))
        address = executor.run(address, layer.commands[1])
        if number in layers:
            yield number, _compared(program, layer, run, memory)


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
    return LayerRun(layer, run.cycles, run.reads, run.writes, run.seconds, int(differing.size), text)
