"""A program on the executor: picture in, embedding out, and what every step has left in memory."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.compiler.compile import Layer, Placed, Program
from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.executor import Executor
from sim.golden.model import GoldenModel
from sim.golden.parameters import Executed, Observer

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


def initial_memory(program: Program, picture: Wide) -> NDArray[np.uint8]:
    """Memory with the program's image and the picture (side, side, 3), as the host leaves it."""
    memory = np.zeros(program.preset.memory_bytes, np.uint8)
    memory[: len(program.image)] = np.frombuffer(program.image, np.uint8)
    place(memory, program.picture, picture.values)
    return memory


def run_encoder(program: Program, picture: Wide, step_done: StepDone | None = None) -> Wide:
    """Image embedding of a preprocessed picture (side, side, 3) by the numpy executor.

    Raises UserError when the program stops the machine, naming the command.
    """
    memory = initial_memory(program, picture)
    executor = Executor(program.preset, memory, program.writable)
    address = 0
    if step_done is not None:
        for layer in program.layers:
            address = executor.run(address, layer.commands[1])
            step_done(layer, taken(memory, layer.result))
    executor.run(address)
    return Wide(taken(memory, program.embedding), program.embedding.exponent)


EncoderRun: TypeAlias = Callable[[Program, Wide, StepDone | None], Wide]
"""What runs a program: `run_encoder`, or the simulated hardware."""


class ProgramModel(GoldenModel):
    """A golden model whose image encoder is a program; the rest of the network stays as it is.

    step_done: called with every step of the program as it finishes. check_layers: run the golden encoder too, and
    compare the result of every step. encode: what runs the program.
    """

    def __init__(
        self,
        golden: GoldenModel,
        program: Program,
        step_done: StepDone | None = None,
        *,
        check_layers: bool = False,
        encode: EncoderRun = run_encoder,
    ) -> None:
        """Raises UserError when the program is for pictures of another size."""
        super().__init__(golden.parameters, golden.architecture)
        side = golden.architecture.input_format.side
        if program.picture.shape != (side, side, 3):
            raise UserError(f"the program takes pictures of {program.picture.shape}, the model {side} x {side} pixels")
        self._program, self._step_done, self._check_layers = program, step_done, check_layers
        self._encode = encode

    def encode_wide(self, pixels: NDArray[np.float32], observer: Observer | None = None) -> Wide:
        """As in GoldenModel; `observer` sees the golden encoder, which runs only where its layers are compared.

        Raises UserError that names the first value of a step which differs.
        """
        wanted: dict[str, NDArray[np.int16]] = {}
        if self._check_layers:
            compared = {layer.names[-1] for layer in self._program.layers}

            def keep(name: str, executed: Executed) -> None:
                if name in compared:
                    wanted[name] = executed.output.values
                if observer is not None:
                    observer(name, executed)

            super().encode_wide(pixels, keep)

        def done(layer: Layer, result: NDArray[np.int16]) -> None:
            if self._check_layers:
                check_layer(layer, result, wanted.pop(layer.names[-1]))
            if self._step_done is not None:
                self._step_done(layer, result)

        return self._encode(self._program, self.wide_picture(pixels), done)


def check_layer(layer: Layer, found: NDArray[np.int16], wanted: NDArray[np.int16]) -> None:
    """Raises UserError that names the first value of a step's result which differs."""
    tokens, expected = (values.reshape(-1, values.shape[-1]) for values in (found, wanted))
    differing = np.argwhere(tokens != expected)
    if len(differing):
        token, channel = differing[0].tolist()
        raise UserError(
            f"{layer.names[-1]}: token {token}, channel {channel} is {tokens[token, channel]}, the golden model has "
            f"{expected[token, channel]} ({len(differing)} of {tokens.size} values differ)"
        )
