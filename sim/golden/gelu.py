"""Exact (erf) GELU in numpy, which has no error function of its own."""

import math
from typing import Final

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

SATURATION: Final = 5.0
"""From here on erf is taken to be +-1; 1 - erf(5) is 1.5e-12."""

DEGREE: Final = 22
"""Degree of the Chebyshev series in x**2; its truncation error is 3.5e-10 (float32 resolves 6e-8 near 1)."""

VALUES_PER_CHUNK: Final = 1 << 14
"""Values handled at once, so that the float64 temporaries stay in a core's cache."""


def _erf_over_x(square: float) -> float:
    """erf(x) / x as a function of x**2 > 0."""
    x = math.sqrt(square)
    return math.erf(x) / x


def _series() -> list[float]:
    """Coefficients, lowest first, of a polynomial in s = x**2 * 2 / SATURATION**2 - 1 for erf(x) / x.

    erf is odd and entire, so erf(x) / x is a smooth function of x**2; it is interpolated at the Chebyshev
    nodes of [0, SATURATION**2] (Trefethen, Approximation Theory and Approximation Practice, chapter 2) from
    the C library's erf, and turned into powers of s in [-1, 1], where float64 Horner steps are stable. A last
    factor, within 4e-10 of one, makes the result exactly +-1 at saturation, so that GELU vanishes far left.
    """
    series = chebyshev.Chebyshev.interpolate(np.vectorize(_erf_over_x), DEGREE, domain=[0.0, SATURATION**2])
    powers = chebyshev.cheb2poly(series.coef)
    return [float(value) for value in powers / (powers.sum() * SATURATION)]


_COEFFICIENTS: Final = _series()


def _erf_chunk(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """erf of float64 values, |error| < 1e-9."""
    x = np.clip(x, -SATURATION, SATURATION)
    s = x * x
    s *= 2 / SATURATION**2
    s -= 1
    total = np.full_like(s, _COEFFICIENTS[-1])
    for coefficient in _COEFFICIENTS[-2::-1]:
        total *= s
        total += coefficient
    total *= x
    return total


def erf(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The error function, float32 of any shape in and out, correct to one unit in the last place."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, VALUES_PER_CHUNK):
        chunk = slice(start, start + VALUES_PER_CHUNK)
        result[chunk] = _erf_chunk(flat[chunk].astype(np.float64))
    return result.reshape(x.shape)


def gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x * Phi(x) = x / 2 * (1 + erf(x / sqrt(2))), float32 of any shape in and out.

    Hendrycks and Gimpel, Gaussian Error Linear Units, equation 1 (no tanh approximation). Evaluated in
    float64 and rounded once.
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, VALUES_PER_CHUNK):
        chunk = slice(start, start + VALUES_PER_CHUNK)
        value = flat[chunk].astype(np.float64)
        phi = _erf_chunk(value * math.sqrt(0.5))
        phi += 1
        phi *= value
        phi *= 0.5
        result[chunk] = phi
    return result.reshape(x.shape)
