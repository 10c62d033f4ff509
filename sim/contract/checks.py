"""Checks that every operation of the contract makes on its integers before it is believed."""

import numpy as np

from sim.contract.errors import UserError


def expect_array(
    name: str, field: str, array: np.ndarray, shape: tuple[int, ...], dtype: type, *, limit: int | None = None
) -> None:
    """Raise UserError unless `array` has this shape and dtype, and (with a `limit`) no magnitude over it."""
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.dtype(dtype):
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else repr(array)
        raise UserError(
            f"{name}: {field} must be {np.dtype(dtype)} of shape {shape}, found {found}; export the model again"
        )
    if limit is not None and array.size and max(int(array.max()), -int(array.min())) > limit:
        raise UserError(f"{name}: {field} exceeds {limit}; export the model again")


def expect_integer(name: str, field: str, value: object, low: int, high: int) -> None:
    """Raise UserError unless `value` is an integer within [low, high]."""
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{name}: {field} must be an integer from {low} to {high}, found {value!r}; export again")


def expect_exponents(name: str, **exponents: int) -> None:
    """Raise UserError unless every exponent lies within [-64, 64]."""
    for field, value in exponents.items():
        expect_integer(name, field, value, -64, 64)
