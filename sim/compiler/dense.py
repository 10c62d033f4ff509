"""Dense layers: codes of a block of tokens, then every column tile in passes of 4 bits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder, Levels, pack_nibbles
from sim.compiler.encode import Codes, encode, plan_codes
from sim.compiler.region import Region
from sim.contract.constants import TILE_CHANNELS
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer, weight_nibbles
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from sim.machine.settings import Phase


@dataclass(frozen=True)
class Pass:
    """One LOAD and RUN of a column tile: index of its codebook; addresses of scale and weights of column tile 0; where
    in a token its codes are."""

    codebook: int
    scale: int
    weights: int
    codes: int


@dataclass(frozen=True)
class Passes:
    """All passes of a layer. bias: address for column tile 0. pitches of scale, bias and weights: bytes from a column
    tile to the next."""

    passes: tuple[Pass, ...]
    bias: int
    columns: int
    scale_pitch: int
    bias_pitch: int
    weight_pitch: int


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
    block_bytes = preset.rows * preset.columns // 2
    scale = padded(form.scale, len(form.scale), outputs).reshape(len(form.scale), tiles, preset.columns)
    scale_address = builder.constant(np.ascontiguousarray(scale.transpose(1, 0, 2)).astype("<u2").tobytes())
    passes = []
    two = layer.encoder.code_planes == 2
    codes = Codes(0, 0, layer.encoder.code_planes)
    for tile, positions in enumerate(layer.encoder.tile_slices()):
        for number in range(layer.passes):
            nibble, plane = divmod(number, layer.level_planes)
            index = tile * layer.passes + number
            for block in range(-(-(positions.stop - positions.start) // preset.rows)):
                passes.append(
                    Pass(
                        codebook=first_book + distinct.index(books[index]),
                        scale=scale_address + index * preset.columns * 2,
                        weights=weights[nibble] + (tile * blocks + block) * block_bytes,
                        codes=codes.plane(tile, plane if two else 0) + block * preset.rows // 2,
                    )
                )
    return Passes(
        passes=tuple(passes),
        bias=builder.constant(padded(layer.bias, outputs).astype("<i4").tobytes()),
        columns=tiles,
        scale_pitch=len(form.scale) * preset.columns * 2,
        bias_pitch=preset.columns * 4,
        weight_pitch=inputs // preset.rows * block_bytes,
    )


def run_passes(builder: Builder, layer: Passes, codes: Codes, tokens: int, *, results: int, pitch: int) -> None:
    """The array's commands for `tokens` tokens of codes; results go to this address, tokens `pitch` bytes apart."""
    preset = builder.preset
    width = preset.columns * 2
    for start in range(0, tokens, preset.token_depth):
        count = min(preset.token_depth, tokens - start)
        for tile in range(layer.columns):
            builder.write_loops(
                Port.RESULTS,
                results + start * pitch + tile * width,
                (width // builder.beat, builder.beat),
                (count, pitch),
            )
            for number, one in enumerate(layer.passes):
                first, last = number == 0, number == len(layer.passes) - 1
                array_command(builder, Phase.DENSE, codebook=one.codebook, queries=count, first=first, last=last)
                builder.read_block(Port.SCALE, one.scale + tile * layer.scale_pitch, 1)
                if first:
                    builder.read_block(Port.BIAS, layer.bias + tile * layer.bias_pitch, 1)
                loads = preset.rows // preset.loader_rows
                builder.read_block(Port.WEIGHTS, one.weights + tile * layer.weight_pitch, loads)
                read_codes(builder, codes, codes.address + start * codes.pitch + one.codes, count)


def array_command(builder: Builder, phase: Phase, **fields: int) -> None:
    """SEND a command of the array; fields that are not given are 1 (keys and loops) or 0."""
    command = {"codebook": 0, "keys": 1, "tiles": 1, "groups": 1, "planes": 1, "runs": 1, "split": 0}
    builder.send(Port.ARRAY_COMMAND, phase=phase, **(command | fields))


def read_codes(builder: Builder, codes: Codes, address: int, tokens: int) -> None:
    """READ the codes of one pass: `rows` nibbles of every token."""
    beats = builder.preset.rows // 2 // builder.beat
    if not beats:
        raise UserError(f"preset {builder.preset.name}: codes of a pass are less than a beat; it needs more rows")
    builder.read_loops(Port.CODES, address, (beats, builder.beat), (tokens, codes.pitch))


def lower_dense(builder: Builder, layer: QuantizedLayer, values: NDArray[np.int64], out: Region, start: int) -> None:
    """A layer on the tokens whose beats are at addresses (tokens, beats); results are tokens `start` and up."""
    passes = layer_passes(builder, layer)
    plan = plan_codes(layer.encoder, builder.preset.lanes)
    depth = builder.preset.token_depth
    room = builder.memory.take(min(depth, len(values)) * plan.pitch)
    codes = Codes(room, plan.pitch, plan.planes)
    for begin in range(0, len(values), depth):
        part = values[begin : begin + depth]
        encode(builder, plan, part, room)
        builder.wait()
        results = out.address + (start + begin - out.first) * out.pitch
        run_passes(builder, passes, codes, len(part), results=results, pitch=out.pitch)
    builder.wait()
    builder.memory.free(room)


def results_pitch(channels: int, preset: MachinePreset) -> int:
    """Bytes of a token of results: whole payloads."""
    return -(-channels // preset.columns) * preset.columns * 2
