import itertools
from fractions import Fraction

import numpy as np
import pytest

from sim.contract.errors import UserError
from sim.contract.positions import Positions
from sim.contract.residual import Residual
from sim.contract.wide import Wide

SMALL = np.arange(-5, 6).astype(np.int16)
EXTREMES = np.array([-32768, -32767, -3, -1, 0, 1, 3, 32766, 32767], np.int16)


def exact(a: int, b: int, operation: Residual) -> int:
    total = a * Fraction(2) ** operation.first_exponent + b * Fraction(2) ** operation.second_exponent
    return max(-32768, min(32767, round(total / Fraction(2) ** operation.wide_exponent)))


@pytest.mark.parametrize("values", [SMALL, EXTREMES], ids=["small", "extreme"])
def test_every_alignment_equals_the_exact_sum(values: np.ndarray) -> None:
    for first, second, wide in itertools.product((-3, -2, 0, 1, 4), repeat=3):
        operation = Residual("add", first, second, wide)
        found = operation.run(Wide(values[:, None], first), Wide(values[None, :], second))
        assert found.exponent == wide
        expected = [[exact(a, b, operation) for b in values.tolist()] for a in values.tolist()]
        assert found.values.tolist() == expected, (first, second, wide)


@pytest.mark.parametrize("exponents", [(-16, 0, 0), (0, -16, -16), (0, 0, -16), (-16, -16, 0), (-16, 0, -8)])
def test_the_largest_distances_are_exact(exponents: tuple[int, int, int]) -> None:
    operation = Residual("add", *exponents)
    found = operation.run(Wide(EXTREMES[:, None], exponents[0]), Wide(EXTREMES[None, :], exponents[1]))
    assert found.values.tolist() == [[exact(a, b, operation) for b in EXTREMES.tolist()] for a in EXTREMES.tolist()]


@pytest.mark.parametrize("exponents", [(-17, 0, 0), (0, 17, 1), (0, 0, -17), (65, 65, 65), (True, 1, 1)])
def test_distant_or_wrong_exponents_are_refused(exponents: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match="add"):
        Residual("add", *exponents)


def test_inputs_at_other_exponents_are_refused() -> None:
    x = Wide(SMALL, -1)
    with pytest.raises(ValueError, match="do not fit"):
        Residual("add", -1, 0, 0).run(x, x)


def test_stored_positions_are_the_second_operand() -> None:
    positions = Positions("p", np.array([[[3, -128]]], np.int8), np.array([2, 8], np.uint8))
    operation = Residual("add", -4, -5, -4, positions)
    found = operation.run(Wide(np.array([[[10, 20]]], np.int16), -4), positions.at(-5))
    assert found.values.tolist() == [[[16, 20 - 16384]]]
