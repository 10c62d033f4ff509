"""What moves values between operations, and the float parts of the mask decoder, against plain definitions."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.golden.convolution import im2col_3x3, patches, transposed_2x2
from sim.golden.normalization import layer_norm
from sim.golden.sam_vit import split_qkv
from sim.golden.tinyvit import split_interleaved
from sim.golden.windows import join_windows, partition_windows


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


def test_patches_are_squares_in_row_column_channel_order() -> None:
    x = np.arange(6 * 8 * 3, dtype=np.int16).reshape(6, 8, 3)
    tokens = patches(x, 2)
    assert tokens.shape == (3, 4, 12) and tokens.dtype == np.int16
    np.testing.assert_array_equal(tokens[1, 3].reshape(2, 2, 3), x[2:4, 6:8])


def numbered(windows: int, tokens: int, channels: int) -> Wide:
    return Wide(np.arange(windows * tokens * channels, dtype=np.int16).reshape(windows, tokens, channels), -3)


def test_tiny_vit_interleaves_q_k_and_v_by_head() -> None:
    qkv = numbered(2, 5, 24)
    parts = split_interleaved("attn.qkv", qkv, 2)
    for part, x in enumerate(parts):
        assert x.exponent == -3 and x.values.shape == (2, 5, 8)
        for head in range(2):
            first = head * 12 + part * 4
            np.testing.assert_array_equal(x.values[..., head * 4 : head * 4 + 4], qkv.values[..., first : first + 4])


def test_segment_anything_has_all_of_q_then_k_then_v() -> None:
    qkv = numbered(2, 5, 24)
    for part, x in enumerate(split_qkv("attn.qkv", qkv)):
        np.testing.assert_array_equal(x.values, qkv.values[..., part * 8 : part * 8 + 8])


def test_outputs_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(UserError, match=r"attn\.qkv has 24 outputs, no multiple of 3 x 5 heads"):
        split_interleaved("attn.qkv", numbered(1, 1, 24), 5)
    with pytest.raises(UserError, match=r"attn\.qkv has 25 outputs, no multiple of 3"):
        split_qkv("attn.qkv", numbered(1, 1, 25))


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
