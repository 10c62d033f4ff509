"""The option of a second port with the image."""

import argparse

import pytest

from sim.contract.errors import UserError
from sim.weight_source import add_weight_source, weight_source_of


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_weight_source(parser)
    return parser.parse_args(options)


def test_a_bandwidth_or_none() -> None:
    assert weight_source_of(parsed()) is None
    assert weight_source_of(parsed("--weight-source-mb-s", "12.5")) == 12.5


@pytest.mark.parametrize("text", ["0", "-1", "nan"])
def test_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--weight-source-mb-s .* is no bandwidth; give MB a second above 0"):
        weight_source_of(parsed(f"--weight-source-mb-s={text}"))
