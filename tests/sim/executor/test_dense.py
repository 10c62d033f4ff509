import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.constants import TILE_CHANNELS
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.nibbles import pack_nibbles
from sim.contract.wide import Wide
from sim.machine.commands import Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.settings import Phase
from tests.sim.executor.assembler import Assembler

LEVELS = {
    "uniform": np.arange(-8, 8),
    "wide": np.array([-128, -90, -64, -40, -20, -9, -4, 0, 3, 8, 17, 33, 50, 80, 100, 127]),
    "bytes": np.arange(-128, 128),
}


def layer(levels: NDArray[np.int64], channels: int, outputs: int, weight_planes: int) -> QuantizedLayer:
    rng = np.random.default_rng(channels + outputs)
    tiles = -(-channels // TILE_CHANNELS)
    shift = rng.integers(12, 16, tiles).astype(np.uint8)
    spread = np.repeat(shift, TILE_CHANNELS)[:channels].astype(np.int64)
    low, high = (-8, 7) if weight_planes == 1 else (-128, 119)
    encoder = Encoder(
        name="layer",
        input_exponent=-8,
        permutation=rng.permutation(channels).astype(np.uint16),
        multiplier=rng.integers(-1200, 1200, channels).astype(np.int16),
        addend=(rng.integers(220, 290, channels) << spread).astype(np.int32),
        shift=shift,
        levels=levels.astype(np.int8)[None],
    )
    return QuantizedLayer(
        name="layer",
        encoder=encoder,
        weight=rng.integers(low, high + 1, (outputs, channels)).astype(np.int8),
        scale=rng.integers(1, 700, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(1 << 20), 1 << 20, outputs).astype(np.int32),
        wide_exponent=-8,
        weight_planes=weight_planes,
    )


def packed(codes: NDArray[np.uint8], planes: int) -> NDArray[np.uint8]:
    """Codes (tokens, positions) as docs/machine.md has them, one nibble after the other."""
    rows = []
    for row in codes.tolist():
        token = row + [0] * (-len(row) % TILE_CHANNELS)
        for start in range(0, len(token), TILE_CHANNELS):
            for plane in range(planes):
                part = [code >> 4 * (planes - 1 - plane) & 15 for code in token[start : start + TILE_CHANNELS]]
                rows.append([part[p] | part[p + 1] << 4 for p in range(0, TILE_CHANNELS, 2)])
    return np.array(rows, np.uint8).reshape(-1)


def token_words(a: Assembler, operation: QuantizedLayer) -> int:
    """Words of a token's codes."""
    return operation.encoder.tiles * operation.encoder.code_planes * (TILE_CHANNELS // a.preset.rows)


def books(operation: QuantizedLayer) -> NDArray[np.int8]:
    """Codebooks of a layer, by number."""
    return np.unique(operation.array_form.codebooks, axis=0)


def row_bytes(a: Assembler, operation: QuantizedLayer) -> int:
    """Bytes of a token of results."""
    return -(-operation.outputs // a.preset.columns) * a.preset.columns * 2


def passes(a: Assembler, operation: QuantizedLayer, count: int, result: int, port: Port = Port.RESULTS) -> None:
    """Commands of a layer on a block of all codes of `count` tokens, which give it back; results leave `port`."""
    preset, form, distinct = a.preset, operation.array_form, books(operation)
    planes, pitch = operation.encoder.code_planes, row_bytes(a, operation)
    plane_words = TILE_CHANNELS // preset.rows
    steps = [(tile, part) for tile, _ in form.tile_slices() for part in range(plane_words)]
    columns = -(-operation.outputs // preset.columns)
    for column in range(columns):
        outputs = slice(column * preset.columns, (column + 1) * preset.columns)
        counts = (preset.columns * 2 // a.beat, count, 1, 1)
        a.move_out(port, result + column * preset.columns * 2, counts=counts, strides=(pitch, 0, 0))
        for number, (tile, part) in enumerate(steps):
            begin, end = number == 0, number == len(steps) - 1
            plane = tile % operation.passes % operation.level_planes if planes == 2 else 0
            a.array(
                Phase.DENSE,
                codebook=int(np.flatnonzero((distinct == form.codebooks[tile]).all(axis=1))[0]),
                queries=count,
                first=begin,
                last=end,
                release=end and column == columns - 1,
                word=(tile // operation.passes * planes + plane) * plane_words + part,
                pitch=token_words(a, operation),
            )
            inputs = list(form.tile_slices())[tile][1]
            rows = slice(inputs.start + part * preset.rows, min(inputs.start + (part + 1) * preset.rows, inputs.stop))
            weight = np.zeros((preset.rows, preset.columns), np.int8)
            values = form.weight[outputs, rows].T
            weight[: values.shape[0], : values.shape[1]] = values
            scale = np.zeros(preset.columns, np.uint16)
            scale[: values.shape[1]] = form.scale[tile, outputs]
            a.read(Port.SCALE, scale)
            if begin:
                bias = np.zeros(preset.columns, np.int32)
                bias[: values.shape[1]] = form.bias[outputs]
                a.read(Port.BIAS, bias)
            a.read(Port.WEIGHTS, pack_nibbles(weight.reshape(1, -1)))


def dense(a: Assembler, operation: QuantizedLayer, codes: int, tokens: int) -> NDArray[np.int16]:
    """Commands of a layer on packed codes in memory; results (tokens, outputs) after the run are a view of memory."""
    a.codebooks(*books(operation))
    words, pitch = token_words(a, operation), row_bytes(a, operation)
    token_bytes = words * a.preset.rows // 2
    result = a.room(tokens * pitch)
    for first in range(0, tokens, a.preset.token_depth):
        count = min(a.preset.token_depth, tokens - first)
        a.send(Port.CODE_BLOCK, count * words)
        a.move(Opcode.READ, Port.CODES, codes + first * token_bytes, count * token_bytes // a.beat)
        passes(a, operation, count, result + first * pitch)
    a.wait()
    return a.get(result, (tokens, pitch // 2))


@pytest.mark.parametrize("preset", ["tiny", "small", "full"])
@pytest.mark.parametrize(
    ("kind", "channels", "outputs", "weight_planes"),
    [("uniform", 64, 8, 1), ("uniform", 96, 20, 2), ("wide", 128, 12, 1), ("bytes", 72, 40, 2)],
)
def test_a_layer_from_wide_values_to_wide_values(
    preset: str, kind: str, channels: int, outputs: int, weight_planes: int
) -> None:
    operation = layer(LEVELS[kind], channels, outputs, weight_planes)
    tokens = 70
    values = np.random.default_rng(1).integers(-4000, 4000, (tokens, channels)).astype(np.int16)
    codes, wide = operation.run(Wide(values, -8))

    a = Assembler(PRESETS[preset])
    planes = operation.encoder.code_planes
    a.encoder(operation.encoder)
    encoded = a.write(Port.ENCODED, tokens * operation.encoder.tiles * planes * 32)
    beats = channels * 2 // a.beat
    a.read(Port.ENCODER_VALUES, values, counts=(beats, tokens, 1, 1), strides=(beats * a.beat, 0, 0), token_dims=1)
    a.wait()
    result = dense(a, operation, encoded, tokens)
    a.run()
    expected = packed(codes, planes)
    assert np.array_equal(a.get(encoded, expected.shape, "u1"), expected)
    assert np.array_equal(result[:, :outputs], wide.values)
    assert not result[:, outputs:].any()


def test_a_token_may_come_in_pieces() -> None:
    operation = layer(LEVELS["uniform"], 96, 8, 1)
    values = np.random.default_rng(2).integers(-4000, 4000, (3, 96)).astype(np.int16)
    a = Assembler()
    a.encoder(operation.encoder)
    encoded = a.write(Port.ENCODED, 3 * 64)
    a.read(Port.ENCODER_VALUES, values[0, :40])
    a.read(Port.ENCODER_VALUES, values[0, 40:], token_dims=1)
    a.read(Port.ENCODER_VALUES, values[1, :88])
    # The rest of the second token ends after one beat; the third is a token of twelve.
    a.read(Port.ENCODER_VALUES, values[1, 88:], token_dims=1)
    a.read(Port.ENCODER_VALUES, values[2], token_dims=2)
    a.wait()
    a.run()
    expected = packed(operation.encoder.encode(Wide(values, -8)), 1)
    assert np.array_equal(a.get(encoded, expected.shape, "u1"), expected)


def test_copy_moves_a_rectangle_and_turns_it() -> None:
    a = Assembler()
    values = np.random.default_rng(3).integers(0, 256, (5, 7, a.beat)).astype(np.uint8)
    place = a.write(Port.COPIED, values.size)
    a.read(Port.COPY, values, counts=(1, 5, 7, 1), strides=(7 * a.beat, a.beat, 0))
    a.wait()
    a.run()
    assert np.array_equal(a.get(place, (7, 5, a.beat), "u1"), values.transpose(1, 0, 2))


def test_a_run_stops_where_it_is_told_and_goes_on() -> None:
    a = Assembler()
    values = np.arange(8).astype(np.int16)
    place = a.write(Port.COPIED, 16)
    a.read(Port.COPY, values)
    a.wait()
    executor = a.executor()
    assert executor.run(0, 32) == 32
    assert not a.get(place, (8,)).any()
    assert executor.run(32) == 96
    assert np.array_equal(a.get(place, (8,)), values)
