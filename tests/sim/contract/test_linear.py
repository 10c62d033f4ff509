from dataclasses import replace

import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, accumulate, expand_planes, finish, linear


def random_layer(inputs: int, outputs: int, seed: int = 0) -> QuantizedLinear:
    rng = np.random.default_rng(seed)
    tiles = -(-inputs // 64)
    return QuantizedLinear(
        name="layer",
        weight=rng.integers(-8, 8, (outputs, inputs)).astype(np.int8),
        scale=rng.integers(0, 1 << 16, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(1 << 20), 1 << 20, outputs).astype(np.int32),
        codebooks=rng.integers(-15, 16, (tiles, 16)).astype(np.int8),
        wide_exponent=-9,
        permutation=rng.permutation(inputs).astype(np.uint16),
        activation_scale=rng.uniform(0.05, 0.2, tiles).astype(np.float32),
        activation_offset=rng.normal(size=inputs).astype(np.float32),
    )


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (64, 3), (65, 2), (160, 5), (130, 4)])
def test_linear_equals_a_plain_integer_loop(inputs: int, outputs: int) -> None:
    layer = random_layer(inputs, outputs, seed=inputs)
    codes = np.random.default_rng(1).integers(0, 16, (7, inputs)).astype(np.uint8)
    wide = linear(codes, layer)
    for token in range(7):
        for n in range(outputs):
            total = int(layer.bias[n]) << 2
            for k in range(inputs):
                level = int(layer.codebooks[k // 64, codes[token, k]])
                total += int(layer.scale[k // 64, n]) * int(layer.weight[n, k]) * level
            assert accumulate(codes, layer)[token, n] == total
            floor, remainder = divmod(total, 1 << 10)
            floor += remainder > 1 << 9 or (remainder == 1 << 9 and floor % 2 == 1)
            assert wide[token, n] == max(-(1 << 15), min((1 << 15) - 1, floor))


def test_one_flipped_weight_bit_changes_the_result() -> None:
    layer = random_layer(64, 4)
    codes = np.random.default_rng(1).integers(0, 16, (9, 64)).astype(np.uint8)
    weight = layer.weight.copy()
    weight[2, 11] ^= 1
    assert (accumulate(codes, layer) != accumulate(codes, replace(layer, weight=weight))).any()


def test_largest_accumulator_is_still_exact() -> None:
    layer = replace(
        random_layer(1024, 2),
        weight=np.full((2, 1024), -8, np.int8),
        scale=np.full((16, 2), 65535, np.uint16),
        codebooks=np.full((16, 16), -15, np.int8),
    )
    codes = np.zeros((1, 1024), np.uint8)
    assert accumulate(codes, layer)[0].tolist() == [120 * 1024 * 65535 + (int(b) << 2) for b in layer.bias]


def test_worst_accumulator_bounds_every_input_and_is_reached() -> None:
    layer = random_layer(130, 6)
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (500, 130)).astype(np.uint8)
    assert (np.abs(accumulate(codes, layer)).max(axis=0) <= layer.worst_accumulator()).all()
    single = replace(random_layer(64, 1), bias=np.zeros(1, np.int32))
    products = single.weight[0].astype(int)[:, None] * single.codebooks[0]
    extremes = np.stack([products.argmax(axis=1), products.argmin(axis=1)]).astype(np.uint8)
    assert np.abs(accumulate(extremes, single)).max() == single.worst_accumulator()[0]


def test_encode_takes_permuted_channels_and_their_offsets() -> None:
    layer = random_layer(70, 2)
    x = np.random.default_rng(5).normal(size=(4, 70)).astype(np.float32)
    codes = layer.encode(x)
    for position in range(70):
        tile = position // 64
        levels = layer.codebooks[tile].astype(np.float32)
        wanted = x[:, layer.permutation[position]] / layer.activation_scale[tile] - layer.activation_offset[position]
        error = np.abs(wanted - levels[codes[:, position]])
        np.testing.assert_allclose(error, np.abs(wanted[:, None] - levels).min(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", np.full((4, 64), 8, np.int8)),
        ("scale", np.zeros((1, 3), np.uint16)),
        ("bias", np.zeros(4, np.int64)),
        ("codebooks", np.full((1, 16), 16, np.int8)),
        ("wide_exponent", 99),
        ("permutation", np.zeros(64, np.uint16)),
        ("activation_scale", np.array([np.nan], np.float32)),
        ("activation_scale", np.array([0], np.float32)),
        ("activation_offset", np.full(64, np.inf, np.float32)),
    ],
)
def test_a_layer_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="layer"):
        replace(random_layer(64, 4), **{field: value})  # type: ignore[arg-type]


def test_a_layer_that_could_overflow_its_accumulator_is_refused() -> None:
    layer = random_layer(80 * 64, 2)
    scale, codebooks = np.full((80, 2), 65535, np.uint16), np.full((80, 16), 15, np.int8)
    with pytest.raises(UserError, match="36-bit limit"):
        replace(layer, weight=np.full((2, 80 * 64), -8, np.int8), scale=scale, codebooks=codebooks)


@pytest.mark.parametrize("codes", [np.full((1, 64), 16, np.uint8), np.zeros((1, 63), np.uint8), np.zeros((1, 64))])
def test_what_is_no_code_is_refused(codes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="code"):
        linear(codes, random_layer(64, 4))


def two_plane_layer(channels: int = 130) -> QuantizedLinear:
    rng = np.random.default_rng(7)
    tiles = -(-channels // 64)
    return expand_planes(
        "byte layer",
        weight=rng.integers(-8, 8, (5, channels)).astype(np.int8),
        scale=rng.integers(1, 1 << 12, (tiles, 5)).astype(np.uint16),
        bias=rng.integers(-1000, 1000, 5).astype(np.int32),
        wide_exponent=-9,
        permutation=rng.permutation(channels).astype(np.uint16),
        activation_scale=rng.uniform(0.005, 0.02, tiles).astype(np.float32),
        activation_offset=rng.normal(size=channels).astype(np.float32),
    )


def test_two_planes_are_an_8_bit_layer() -> None:
    layer, channels = two_plane_layer(), 130
    x = np.random.default_rng(8).normal(size=(50, channels)).astype(np.float32)
    low = [positions for _, positions in layer.tile_slices()][1::2]
    total = np.tile(layer.aligned_bias(), (50, 1))
    for tile, at in enumerate(low):
        value = x[:, layer.permutation[at]] / layer.activation_scale[2 * tile + 1] - layer.activation_offset[at]
        level = np.clip(np.ceil(value - 0.5), -128, 127).astype(np.int64)
        total += (level @ layer.weight[:, at].T.astype(np.int64)) * layer.scale[2 * tile + 1]
    codes = layer.encode(x)
    assert codes.shape == (50, 2 * channels) and codes.max() == 15
    np.testing.assert_array_equal(accumulate(codes, layer), total)
    np.testing.assert_array_equal(linear(codes, layer), finish(total))


def test_planes_that_do_not_belong_together_are_refused() -> None:
    layer = two_plane_layer()
    weight = layer.weight.copy()
    weight[0, 0] ^= 1
    scale = layer.scale.copy()
    scale[0, 0] += 1
    for change in ({"weight": weight}, {"scale": scale}, {"planes": 3}):
        with pytest.raises(UserError, match="planes"):
            replace(layer, **change)


def test_a_scale_without_room_for_the_second_plane_is_refused() -> None:
    layer = random_layer(64, 4)
    with pytest.raises(UserError, match="second plane"):
        expand_planes(
            "byte layer",
            weight=layer.weight,
            scale=np.full((1, 4), 1 << 12, np.uint16),
            bias=layer.bias,
            wide_exponent=0,
            permutation=layer.permutation,
            activation_scale=layer.activation_scale,
            activation_offset=layer.activation_offset,
        )
