from dataclasses import replace

import numpy as np
import pytest

from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.wide import Wide


def random_layer(channels: int = 3, *, stride: int = 1, shift: int = 14, extreme: bool = False) -> Depthwise:
    rng = np.random.default_rng(channels + stride)
    return Depthwise(
        name="conv2.c",
        input_exponent=-5,
        wide_exponent=-6,
        stride=stride,
        weight=np.full((channels, 3, 3), -128, np.int8)
        if extreme
        else rng.integers(-128, 128, (channels, 3, 3)).astype(np.int8),
        multiplier=np.full(channels, 65535, np.uint16) if extreme else rng.integers(0, 256, channels).astype(np.uint16),
        bias=np.full(channels, (1 << 44) - 1, np.int64)
        if extreme
        else rng.integers(-(1 << 24), 1 << 24, channels).astype(np.int64),
        shift=shift,
    )


def naive(x: np.ndarray, layer: Depthwise) -> list[list[list[int]]]:
    rows, columns, channels = x.shape
    result = []
    for y in range(0, rows, layer.stride):
        line = []
        for column in range(0, columns, layer.stride):
            pixel = []
            for c in range(channels):
                total = 0
                for ky in range(3):
                    for kx in range(3):
                        i, j = y + ky - 1, column + kx - 1
                        if 0 <= i < rows and 0 <= j < columns:
                            total += int(layer.weight[c, ky, kx]) * int(x[i, j, c])
                numerator = total * int(layer.multiplier[c]) + int(layer.bias[c])
                floor, rest = divmod(numerator, 1 << layer.shift)
                half = (1 << layer.shift) / 2
                floor += rest > half or (rest == half and floor % 2 == 1)
                pixel.append(max(-32768, min(32767, floor)))
            line.append(pixel)
        result.append(line)
    return result


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 6), (8, 5)])
def test_depthwise_equals_a_plain_loop(stride: int, shape: tuple[int, int]) -> None:
    layer = random_layer(stride=stride)
    x = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (*shape, 3)).astype(np.int16)
    found = layer.run(Wide(x, -5))
    assert found.values.tolist() == naive(x, layer)
    assert found.exponent == -6


def test_the_largest_numbers_are_exact() -> None:
    for value in (-32768, 32767):
        for shift in (29, 44):
            layer = random_layer(1, shift=shift, extreme=True)
            x = np.full((3, 3, 1), value, np.int16)
            assert layer.run(Wide(x, -5)).values.tolist() == naive(x, layer)


def test_bands_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = Wide(np.random.default_rng(1).integers(-3000, 3000, (11, 9, 3)).astype(np.int16), -5)
    for stride in (1, 2):
        layer = random_layer(stride=stride)
        whole = layer.run(x).values
        for size in (1, 70):
            with monkeypatch.context() as patch:
                patch.setattr("sim.contract.depthwise.VALUES_PER_BAND", size)
                np.testing.assert_array_equal(layer.run(x).values, whole)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stride", 3),
        ("stride", True),
        ("shift", 45),
        ("weight", np.zeros((3, 9), np.int8)),
        ("multiplier", np.zeros(3, np.int16)),
        ("bias", np.full(3, 1 << 44)),
        ("bias", np.full(3, -(1 << 63))),
        ("input_exponent", -65),
    ],
)
def test_a_layer_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=r"conv2\.c"):
        replace(random_layer(), **{field: value})  # type: ignore[arg-type]


def test_another_input_is_refused() -> None:
    for wrong in (Wide(np.zeros((2, 2, 3), np.int16), -4), Wide(np.zeros((2, 2, 4), np.int16), -5)):
        with pytest.raises(ValueError, match="does not fit"):
            random_layer().run(wrong)
