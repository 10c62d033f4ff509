import math

import numpy as np
import torch

from sim.golden.gelu import erf, gelu

GRID = np.concatenate(
    [np.linspace(-8, 8, 200_001), np.geomspace(1e-20, 1e3, 2001), -np.geomspace(1e-20, 1e3, 2001), [0.0]]
).astype(np.float32)


def test_erf_is_correct_to_one_unit_in_the_last_place() -> None:
    exact = np.array([math.erf(x) for x in GRID.astype(float)])
    assert (np.abs(erf(GRID) - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()


def test_gelu_matches_the_erf_form_in_float64() -> None:
    exact = np.array([0.5 * x * math.erfc(-x / math.sqrt(2)) for x in GRID.astype(float)])
    half_unit = 0.5 * np.spacing(np.abs(exact).astype(np.float32))
    assert (np.abs(gelu(GRID) - exact) <= half_unit + 4e-10 * np.abs(np.minimum(GRID, 6))).all()


def test_gelu_matches_torch_and_not_its_tanh_form() -> None:
    x = torch.from_numpy(GRID).double()
    np.testing.assert_allclose(gelu(GRID), torch.nn.functional.gelu(x).numpy(), rtol=1e-7, atol=3e-9)
    assert np.abs(gelu(GRID) - torch.nn.functional.gelu(x, approximate="tanh").numpy()).max() > 1e-4


def test_gelu_vanishes_far_left_and_is_the_identity_far_right() -> None:
    x = np.array([-np.finfo(np.float32).max / 4, -1e6, 1e6], np.float32)
    assert gelu(x).tolist() == [0.0, 0.0, 1e6]


def test_shape_is_kept_and_chunks_join() -> None:
    x = np.random.default_rng(0).normal(0, 2, (3, 7, 4001)).astype(np.float32)
    y = gelu(x)
    assert y.shape == x.shape and y.dtype == np.float32
    np.testing.assert_array_equal(y[2, 3], gelu(x[2, 3]))
