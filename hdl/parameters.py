"""Refuses parameters out of range, and names the nearest that is not."""

from collections.abc import Sequence


def require(name: str, value: int, valid: Sequence[int], limit: str) -> int:
    """`value` if it is one of `valid`; else ValueError: the parameter, its limit, the nearest valid value."""
    if value in valid:
        return value
    nearest = min(valid, key=lambda candidate: (abs(candidate - value), candidate))
    raise ValueError(f"{name}={value} must be {limit}; nearest valid value: {nearest}")
