from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import (
    QuantizedLayer,
    level_codebooks,
    pass_scale,
    tile_count,
    weight_limits,
    weight_nibbles,
)
from sim.contract.linear import accumulate, linear
from sim.contract.wide import Wide


def level_rows(rng: np.random.Generator, tiles: int, count: int, largest: int) -> np.ndarray:
    """Random level sets (tiles, count) within [-largest, largest], the last of them within one nibble if it can be."""
    rows = [np.sort(rng.choice(np.arange(-largest, largest + 1), count, replace=False)) for _ in range(tiles)]
    if tiles > 1 and count == 16:
        rows[-1] = np.arange(-8, 8)
    return np.stack(rows).astype(np.int8)


def random_layer(
    channels: int = 70, *, count: int = 16, largest: int = 15, weight_planes: int = 1, outputs: int = 5, seed: int = 0
) -> QuantizedLayer:
    rng = np.random.default_rng(seed)
    tiles = -(-channels // 64)
    encoder = Encoder(
        name="block.fc.encoder",
        input_exponent=-7,
        permutation=rng.permutation(channels).astype(np.uint16),
        multiplier=rng.integers(-900, 900, channels).astype(np.int16),
        addend=rng.integers(200 << 14, 300 << 14, channels).astype(np.int32),
        shift=np.full(tiles, 14, np.uint8),
        levels=level_rows(rng, tiles, count, largest),
    )
    low, high = weight_limits(4 if weight_planes == 1 else 8)
    return QuantizedLayer(
        name="block.fc",
        encoder=encoder,
        weight=rng.integers(low, high + 1, (outputs, channels)).astype(np.int8),
        scale=rng.integers(0, 65536, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(1 << 20), 1 << 20, outputs).astype(np.int32),
        wide_exponent=-9,
        weight_planes=weight_planes,
    )


def accumulators(layer: QuantizedLayer, level: np.ndarray) -> np.ndarray:
    """The definition, nibble by nibble: (tokens, N) without bias."""
    total = np.zeros((level.shape[0], layer.outputs), np.int64)
    weight = layer.weight.astype(np.int64)
    for position in range(level.shape[1]):
        row = layer.encoder.tile_levels(position // 64)
        one, values = weight[:, position], level[:, position].astype(np.int64)
        high_weight = (one + 8) >> 4 if layer.weight_planes == 2 else 0 * one
        two_books = layer.level_planes == 2 and (row.size != 16 or np.abs(row.astype(int)).max() > 15)
        high_level = values >> 4 if two_books else 0 * values
        weights = [high_weight, one - 16 * high_weight][2 - layer.weight_planes :]
        levels = [high_level, values - 16 * high_level][2 - layer.level_planes :]
        for i, nibbles in enumerate(weights):
            for j, level_nibbles in enumerate(levels):
                scale = [round(Fraction(int(top), 16 ** (i + j))) for top in layer.scale[position // 64]]
                total += np.outer(level_nibbles, nibbles * np.array(scale))
    return total


def test_each_nibble_below_the_highest_pass_takes_a_sixteenth_of_the_scale_rounded_half_to_even() -> None:
    scale = np.array([0, 8, 24, 40, 255, 65535], np.uint16)
    assert pass_scale(scale, 0).tolist() == scale.tolist()
    assert pass_scale(scale, 1).tolist() == [0, 0, 2, 2, 16, 4096]
    assert pass_scale(scale, 2).tolist() == [0, 0, 0, 0, 1, 256]


PLANES = [(16, 15, 1), (16, 127, 2), (32, 127, 2), (248, 127, 2)]


@pytest.mark.parametrize("channels", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("weight_planes", [1, 2])
@pytest.mark.parametrize(("count", "largest", "level_planes"), PLANES)
def test_passes_of_the_array_give_the_same_bits(
    channels: int, weight_planes: int, count: int, largest: int, level_planes: int
) -> None:
    layer = random_layer(channels, count=count, largest=largest, weight_planes=weight_planes, seed=channels)
    x = np.random.default_rng(2).integers(-(1 << 15), 1 << 15, (2, 9, channels)).astype(np.int16)
    codes, result = layer.run(Wide(x, -7))
    array = layer.array_form
    assert layer.level_planes == level_planes or channels <= 16
    assert array.passes == layer.passes == layer.level_planes * weight_planes
    assert layer.macs_per_token == array.in_features * 5
    array_codes = layer.array_codes(codes)
    np.testing.assert_array_equal(linear(array_codes.reshape(18, -1), array).reshape(2, 9, 5), result.values)
    assert result.exponent == -9
    # The accumulators themselves, not only their rounded and saturated ends.
    wanted = accumulators(layer, layer.encoder.level(codes).reshape(18, channels)) + layer.bias * 4
    np.testing.assert_array_equal(accumulate(array_codes.reshape(18, -1), array), wanted)


def test_a_tile_within_one_nibble_beside_one_that_needs_two() -> None:
    layer = random_layer(130, count=16, largest=127)
    books = layer.array_form.codebooks
    assert (books[4] == 0).all() and books[5].tolist() == list(range(-8, 8))


def test_weights_are_the_sum_of_their_signed_nibbles() -> None:
    weight = np.arange(-128, 120).astype(np.int8)[None]
    high, low = (nibble.astype(int) for nibble in weight_nibbles(weight, 2))
    assert min(high.min(), low.min()) == -8 and max(high.max(), low.max()) == 7
    np.testing.assert_array_equal(16 * high + low, weight)
    assert weight_nibbles(weight, 1)[0] is weight


def test_level_planes_are_the_nibbles_of_a_level() -> None:
    levels = np.array([-128, -127, -17, -16, -1, 0, 1, 15, 16, 17, 31, 40, 50, 60, 100, 127], np.int8)
    high, low = level_codebooks(levels)
    np.testing.assert_array_equal(16 * high.astype(int) + low, levels)
    assert low.min() == 0 and low.max() == 15
    narrow = np.arange(0, 16).astype(np.int8)
    assert [book.tolist() for book in level_codebooks(narrow)] == [narrow.tolist()]


def test_limits_of_weights() -> None:
    assert [weight_limits(bits) for bits in (4, 5, 6, 8)] == [(-8, 7), (-16, 15), (-32, 31), (-128, 119)]
    assert [tile_count(channels) for channels in (1, 64, 65)] == [1, 1, 2]


def test_chunks_of_tokens_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = random_layer(70)
    codes = np.random.default_rng(0).integers(0, 16, (23, 70)).astype(np.uint8)
    # First in chunks: afterwards, memory that was never written may still hold the right result.
    with monkeypatch.context() as patch:
        patch.setattr("sim.contract.layer.TOKENS_PER_CHUNK", 5)
        in_chunks = layer.wide(codes)
    np.testing.assert_array_equal(in_chunks, layer.wide(codes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", np.full((5, 70), 8, np.int8)),
        ("weight", np.zeros((5, 69), np.int8)),
        ("weight", np.zeros((0, 70), np.int8)),
        ("scale", np.zeros((1, 5), np.uint16)),
        ("bias", np.zeros(5, np.int64)),
        ("wide_exponent", 65),
        ("weight_planes", 3),
        ("weight_planes", True),
        ("weight_planes", 1.0),
    ],
)
def test_a_layer_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=r"layer block\.fc"):
        replace(random_layer(), **{field: value})  # type: ignore[arg-type]


def test_a_byte_weight_over_two_signed_nibbles_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[-128, 119\]"):
        replace(random_layer(weight_planes=2), weight=np.full((5, 70), 120, np.int8))


def test_a_layer_that_could_overflow_its_accumulator_is_refused() -> None:
    layer = random_layer(80 * 64, outputs=1)
    scale = np.full((80, 1), 65535, np.uint16)
    with pytest.raises(UserError, match="36-bit limit"):
        replace(layer, weight=np.full((1, 80 * 64), -8, np.int8), scale=scale)
