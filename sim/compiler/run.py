"""A program on the executor: picture in, embedding out, and what every step has left in memory."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.compiler.compile import Layer, Placed, Program
from sim.contract.wide import Wide
from sim.executor import Executor

StepDone: TypeAlias = Callable[[Layer, NDArray[np.int16]], None]
"""Called as step_done(layer, result) after every step, result int16 of its shape."""


def place(memory: NDArray[np.uint8], where: Placed, values: NDArray[np.int16]) -> None:
    """Puts values of the place's shape into memory uint8 (bytes,)."""
    rows = values.reshape(-1, where.shape[-1]).astype("<i2")
    if where.dense:
        content = rows.reshape(-1).view(np.uint8)
        memory[where.address : where.address + content.size] = content
        return
    view = memory[where.address : where.address + len(rows) * where.pitch].reshape(len(rows), where.pitch)
    view[:, : rows.shape[1] * 2] = rows.view(np.uint8)


def taken(memory: NDArray[np.uint8], where: Placed) -> NDArray[np.int16]:
    """Values int16 of the place's shape from memory uint8 (bytes,)."""
    tokens = int(np.prod(where.shape[:-1]))
    rows = memory[where.address : where.address + tokens * where.pitch].reshape(tokens, where.pitch)
    values = np.ascontiguousarray(rows[:, : where.shape[-1] * 2]).view("<i2")
    return values.astype(np.int16).reshape(where.shape)


def run_encoder(program: Program, picture: Wide, step_done: StepDone | None = None) -> Wide:
    """Image embedding of a preprocessed picture (side, side, 3) by the numpy executor.

    Raises UserError when the program stops the machine, naming the command.
    """
    memory = np.zeros(program.preset.memory_bytes, np.uint8)
    memory[: len(program.image)] = np.frombuffer(program.image, np.uint8)
    place(memory, program.picture, picture.values)
    executor = Executor(program.preset, memory, program.writable)
    address = 0
    for layer in program.layers if step_done is not None else []:
        address = executor.run(address, layer.commands[1])
        assert step_done is not None
        step_done(layer, taken(memory, layer.result))
    executor.run(address)
    return Wide(taken(memory, program.embedding), program.embedding.exponent)
