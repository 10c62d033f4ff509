"""A linear layer as a sequence of array commands: the tiling that every bench runs.

Order: token chunks (what token memory holds) > column tiles > K tiles > row passes; each pass is one LOAD and
one RUN. A K tile of 64 inputs takes 64 / rows passes with the same scale. A pass that holds no input at all is
left out; the rest of the last pass is padded with weight 0 and code 0, missing columns with weight, scale and
bias 0. Where a layer has more codebooks than the array, a new phase rewrites codebook memory in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from sim.contract.constants import TILE_CHANNELS
from sim.contract.linear import QuantizedLinear

LOAD, RUN = 0, 1

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Command:
    """One transfer of `i_command`: LOAD uses codebook and load_bias, RUN uses tokens, first and last."""

    opcode: int
    codebook: int = 0
    load_bias: bool = False
    tokens: int = 0
    first: bool = False
    last: bool = False


@dataclass(frozen=True)
class Pass:
    """One LOAD and one RUN: `positions` of K against `columns` of the outputs for the tokens `tokens`."""

    tile: int
    tokens: slice
    columns: slice
    positions: slice
    first: bool
    last: bool


@dataclass
class Phase:
    """Commands that share one filling of codebook memory, with the transfers they consume and cause, in order.

    codebooks: (16,) levels to write first, the one with index c at place c. weights: int8 (rows, columns) a
    LOAD. scale: uint16 (columns,) a LOAD. bias: int32 (columns,) a LOAD with load_bias. codes: uint8
    (tokens, rows) a RUN. outputs: (tokens, columns) of the result of every RUN with last, before padding.
    """

    codebooks: list[NDArray[np.int8]] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    weights: list[NDArray[np.int8]] = field(default_factory=list)
    scale: list[NDArray[np.uint16]] = field(default_factory=list)
    bias: list[NDArray[np.int32]] = field(default_factory=list)
    codes: list[NDArray[np.uint8]] = field(default_factory=list)
    outputs: list[tuple[slice, slice]] = field(default_factory=list)

    @property
    def output_transfers(self) -> int:
        """Transfers of port `o`."""
        return sum(tokens.stop - tokens.start for tokens, _ in self.outputs)


def passes(layer: QuantizedLinear, tokens: int, geometry: ArrayGeometry) -> Iterator[Pass]:
    """Every pass of a layer over `tokens` tokens, in the order of the module docstring."""
    positions = [
        (tile, slice(start, min(start + geometry.rows, inputs.stop)))
        for tile, inputs in layer.tile_slices()
        for start in range(inputs.start, inputs.stop, min(geometry.rows, TILE_CHANNELS))
    ]
    for token in range(0, tokens, geometry.token_depth):
        chunk = slice(token, min(token + geometry.token_depth, tokens))
        for column in range(0, layer.out_features, geometry.columns):
            columns = slice(column, min(column + geometry.columns, layer.out_features))
            for number, (tile, inputs) in enumerate(positions):
                yield Pass(tile, chunk, columns, inputs, number == 0, number == len(positions) - 1)


def schedule(codes: NDArray[np.uint8], layer: QuantizedLinear, geometry: ArrayGeometry) -> list[Phase]:
    """The phases that compute `layer` for codes uint8 (tokens, K) in permuted order on an array of `geometry`."""
    phases = [Phase()]
    for step in passes(layer, codes.shape[0], geometry):
        levels = layer.codebooks[step.tile]
        phase = phases[-1]
        index = _index(phase.codebooks, levels)
        if index == geometry.codebooks:
            phase, index = Phase(), 0
            phases.append(phase)
        if index == len(phase.codebooks):
            phase.codebooks.append(levels)
        weight = layer.weight[step.columns, step.positions].T
        phase.commands.append(Command(LOAD, codebook=index, load_bias=step.first))
        phase.weights.append(_padded(weight, (geometry.rows, geometry.columns)))
        phase.scale.append(_padded(layer.scale[step.tile, step.columns], (geometry.columns,)))
        if step.first:
            phase.bias.append(_padded(layer.bias[step.columns], (geometry.columns,)))
        count = step.tokens.stop - step.tokens.start
        phase.commands.append(Command(RUN, tokens=count, first=step.first, last=step.last))
        phase.codes.append(_padded(codes[step.tokens, step.positions], (count, geometry.rows)))
        if step.last:
            phase.outputs.append((step.tokens, step.columns))
    return phases


def assemble(
    phases: Sequence[Phase], results: Sequence[NDArray[np.int16]], shape: tuple[int, int]
) -> NDArray[np.int16]:
    """The layer's wide results int16 `shape` = (tokens, N) from the transfers int16 (n, columns) of each phase."""
    wide = np.zeros(shape, np.int16)
    for phase, transfers in zip(phases, results, strict=True):
        start = 0
        for tokens, columns in phase.outputs:
            count = tokens.stop - tokens.start
            wide[tokens, columns] = transfers[start : start + count, : columns.stop - columns.start]
            start += count
    return wide


def _index(codebooks: Sequence[NDArray[np.int8]], levels: NDArray[np.int8]) -> int:
    """Place of `levels` among `codebooks`, or their number when it is not there."""
    for index, known in enumerate(codebooks):
        if np.array_equal(known, levels):
            return index
    return len(codebooks)


def _padded(values: NDArray[Number], shape: tuple[int, ...]) -> NDArray[Number]:
    """A copy of `values` in the corner of zeros of the given shape."""
    result = np.zeros(shape, values.dtype)
    result[tuple(slice(length) for length in values.shape)] = values
    return result
