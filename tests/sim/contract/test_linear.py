from dataclasses import replace

import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, accumulate, linear


def random_layer(channels: int, outputs: int, seed: int = 0, passes: int = 1) -> QuantizedLinear:
    rng = np.random.default_rng(seed)
    tiles = -(-channels // 64) * passes
    return QuantizedLinear(
        name="fc",
        weight=rng.integers(-8, 8, (outputs, channels * passes)).astype(np.int8),
        scale=rng.integers(0, 1 << 16, (tiles, outputs)).astype(np.uint16),
        bias=rng.integers(-(1 << 20), 1 << 20, outputs).astype(np.int32),
        codebooks=rng.integers(-15, 16, (tiles, 16)).astype(np.int8),
        wide_exponent=-9,
        passes=passes,
    )


@pytest.mark.parametrize("passes", [1, 2, 4])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (64, 3), (65, 2), (160, 5)])
def test_linear_equals_a_plain_integer_loop(channels: int, outputs: int, passes: int) -> None:
    layer = random_layer(channels, outputs, seed=channels, passes=passes)
    # Position p of tile t, pass by pass: all of a tile's passes come before the next tile.
    tile_of = [
        tile * passes + again
        for tile in range(-(-channels // 64))
        for again in range(passes)
        for _ in range(min(64, channels - 64 * tile))
    ]
    assert len(tile_of) == layer.in_features == channels * passes
    codes = np.random.default_rng(1).integers(0, 16, (4, layer.in_features)).astype(np.uint8)
    wide, sums = linear(codes, layer), accumulate(codes, layer)
    for token in range(4):
        for n in range(outputs):
            total = int(layer.bias[n]) << 2
            for k, tile in enumerate(tile_of):
                level = int(layer.codebooks[tile, codes[token, k]])
                total += int(layer.scale[tile, n]) * int(layer.weight[n, k]) * level
            assert sums[token, n] == total
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", np.full((4, 64), 8, np.int8)),
        ("weight", np.zeros((4, 0), np.int8)),
        ("scale", np.zeros((1, 3), np.uint16)),
        ("bias", np.zeros(4, np.int64)),
        ("codebooks", np.full((1, 16), 16, np.int8)),
        ("wide_exponent", 99),
        ("passes", 3),
    ],
)
def test_a_layer_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="layer fc"):
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
