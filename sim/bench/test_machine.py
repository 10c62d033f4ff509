"""Whole programs on the verilated machine: all of memory as the executor leaves it, and what must go wrong does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.bench.machine_bench import MachineRun, MemoryModel, run_program
from sim.compiler.compile import Program, compile_encoder
from sim.compiler.run import initial_memory, taken
from sim.executor import Executor
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from tests.sim.compiler.networks import Toy, toy_sam_vit, toy_tiny_vit

SMALL: Final = PRESETS["small"]
MAX_CYCLES: Final = 10_000_000
LIMIT_S: Final = 300.0
REFUSING: Final = MemoryModel(latency=12, refused=60, seed=7)
"""Memory that puts off nearly a quarter of the requests."""


@dataclass(frozen=True)
class Compiled:
    """A toy, its program, memory before it and as the executor leaves it, uint8 (bytes,)."""

    toy: Toy
    program: Program
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]

    def run(self, memory: NDArray[np.uint8], *, sdram: bool = False) -> MachineRun:
        return run_program(
            *(SMALL, memory.tobytes(), self.program.writable, MAX_CYCLES),
            memory=REFUSING,
            sdram=sdram,
            limit_s=LIMIT_S,
        )

    def differing(self, run: MachineRun) -> NDArray[np.intp]:
        """Addresses from the first writable one on where the machine's memory is not the executor's."""
        first = self.program.writable
        return np.flatnonzero(np.frombuffer(run.memory, np.uint8)[first:] != self.after[first:]) + first


def compiled(network: Callable[[], Toy]) -> Compiled:
    toy = network()
    program = compile_encoder(toy.parameters, toy.architecture, SMALL)
    before = initial_memory(program, toy.picture)
    after = before.copy()
    Executor(SMALL, after, program.writable).run(0)
    return Compiled(toy, program, before, after)


@pytest.fixture(scope="module")
def tiny_vit() -> Compiled:
    return compiled(toy_tiny_vit)


@pytest.fixture(scope="module")
def sam_vit() -> Compiled:
    return compiled(toy_sam_vit)


@pytest.mark.parametrize("name", ["tiny_vit", "sam_vit"])
def test_memory_is_the_executors(name: str, request: pytest.FixtureRequest) -> None:
    case: Compiled = request.getfixturevalue(name)
    run = case.run(case.before)
    assert (run.done, run.fault) == (True, Fault.NONE)
    assert case.differing(run).size == 0
    memory, first = np.frombuffer(run.memory, np.uint8), case.program.writable
    np.testing.assert_array_equal(memory[:first], case.before[:first])
    np.testing.assert_array_equal(taken(memory, case.program.embedding), case.toy.embedding)


@pytest.mark.parametrize("name", ["tiny_vit", "sam_vit"])
def test_memory_is_the_executors_on_an_sdram(name: str, request: pytest.FixtureRequest) -> None:
    case: Compiled = request.getfixturevalue(name)
    run = case.run(case.before, sdram=True)
    assert (run.done, run.fault, run.violations) == (True, Fault.NONE, frozenset())
    assert run.memory == case.after.tobytes()


def test_one_wrong_byte_of_a_constant_is_seen(tiny_vit: Compiled) -> None:
    """The last constant that the program reads is changed for the machine alone."""
    program = tiny_vit.program
    constants = COMMAND_BYTES * len(program.commands)
    reads = [
        command.address
        for command in program.commands
        if command.opcode == Opcode.READ and constants <= command.address < program.writable
    ]
    spoiled = tiny_vit.before.copy()
    spoiled[reads[-1]] ^= 1
    assert tiny_vit.differing(tiny_vit.run(spoiled)).size > 0


def test_an_unknown_opcode_stops_before_anything_is_written() -> None:
    beat = SMALL.beat_bytes
    copy = [
        Command(Opcode.WRITE, Port.COPIED, 4096, (4, 1, 1, 1)),
        Command(Opcode.READ, Port.COPY, 2048, (4, 1, 1, 1)),
    ]
    unknown = bytes([max(Opcode) + 1]).ljust(COMMAND_BYTES, b"\0")
    rest = b"".join(command.encode() for command in [*copy, Command(Opcode.STOP)])
    data = np.random.default_rng(1).integers(1, 256, 4 * beat, dtype=np.uint8).tobytes()

    def run(start: bytes) -> tuple[MachineRun, bytes]:
        image = (start + rest).ljust(2048, b"\0") + data
        return run_program(SMALL, image, 4096, 10_000, memory=REFUSING, limit_s=LIMIT_S), image

    stopped, image = run(Command(Opcode.WAIT).encode() + unknown)
    assert (stopped.done, stopped.fault, stopped.where) == (False, Fault.OPCODE, COMMAND_BYTES)
    assert (stopped.writes, stopped.late_writes) == (0, 0)
    assert stopped.memory == image.ljust(SMALL.memory_bytes, b"\0")
    well, image = run(Command(Opcode.WAIT).encode())
    assert (well.done, well.fault, well.writes) == (True, Fault.NONE, 4)
    assert well.memory[4096 : 4096 + len(data)] == data
