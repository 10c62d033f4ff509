"""Passes of 4 bits: what a dense layer is to the array, its constants, and where its weights lie."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder, Levels, pack_nibbles
from sim.contract.constants import TILE_CHANNELS
from sim.contract.layer import QuantizedLayer, weight_nibbles
from sim.machine import sweep
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.settings import Phase


@dataclass(frozen=True)
class Pass:
    """One LOAD and RUN of a column tile: index of its codebook; addresses of scale and weights of column tile 0; which
    word of a token's codes it takes."""

    codebook: int
    scale: int
    weights: int
    word: int


@dataclass(frozen=True)
class Passes:
    """All passes of a layer. words: of a token. planes: address and bytes of each nibble of all weights. bias: address
    for column tile 0. pitches of scale, bias and weights: bytes from a column tile to the next. load: cycles of a LOAD,
    of the slowest codebook."""

    passes: tuple[Pass, ...]
    words: int
    planes: tuple[tuple[int, int], ...]
    bias: int
    columns: int
    scale_pitch: int
    bias_pitch: int
    weight_pitch: int
    load: int


def pack_weights(weight: NDArray[np.int8], preset: MachinePreset) -> bytes:
    """Weights (N, K), both multiples of the array's sides, as [column tile][row block][row][column] nibbles."""
    outputs, inputs = weight.shape
    tiles = weight.reshape(outputs // preset.columns, preset.columns, inputs // preset.rows, preset.rows)
    return pack_nibbles(tiles.transpose(0, 2, 3, 1))


def padded(values: NDArray, *shape: int) -> NDArray:
    """A copy in the corner of zeros of this shape."""
    result = np.zeros(shape, values.dtype)
    result[tuple(slice(length) for length in values.shape)] = values
    return result


def load_cycles(books: list[Levels], preset: MachinePreset) -> int:
    """Cycles of a LOAD of the slowest of these codebooks (hdl.matmul)."""
    return max(sweep.load_cycles(preset.rows // preset.loader_rows, levels) for levels in books)


def layer_passes(builder: Builder, layer: QuantizedLayer) -> Passes:
    """The passes of a layer on codes in its encoder's order, its constants stored, its codebooks read.

    Raises UserError when it has more codebooks than the array.
    """
    preset, form = builder.preset, layer.array_form
    tiles = -(-layer.outputs // preset.columns)
    outputs = tiles * preset.columns
    books: list[Levels] = [tuple(levels) for levels in form.codebooks.tolist()]
    distinct = list(dict.fromkeys(books))
    first_book = builder.codebooks(distinct, layer.name)
    blocks = TILE_CHANNELS // preset.rows
    inputs = layer.encoder.tiles * TILE_CHANNELS
    weights = [
        builder.constant(pack_weights(padded(nibble, outputs, inputs), preset))
        for nibble in weight_nibbles(layer.weight, layer.weight_planes)
    ]
    scale = padded(form.scale, len(form.scale), outputs).reshape(len(form.scale), tiles, preset.columns)
    scale_address = builder.constant(np.ascontiguousarray(scale.transpose(1, 0, 2)).astype("<u2").tobytes())
    passes = []
    planes = layer.encoder.code_planes
    for tile, positions in enumerate(layer.encoder.tile_slices()):
        for number in range(layer.passes):
            nibble, plane = divmod(number, layer.level_planes)
            index = tile * layer.passes + number
            for block in range(-(-(positions.stop - positions.start) // preset.rows)):
                passes.append(
                    Pass(
                        codebook=first_book + distinct.index(books[index]),
                        scale=scale_address + index * preset.columns * 2,
                        weights=weights[nibble] + (tile * blocks + block) * preset.pass_bytes,
                        word=(tile * planes + (plane if planes == 2 else 0)) * blocks + block,
                    )
                )
    return Passes(
        passes=tuple(passes),
        words=layer.encoder.tiles * planes * blocks,
        planes=tuple((address, outputs * inputs // 2) for address in weights),
        bias=builder.constant(padded(layer.bias, outputs).astype("<i4").tobytes()),
        columns=tiles,
        scale_pitch=len(form.scale) * preset.columns * 2,
        bias_pitch=preset.columns * 4,
        weight_pitch=inputs // preset.rows * preset.pass_bytes,
        load=load_cycles(distinct, preset),
    )


def array_command(builder: Builder, phase: Phase, **fields: int) -> None:
    """SEND a command of the array; fields that are not given are 1 (keys and loops) or 0."""
    command = {"codebook": 0, "keys": 1, "tiles": 1, "groups": 1, "planes": 1, "runs": 1, "split": 0}
    command |= {"release": 0, "word": 0, "pitch": 0}
    builder.send(Port.ARRAY_COMMAND, phase=phase, **(command | fields))


def copy_weights(builder: Builder, layer: Passes) -> dict[int, int]:
    """Weights to near memory: address there by address here."""
    copies = {}
    for address, size in layer.planes:
        copies[address] = builder.near.take(size)
        builder.copy(address, copies[address], size)
    builder.wait()
    return copies


def from_copies(one: Pass, copies: dict[int, int], planes: tuple[tuple[int, int], ...]) -> Pass:
    """A pass with its weights where they have been copied to."""
    for address, size in planes:
        if address in copies and address <= one.weights < address + size:
            return replace(one, weights=one.weights - address + copies[address])
    return one
