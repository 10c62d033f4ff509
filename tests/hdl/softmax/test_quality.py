"""How good the codes are: against the float64 softmax, on rows whose sharpness varies as attention's does."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.softmax.softmax import Softmax
from sim.contract.softmax import LOG_FRACTION_BITS, log_thresholds

STEPS = 1 << LOG_FRACTION_BITS
LAST_SCORE = 30 * STEPS
"""Scores are told apart down to a probability of 2**-30."""

SHAPES = {"window": (196, 48), "global": (4096, 12)}
"""Keys and rows."""


@cache
def realistic(shape: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(logits, float64 probabilities of these integer logits), both (rows, keys).

    A head's q.k is a smooth function of the place plus noise: some rows are flat, some have a few keys that stand out.
    """
    keys, rows = SHAPES[shape]
    rng = np.random.default_rng(keys)
    side = int(np.sqrt(keys))
    place = np.stack(np.divmod(np.arange(keys), side), 1) / side
    centre, width = place[rng.integers(0, keys, (rows, 1))], np.geomspace(0.02, 1.0, rows)[:, None]
    bump = np.exp(-(((place - centre) / width[..., None]) ** 2).sum(-1))
    real = rng.uniform(2.0, 12.0, (rows, 1)) * bump + rng.uniform(0.1, 2.0, (rows, 1)) * rng.normal(size=(rows, keys))
    logits = np.rint(real * np.log2(np.e) * STEPS).clip(-(1 << 15), (1 << 15) - 1).astype(np.int32)
    power = np.exp2((logits - logits.max(axis=-1, keepdims=True)) / STEPS)
    return logits, power / power.sum(axis=-1, keepdims=True)


def lnq(alpha: float, clip: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(thresholds (15,), levels (16,)) of a 4-bit mu-law grid: LNQ of AHCQ-SAM (arXiv 2503.03088)."""
    code, density = np.arange(16), np.log1p(alpha * clip)
    return np.expm1(density * (code[1:] - 0.5) / 15) / alpha, np.expm1(density * code / 15) / alpha


def scores(logits: NDArray[np.int32]) -> NDArray[np.int64]:
    """-log2 of every probability in steps of 2**-9, as codes alone reveal it: 255 consecutive thresholds at a time."""
    found = np.zeros(logits.shape, np.int64)
    for top in range(LAST_SCORE, 0, -255):
        found += Softmax.model(logits, np.arange(top, top - 255, -1, dtype=np.int32))
    return LAST_SCORE + 1 - found


@pytest.mark.parametrize("shape", SHAPES)
def test_probabilities(shape: str) -> None:
    logits, exact = realistic(shape)
    found = np.exp2(-scores(logits) / STEPS)
    visible = exact > 2.0**-29
    relative = np.abs(found / exact - 1)[visible]
    absolute = np.abs(found - exact)
    print(f"\n{shape}: |p - p64| mean {absolute.mean():.2e}, worst {absolute.max():.2e};")
    print(f"relative, above 2^-29: mean {relative.mean():.2e}, worst {relative.max():.2e}")
    # Half a step of the table, half a place of its argument, and terms that are cut off: under three steps of 2**-9.
    assert relative.max() < 2 ** (3 / STEPS) - 1
    assert relative.mean() < 2 ** (1 / STEPS) - 1
    assert exact.max() > 0.3
    assert absolute.max() < 0.003


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [10.0, 200.0, 10000.0])
def test_lnq_codes(shape: str, alpha: float) -> None:
    logits, exact = realistic(shape)
    thresholds, levels = lnq(alpha, float(exact.max()))
    codes = Softmax.model(logits, log_thresholds(thresholds))
    wanted = np.searchsorted(thresholds, exact)
    differ = codes != wanted
    error, best = np.abs(levels[codes] - exact), np.abs(levels[wanted] - exact)
    print(f"\n{shape}, alpha {alpha:g}: {100 * differ.mean():.3f} % of codes differ from the float softmax's;")
    print(
        f"|level - p64| mean {error.mean():.3e} (float {best.mean():.3e}), worst {error.max():.3e} ({best.max():.3e})"
    )
    assert len(np.unique(codes)) >= 8
    assert differ.mean() < 0.005
    assert (np.abs(codes.astype(int) - wanted) <= 1).all()
    assert error.mean() < 1.01 * best.mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_no_argmax_flips(shape: str) -> None:
    """A code never falls as its logit grows, so the most probable key always has the highest code of its row."""
    logits, exact = realistic(shape)
    for thresholds in (lnq(50.0, 0.5)[0], lnq(2000.0, 0.1)[0]):
        codes = Softmax.model(logits, log_thresholds(thresholds))
        best = np.take_along_axis(codes, exact.argmax(axis=-1)[:, None], axis=-1)
        assert (best[:, 0] == codes.max(axis=-1)).all()
        order = np.argsort(logits, axis=-1)
        assert (np.diff(np.take_along_axis(codes, order, axis=-1).astype(int), axis=-1) >= 0).all()
