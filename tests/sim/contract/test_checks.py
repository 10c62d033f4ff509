import numpy as np
import pytest

from sim.contract.checks import expect_array, expect_exponents, expect_integer
from sim.contract.errors import UserError


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 10, 1 << 100, float("nan"), np.int64(3)])
def test_what_is_no_integer_of_the_range_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="fc: shift must be an integer from 1 to 9"):
        expect_integer("fc", "shift", value, 1, 9)


def test_both_ends_of_a_range_belong_to_it() -> None:
    expect_integer("fc", "shift", 1, 1, 9)
    expect_integer("fc", "shift", 9, 1, 9)
    expect_exponents("fc", first=-64, second=64)
    for value in (-65, 65):
        with pytest.raises(UserError, match="second"):
            expect_exponents("fc", first=0, second=value)


@pytest.mark.parametrize("array", [np.zeros(3, np.int32), np.zeros((2, 1), np.int16), [0, 0], None])
def test_another_shape_or_type_is_refused(array: object) -> None:
    with pytest.raises(UserError, match="fc: gain must be int16 of shape"):
        expect_array("fc", "gain", array, (2,), np.int16)  # type: ignore[arg-type]


def test_a_limit_is_on_the_magnitude() -> None:
    for dtype in (np.int16, np.int64):
        expect_array("fc", "gain", np.array([-5, 5], dtype), (2,), dtype, limit=5)
        for extreme in (np.iinfo(dtype).min, -6, 6):
            with pytest.raises(UserError, match="gain exceeds 5"):
                expect_array("fc", "gain", np.array([extreme, 0], dtype), (2,), dtype, limit=5)
