import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.activation_table import TABLE_ENTRIES, ActivationTable, sample_function
from sim.contract.errors import UserError
from sim.contract.wide import Wide

EVERY = np.arange(-(1 << 15), 1 << 15).astype(np.int16)


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


@pytest.mark.parametrize("finer", [0, 2])
@pytest.mark.parametrize("input_exponent", [-14, -13, -12, -11, -9, -6, -3])
def test_gelu_error_over_every_input(input_exponent: int, finer: int) -> None:
    """Half a step each for the samples and the last rounding, and the chord: h**2 / 8 of |gelu''| <= 0.8."""
    wide_exponent = input_exponent - finer
    table = sample_function("act", gelu, input_exponent, wide_exponent)
    found = table.run(Wide(EVERY, input_exponent)).values
    exact = gelu(np.ldexp(EVERY.astype(np.float64), input_exponent)) * 2.0**-wide_exponent
    chord = 0.1 * 4.0 ** (table.segment_bits + input_exponent) * 2.0**-wide_exponent
    assert chord < 0.5
    # In the segment where a finer result leaves 16 bits the chord ends at the saturated sample.
    error = np.abs(found - np.clip(exact, -32768, 32767))
    assert error[exact < 32767 - 2.0 ** (table.segment_bits + finer + 1)].max() <= 1.001 + chord
    assert error.max() <= 2.0 ** (table.segment_bits + finer)


def test_segments_are_as_fine_as_the_reach_allows() -> None:
    bits = [sample_function("act", gelu, exponent, exponent).segment_bits for exponent in (-14, -12, -9, -6, 0)]
    assert bits == [6, 6, 3, 0, 0]


@pytest.mark.parametrize("bits", [0, 1, 4, 6])
def test_interpolation_equals_the_formula_of_every_input(bits: int) -> None:
    rng = np.random.default_rng(bits)
    samples = rng.integers(-(1 << 15), 1 << 15, TABLE_ENTRIES).astype(np.int16)
    samples[510:514] = [32767, -32768, 32767, 32767]
    found = ActivationTable("act", -3, -4, samples, bits).run(Wide(EVERY.reshape(256, 256), -3))
    assert found.exponent == -4
    table = samples.tolist()
    expected = []
    for x in EVERY.tolist():
        i = max(0, min(1023, (x >> bits) + 512))
        f = x - ((i - 512) << bits)
        y = table[i] + round(Fraction((table[i + 1] - table[i]) * f, 1 << bits))
        expected.append(max(-32768, min(32767, y)))
    assert found.values.ravel().tolist() == expected


def test_samples_are_rounded_and_saturated() -> None:
    table = sample_function("act", lambda x: x + 2.0**-14, -8, -12)
    assert table.segment_bits == 2
    assert table.table[[0, 1, 511, 512, 513, 1024]].tolist() == [-32768, -32704, -64, 0, 64, 32767]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table", np.zeros(1024, np.int16)),
        ("table", np.zeros(1025, np.int32)),
        ("table", [0] * 1025),
        ("input_exponent", 65),
        ("wide_exponent", None),
        ("segment_bits", 7),
        ("segment_bits", -1),
        ("segment_bits", True),
    ],
)
def test_a_table_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="act"):
        replace(ActivationTable("act", -8, -8, np.zeros(1025, np.int16)), **{field: value})  # type: ignore[arg-type]


def test_another_exponent_is_refused() -> None:
    with pytest.raises(ValueError, match="expected -8"):
        ActivationTable("act", -8, -8, np.zeros(1025, np.int16)).run(Wide(EVERY, -7))
