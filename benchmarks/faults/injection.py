"""The faults: what is done to memory before the start, or how memory behaves."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.network import Target
from hdl.machine.mover import PATIENCE
from sim.bench.machine_bench import MemoryModel
from sim.bench.machine_layers import commands_of
from sim.executor import Executor
from sim.machine.commands import COMMAND_BYTES

KINDS: Final = ("command", "constant", "tensor", "truncated", "broken", "stall")
SHARES: Final = (8, 4, 3, 2, 4, 3)
"""Of 24 faults, in the order of KINDS."""

DEAD: Final = 1 << 40
"""Cycles of a stall that does not end."""


@dataclass(frozen=True)
class Start:
    """Where a run begins: memory, uint8 (bytes,), and the same as the executor leaves it."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class Injection:
    """kind: of KINDS. start: number of the start. detail: in words. flip: byte and bit, or None. cut: bytes of the
    image that are left, or None."""

    kind: str
    start: int
    detail: str
    flip: tuple[int, int] | None = None
    cut: int | None = None
    memory: MemoryModel = field(default_factory=MemoryModel)

    def applied(self, memory: NDArray[np.uint8], image_bytes: int) -> NDArray[np.uint8]:
        """A copy of memory, uint8 (bytes,), with the fault."""
        spoiled = memory.copy()
        if self.flip is not None:
            spoiled[self.flip[0]] ^= 1 << self.flip[1]
        if self.cut is not None:
            spoiled[self.cut : image_bytes] = 0
        return spoiled


def starts(target: Target) -> list[Start]:
    """The whole program, then every layer on its own."""
    program, memory = target.program, target.memory.copy()
    executor, address, layers = Executor(program.preset, memory, program.writable), 0, []
    for layer in program.layers:
        before = memory.copy()
        commands = np.frombuffer(commands_of(program, layer), np.uint8)
        before[: commands.size] = commands
        address = executor.run(address, layer.commands[1])
        layers.append(Start(before, memory.copy()))
    executor.run(address)
    return [Start(target.memory, memory), *layers]


def injections(target: Target, count: int, seed: int, cycles: int) -> list[Injection]:
    """`count` faults, the same for the same seed. cycles: of the run without a fault."""
    random = np.random.default_rng(seed)
    program = target.program
    commands = len(program.commands) * COMMAND_BYTES
    of_kind = np.repeat(KINDS, SHARES)
    made = []
    for number in range(count):
        kind = str(of_kind[number % of_kind.size])
        bit = int(random.integers(8))
        refused, latency, noise = int(random.integers(100)), int(random.integers(1, 24)), number
        slow = MemoryModel(latency=latency, refused=refused, seed=noise)
        if kind in ("command", "constant", "tensor"):
            low, high = {
                "command": (0, commands),
                "constant": (commands, program.writable),
                "tensor": (program.writable, program.needed_bytes),
            }[kind]
            byte = int(random.integers(low, high))
            start = int(random.integers(len(program.layers) + 1)) if kind == "tensor" else 0
            made.append(Injection(kind, start, f"byte {byte:#x}, bit {bit}", flip=(byte, bit), memory=slow))
        elif kind == "truncated":
            cut = int(random.integers(commands - 1))
            made.append(Injection(kind, 0, f"{cut} bytes left", cut=cut, memory=slow))
        elif kind == "broken":
            model = MemoryModel(
                latency=latency,
                refused=refused,
                seed=noise,
                broken_from=int(random.integers(program.needed_bytes)) // 16 * 16,
            )
            made.append(Injection(kind, 0, f"errors from {model.broken_from:#x} on", memory=model))
        else:
            # As long as the watchdog allows, or for good; from anywhere in the program, its last cycles included.
            last = number % 2 == 1
            begin = int(cycles - random.integers(1, 48) if last else random.integers(cycles))
            long = bool(random.integers(2))
            model = MemoryModel(stall_from=begin, stall_cycles=DEAD if long else PATIENCE - 64)
            detail = f"from cycle {begin} " + ("for good" if long else f"for {PATIENCE - 64} cycles")
            made.append(Injection(kind, 0, detail, memory=model))
    return made
