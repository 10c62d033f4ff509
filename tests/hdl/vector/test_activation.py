# amaranth: UnusedElaboratable=no

"""Activation unit against sim.contract.activation_table: all inputs, lines beyond the samples, saturation, cycles."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.harness import Harness
from hdl.units import build_unit
from hdl.vector.activation import Activation
from sim.contract.activation_table import ActivationTable, sample_function
from tests.hdl.vector.bench import play


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def run(
    activation: ActivationTable, values: NDArray[np.int16], lanes: int, seed: int | None = None
) -> NDArray[np.int16]:
    """Results (n,) of values (n,), n a multiple of lanes."""
    transfers = values.reshape(-1, lanes).tolist()
    before = list(Activation.parameters(activation).items())
    played = play(Activation(lanes=lanes), {"i": transfers}, len(transfers), before=before, seed=seed)
    return np.array([list(output) for output in played.outputs]).ravel()


def test_gelu_of_every_input() -> None:
    activation = sample_function("gelu", gelu, -11, -11)
    assert activation.segment_bits == 5
    values = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    assert np.array_equal(run(activation, values, 16), Activation.model(activation, values))


@pytest.mark.parametrize("segment_bits", range(7))
def test_any_table_with_every_segment_size(segment_bits: int) -> None:
    """Wild samples: rises over the full range, whose lines leave the 16 bits far beyond the last sample."""
    rng = np.random.default_rng(segment_bits)
    table = rng.integers(-(1 << 15), 1 << 15, 1025).astype(np.int16)
    table[:6] = [-32768, 32767, -32768, 0, 1, 3]
    table[-3:] = [[32767, -32768, 32767], [5, 7, 6], [0, -1, 1], [-9, -32768, 32767]][segment_bits % 4]
    if segment_bits % 2:
        table[:2] = [1000, 1003]
    activation = ActivationTable("test", 0, 0, table, segment_bits)
    half = 512 << segment_bits
    edges = [
        edge + near
        for edge in (-32768, 32767, -half, half, 0, half - (1 << segment_bits), 1 << segment_bits >> 1)
        for near in range(-4, 5)
    ]
    values = np.clip([*edges, *rng.integers(-half, half, 300), *rng.integers(-32768, 32768, 397)], -32768, 32767)
    values = values[: len(values) // 4 * 4].astype(np.int16)
    results = run(activation, values, 4, seed=None if segment_bits % 2 else 6)
    assert np.array_equal(results, Activation.model(activation, values))


def test_cycles_and_a_receiver_that_waits() -> None:
    activation = sample_function("line", lambda x: x, 0, 0)
    before = list(Activation.parameters(activation).items())
    transfers = [[7 * index] for index in range(60)]
    played = play(Activation(lanes=1), {"i": transfers}, 60, before=before)
    assert [list(output) for output in played.outputs] == transfers
    assert played.entered == list(range(played.entered[0], played.entered[0] + 60))
    assert played.left == [cycle + Activation.LATENCY for cycle in played.entered]
    held = play(Activation(lanes=1), {"i": transfers}, 60, before=before, hold=50)
    assert held.outputs == played.outputs


def test_a_setting_waits_for_the_values_before_it_and_goes_first() -> None:
    """The same table with other segment bits, offered together with the first value that is to use them."""
    rng = np.random.default_rng(11)
    tables = [ActivationTable("test", 0, 0, np.arange(1025).astype(np.int16) * 25, bits) for bits in (2, 6)]
    values = rng.integers(-(1 << 15), 1 << 15, (2, 30)).astype(np.int16)
    samples = Activation.parameters(tables[0])["i_table"]
    before = [("i_table", samples), ("i_setting", [2]), ("i", values[0, :10, None].tolist())]
    dut = Activation(lanes=1)
    # The receiver is ready from the start, so that the first ten results can leave while the setting waits.
    feeds = {"i": values[1, :, None].tolist(), "i_setting": [6]}
    played = play(dut, feeds, 40, before=before, eager=True)
    results = np.array([int(output[0]) for output in played.outputs])
    assert np.array_equal(results[:10], Activation.model(tables[0], values[0, :10]))
    assert np.array_equal(results[10:], Activation.model(tables[1], values[1]))


def test_a_table_waits_for_the_values_before_it() -> None:
    """Zeros in the place of the samples in use, offered while values pass, change no result of theirs."""
    rng = np.random.default_rng(12)
    activation = ActivationTable("test", 0, 0, np.arange(1025).astype(np.int16) * 25, 4)
    values = rng.integers(-(1 << 15), 1 << 15, (100, 3)).astype(np.int16)
    # The first entry comes with the first values, before any are inside, and is what it was.
    zeros = [{"address": address, "sample": 0} for address in range(1025)]
    before = list(Activation.parameters(activation).items())
    played = play(Activation(lanes=3), {"i": values.tolist(), "i_table": zeros}, 100, before=before)
    assert np.array_equal([list(output) for output in played.outputs], Activation.model(activation, values))


@pytest.mark.parametrize(("lanes", "nearest"), [("0", 1), ("17", 16)])
def test_lanes_out_of_range_are_refused(lanes: str, nearest: int) -> None:
    with pytest.raises(Exception, match=f"activation: lanes={lanes} must be in 1..16; nearest valid value: {nearest}"):
        build_unit("activation", {"lanes": lanes})


def test_elaborates_for_ecp5() -> None:
    text = Harness(build_unit("activation", {"lanes": "2"})[0]).rtlil()
    assert text.count("cell \\MULT18X18D") == 2
    assert text.count("cell \\DP16KD") == 2
