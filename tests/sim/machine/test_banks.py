"""Banks: every beat that comes or leaves has a value in each, whatever the order."""

import numpy as np
import pytest

from sim.machine.banks import banks_of


def orders(lanes: int, beats: int) -> list[np.ndarray]:
    rng = np.random.default_rng(beats)
    positions = lanes * beats
    turned = np.arange(positions).reshape(lanes, beats).T.reshape(-1)
    return [np.arange(positions), turned, *(rng.permutation(positions) for _ in range(3))]


@pytest.mark.parametrize(("lanes", "beats"), [(1, 5), (2, 3), (4, 6), (8, 1), (8, 40), (16, 9)])
def test_every_beat_has_all_banks(lanes: int, beats: int) -> None:
    for order in orders(lanes, beats):
        banks = banks_of(order, lanes)
        by_channel = np.empty_like(banks)
        by_channel[order] = banks
        for found in (banks, by_channel):
            assert (np.sort(found.reshape(beats, lanes)) == np.arange(lanes)).all()


@pytest.mark.parametrize(
    ("order", "lanes", "message"),
    [([0, 1, 1, 2], 2, "permutation"), ([0, 2, 1], 2, "whole beats"), ([0, 1, 2], 3, "power of two")],
)
def test_refuses(order: list[int], lanes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        banks_of(np.array(order), lanes)
