"""What an image encoder does, operation by operation, and which stored values each operation reads.

The functions that run a network run here on numbers of values instead of values: every result counts its elements,
windows, patches and neighbourhoods move the numbers, and what arrives at an operation says where its input lies. So no
second description of the movements can come apart from the first.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide
from sim.golden.architecture import Architecture
from sim.golden.parameters import Codes, Parameters
from sim.golden.rehearsal import result_shape

PICTURE: Final = 0
"""Number of the tensor that the host provides; results of operations are 1, 2, 3, ..."""

ZERO: Final = -1
"""Beat number of padding."""


@dataclass(frozen=True)
class View:
    """One input: tokens of `channels` values of the tensor `source`.

    beats: int32 (tokens, beats of a token), the number of each beat in the source, ZERO where it is padding; None where
    the input is the source as it stands. dense: beats are counted through all of the source's values; otherwise every
    token of the source begins a beat.
    """

    source: int
    shape: tuple[int, ...]
    beats: NDArray[np.int32] | None = None
    dense: bool = False

    @property
    def channels(self) -> int:
        """Values of a token."""
        return self.shape[-1]

    @property
    def tokens(self) -> int:
        """Tokens of all leading axes."""
        return int(np.prod(self.shape[:-1]))


@dataclass(frozen=True)
class Node:
    """One operation in the order of the network. Its result is the tensor `number`, of the given shape."""

    number: int
    operation: Operation
    inputs: tuple[View, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the operation."""
        return self.operation.name

    @property
    def tokens(self) -> int:
        """Tokens of the result."""
        return int(np.prod(self.shape[:-1]))

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return self.shape[-1]


@dataclass(frozen=True)
class Trace(Parameters):
    """Parameters whose operations compute nothing and write down what they would read.

    lanes: values of a beat. bases, shapes: number of the first element, and shape, of each tensor; element 0 is none:
    it is what padding is filled with.
    """

    lanes: int = 8
    nodes: list[Node] = field(default_factory=list)
    bases: list[int] = field(default_factory=lambda: [1])
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def tensor_numbers(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Element numbers of one more tensor."""
        start = self.bases[-1]
        numbers = np.arange(start, start + int(np.prod(shape))).reshape(shape)
        self.bases.append(start + numbers.size)
        self.shapes.append(shape)
        return numbers

    def execute(self, operation: Operation, inputs: tuple[Wide, ...]) -> tuple[Codes, Wide]:
        """No codes; the numbers of the result's elements. Raises UserError when the inputs do not fit."""
        shape = result_shape(operation, inputs)
        stored = isinstance(operation, Residual) and operation.positions is not None
        views = tuple(self._view(operation.name, one.values) for one in (inputs[:1] if stored else inputs))
        self.nodes.append(Node(len(self.shapes), operation, views, shape))
        # int16 stands in the annotations of the network functions, which only move values.
        return None, Wide(self.tensor_numbers(shape), operation.wide_exponent)  # type: ignore[arg-type]

    def _view(self, name: str, numbers: NDArray[np.generic]) -> View:
        flat = numbers.reshape(-1, numbers.shape[-1]).astype(np.int64, copy=False)
        first = flat[:, :: self.lanes]
        source = int(np.searchsorted(self.bases, first.max(), side="right")) - 1
        base, shape = self.bases[source], self.shapes[source]
        whole = flat.shape[-1] == shape[-1] and flat.size == self.bases[source + 1] - base
        if whole and np.array_equal(flat.reshape(-1), np.arange(base, base + flat.size)):
            return View(source, numbers.shape)
        padding = first == 0
        offset = first - base
        self._check_beats(name, flat, first, padding)
        if offset[~padding].min() < 0:
            raise UserError(f"{name} reads two tensors in one input; the compiler takes one")
        dense = shape[-1] % self.lanes != 0 and flat.shape[-1] != shape[-1]
        if dense:
            beats, rest = np.divmod(offset, self.lanes)
        else:
            token, channel = np.divmod(offset, shape[-1])
            beats, rest = np.divmod(channel, self.lanes)
            beats += token * -(-shape[-1] // self.lanes)
        if rest[~padding].any():
            raise UserError(f"{name} reads values that do not begin at a beat of {self.lanes}; no READ can do that")
        beats[padding] = ZERO
        return View(source, numbers.shape, beats.astype(np.int32), dense)

    def _check_beats(
        self, name: str, flat: NDArray[np.int64], first: NDArray[np.int64], padding: NDArray[np.bool_]
    ) -> None:
        for lane in range(1, self.lanes):
            part = flat[:, lane :: self.lanes]
            if not np.array_equal(part, np.where(padding, 0, first + lane)[:, : part.shape[1]]):
                raise UserError(f"{name} reads values that do not lie side by side; no READ can do that")


def trace(parameters: Parameters, architecture: Architecture, lanes: int) -> tuple[list[Node], View]:
    """The operations of the image encoder, and what the embedding is.

    Raises UserError that names an operation which reads what no READ can.
    """
    recorder = Trace(parameters.tensors, parameters.operations, lanes=lanes)
    side = architecture.input_format.side
    picture = recorder.tensor_numbers((side, side, 3))
    embedding = architecture.encode(Wide(picture, architecture.input_exponent), recorder)  # type: ignore[arg-type]
    return recorder.nodes, recorder._view("the embedding", embedding.values)
