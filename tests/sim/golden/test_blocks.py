"""Operations between quantized layers against torch."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sim.golden.attention import (
    join_windows,
    merge_heads,
    partition_windows,
    relative_position_bias,
    scaled_attention,
    softmax,
    split_heads,
)
from sim.golden.convolution import VALUES_PER_BAND, depthwise_3x3, im2col_3x3, transposed_2x2
from sim.golden.normalization import layer_norm


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def channel_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)[None]


def channel_last(x: torch.Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, 0.5])
def test_layer_norm(epsilon: float) -> None:
    x, weight, bias = 3 * random(0, 5, 9, 40) + 2, random(1, 40), random(2, 40)
    kept = x.copy()
    parameters = (torch.from_numpy(weight), torch.from_numpy(bias))
    expected = functional.layer_norm(torch.from_numpy(x), (40,), *parameters, epsilon).numpy()
    np.testing.assert_allclose(layer_norm(x, weight, bias, epsilon), expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize(
    ("rows", "columns", "stride"), [(11, 8, 1), (12, 8, 2), (11, 9, 2), (600, 30, 1), (601, 29, 2)]
)
def test_depthwise_convolution(rows: int, columns: int, stride: int) -> None:
    x, weight, bias = random(0, rows, columns, 6), random(1, 6, 1, 3, 3), random(2, 6)
    parameters = (torch.from_numpy(weight), torch.from_numpy(bias))
    expected = channel_last(functional.conv2d(channel_first(x), *parameters, stride=stride, padding=1, groups=6))
    np.testing.assert_allclose(depthwise_3x3(x, weight, bias, stride), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_in_several_bands(stride: int) -> None:
    x = random(0, 131, 130, 32)
    assert x.size > 2 * stride**2 * VALUES_PER_BAND
    weight, bias = random(1, 32, 1, 3, 3), random(2, 32)
    parameters = (torch.from_numpy(weight), torch.from_numpy(bias))
    expected = channel_last(functional.conv2d(channel_first(x), *parameters, stride=stride, padding=1, groups=32))
    np.testing.assert_allclose(depthwise_3x3(x, weight, bias, stride), expected, rtol=1e-5, atol=5e-6)


def test_im2col_times_a_kernel_is_the_convolution() -> None:
    x, weight = random(0, 7, 10, 5), random(1, 4, 5, 3, 3)
    expected = channel_last(functional.conv2d(channel_first(x), torch.from_numpy(weight), padding=1))
    result = im2col_3x3(x) @ weight.transpose(2, 3, 1, 0).reshape(45, 4)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_im2col_order_is_row_column_channel() -> None:
    x = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    patch = im2col_3x3(x)[2, 3].reshape(3, 3, 3)
    np.testing.assert_array_equal(patch, x[1:4, 2:5])
    corner = im2col_3x3(x)[0, 0].reshape(3, 3, 3)
    assert not corner[0].any() and not corner[:, 0].any()
    np.testing.assert_array_equal(corner[1:, 1:], x[:2, :2])


def test_transposed_convolution() -> None:
    x, weight, bias = random(0, 6, 5, 8), random(1, 8, 3, 2, 2), random(2, 3)
    parameters = (torch.from_numpy(weight), torch.from_numpy(bias))
    expected = channel_last(functional.conv_transpose2d(channel_first(x), *parameters, stride=2))
    np.testing.assert_allclose(transposed_2x2(x, weight, bias), expected, rtol=1e-5, atol=5e-6)


def test_softmax_survives_large_logits() -> None:
    x = np.array([[1e4, 1e4 - 1, -1e4], [-3e38, 0, 0]], np.float32)
    expected = functional.softmax(torch.from_numpy(x), dim=-1).numpy()
    np.testing.assert_allclose(softmax(x), expected, rtol=1e-6, atol=1e-12)


def test_scaled_attention() -> None:
    q, k, v, bias = random(0, 3, 2, 7, 8), random(1, 3, 2, 9, 8), random(2, 3, 2, 9, 4), random(3, 2, 7, 9)
    logits = torch.from_numpy(q) @ torch.from_numpy(k).mT / math.sqrt(8) + torch.from_numpy(bias)
    expected = (functional.softmax(logits, dim=-1) @ torch.from_numpy(v)).numpy()
    np.testing.assert_allclose(scaled_attention(q, k, v, bias), expected, rtol=1e-5, atol=2e-6)


def test_heads_split_and_merge() -> None:
    x = random(0, 2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(heads[1, 2, 4], x[1, 4, 8:12])
    np.testing.assert_array_equal(merge_heads(heads), x)


@pytest.mark.parametrize(("rows", "columns", "window"), [(14, 21, 7), (64, 64, 14), (5, 9, 7)])
def test_windows_cut_and_join(rows: int, columns: int, window: int) -> None:
    x = random(0, rows, columns, 3)
    windows = partition_windows(x, window)
    across = math.ceil(columns / window)
    assert windows.shape == (math.ceil(rows / window) * across, window * window, 3)
    y, x_ = rows - 1, columns - 1
    where = (y // window * across + x_ // window, y % window * window + x_ % window)
    np.testing.assert_array_equal(windows[where], x[y, x_])
    np.testing.assert_array_equal(join_windows(windows, rows, columns), x)


def test_window_padding_is_zero_at_bottom_and_right() -> None:
    windows = partition_windows(np.ones((5, 9, 1), np.float32), 7)
    second = windows[1].reshape(7, 7)
    assert second[:5, :2].all() and not second[5:].any() and not second[:, 2:].any()


def test_relative_position_bias_depends_on_distance_only() -> None:
    table = random(0, 2, 9)
    bias = relative_position_bias(table, 3)
    # pixel 0 is (0, 0), pixel 5 is (1, 2), pixel 7 is (2, 1)
    np.testing.assert_array_equal(bias[:, 0, 5], table[:, 1 * 3 + 2])
    np.testing.assert_array_equal(bias[:, 5, 7], table[:, 1 * 3 + 1])
    np.testing.assert_array_equal(bias, bias.transpose(0, 2, 1))
