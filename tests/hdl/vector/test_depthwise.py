# amaranth: UnusedElaboratable=no

"""Depthwise convolution against sim.contract.depthwise: borders, strides, passes in a row, stalls and cycles."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.harness import Harness
from hdl.units import build_unit
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.raster import Raster
from sim.contract.depthwise import BIAS_LIMIT, Depthwise
from tests.hdl.vector.bench import Played, play


def random_layer(rng: np.random.Generator, channels: int, stride: int, shift: int) -> Depthwise:
    """A layer whose results use and now and then leave the 16 bits; every field's extremes are among its channels."""
    weight = rng.integers(-128, 128, (channels, 3, 3))
    multiplier = rng.integers(0, 1 << min(max(shift - 6, 1), 16), channels)
    bias = np.ldexp(rng.uniform(-1, 1, channels), min(shift + 13, 44)).astype(np.int64)
    weight[0], multiplier[0], bias[0] = -128, 65535, 0
    if channels > 2:
        bias[1:3] = [BIAS_LIMIT, -BIAS_LIMIT]
    return Depthwise(
        name="test",
        input_exponent=0,
        wide_exponent=0,
        stride=stride,
        weight=weight.astype(np.int8),
        multiplier=multiplier.astype(np.uint16),
        bias=bias,
        shift=shift,
    )


def random_map(rng: np.random.Generator, rows: int, columns: int, channels: int) -> NDArray[np.int16]:
    values = rng.integers(-(1 << 15), 1 << 15, (rows, columns, channels)).astype(np.int16)
    values[0, 0], values[-1, -1] = -32768, 32767
    values[: rows // 2, :, 0] = -32768  # with weights of -128: the largest sum there is
    return values


def pixels(values: NDArray[np.int16], lanes: int) -> list[list[int]]:
    """Transfers of a map, pass by pass; spare lanes of the last one carry garbage."""
    rows, columns, channels = values.shape
    passes = -(-channels // lanes)
    padded = np.full((rows, columns, passes * lanes), 12345)
    padded[..., :channels] = values
    order = padded.reshape(rows * columns, passes, lanes).transpose(1, 0, 2)
    return order.reshape(-1, lanes).tolist()


def run(
    dut: DepthwiseConvolution, layer: Depthwise, values: NDArray[np.int16], seed: int | None = None, hold: int = 0
) -> tuple[NDArray[np.int64], Played]:
    """(results in the shape of the model's, transfers)."""
    rows, columns, channels = values.shape
    out_rows, out_columns, passes = -(-rows // layer.stride), -(-columns // layer.stride), -(-channels // dut.lanes)
    feeds: dict[str, Any] = {"i": pixels(values, dut.lanes), "i_channels": dut.channels(layer)}
    before = [("i_map", [dut.setting(layer, rows, columns)])]
    played = play(dut, feeds, passes * out_rows * out_columns, before=before, seed=seed, hold=hold)
    results = np.array([list(output) for output in played.outputs]).reshape(passes, out_rows, out_columns, dut.lanes)
    return results.transpose(1, 2, 0, 3).reshape(out_rows, out_columns, -1)[..., :channels], played


@pytest.mark.parametrize(
    ("size", "channels", "lanes", "stride_and_shift", "seed"),
    [
        ((6, 7), 5, 2, (1, 28), None),
        ((7, 6), 5, 2, (2, 24), 1),
        ((8, 8), 3, 3, (2, 0), None),
        ((1, 3), 7, 1, (1, 26), None),
        ((2, 3), 4, 1, (2, 17), 2),
        ((5, 16), 2, 1, (1, 31), 3),
        ((3, 3), 12, 4, (1, 25), None),
    ],
)
def test_results_are_the_contracts(
    size: tuple[int, int], channels: int, lanes: int, stride_and_shift: tuple[int, int], seed: int | None
) -> None:
    rng = np.random.default_rng(channels)
    layer = random_layer(rng, channels, *stride_and_shift)
    values = random_map(rng, *size, channels)
    results, _ = run(DepthwiseConvolution(lanes=lanes, columns=16), layer, values, seed)
    expected = DepthwiseConvolution.model(layer, values)
    assert np.array_equal(results, expected)


@pytest.mark.parametrize("taps", [3, 1])
@pytest.mark.parametrize(("stride", "seed"), [(1, None), (2, 1), (1, 2)])
def test_fewer_taps_per_cycle_give_the_same(taps: int, stride: int, seed: int | None) -> None:
    rng = np.random.default_rng(taps)
    layer, values = random_layer(rng, 5, stride, 26), random_map(rng, 4, 6, 5)
    dut = DepthwiseConvolution(lanes=2, columns=8, taps_per_cycle=taps)
    results, _ = run(dut, layer, values, seed)
    assert np.array_equal(results, DepthwiseConvolution.model(layer, values))


def run_maps(dut: DepthwiseConvolution, layers: list[Depthwise], maps: list[NDArray[np.int16]]) -> None:
    """Maps of a pass each, one after another: what comes next is offered while results are under way.

    The last map's setting, channels and pixels are offered all at once.
    """
    before: list[tuple[str, list[Any]]] = []
    for layer, values in zip(layers, maps, strict=True):
        before.append(("i_map", [dut.setting(layer, *values.shape[:2])]))
        before += [("i_channels", dut.channels(layer)), ("i", pixels(values, dut.lanes))]
    expected = [DepthwiseConvolution.model(layer, values) for layer, values in zip(layers, maps, strict=True)]
    wanted = np.concatenate([part.reshape(-1, dut.lanes) for part in expected])
    played = play(dut, dict(before[-3:]), len(wanted), before=before[:-3], eager=True)
    assert np.array_equal([list(output) for output in played.outputs], wanted)


def test_every_shift() -> None:
    """Ties, limits and signs at each shift, with sums that a single tap and the bias make."""
    rng = np.random.default_rng(6)
    lanes, layers, maps = 3, [], []
    for shift in range(45):
        layer = random_layer(rng, lanes, 1, shift)
        layer.weight[:] = 0
        layer.weight[:, 1, 1] = [1, -1, 127]
        layer.multiplier[:] = [1 << min(max(shift - 1, 0), 15), 3, 65535]
        layer.bias[:] = [0, 1 << shift >> 1, -(1 << min(shift, 43))]
        values = rng.integers(-(1 << 15), 1 << 15, (4, 3, lanes)).astype(np.int16)
        values.reshape(-1, lanes)[:8] = np.arange(-4, 4)[:, None]
        layers.append(layer)
        maps.append(values)
    run_maps(DepthwiseConvolution(lanes=lanes, columns=8), layers, maps)


@pytest.mark.parametrize("taps", [9, 1])
def test_maps_of_different_size_and_stride(taps: int) -> None:
    rng = np.random.default_rng(9)
    layers = [random_layer(rng, 1, 1, 20), random_layer(rng, 1, 2, 30), random_layer(rng, 1, 1, 25)]
    maps = [random_map(rng, 4, 5, 1), random_map(rng, 5, 9, 1), random_map(rng, 1, 3, 1)]
    run_maps(DepthwiseConvolution(lanes=1, columns=9, taps_per_cycle=taps), layers, maps)


@pytest.mark.parametrize(
    ("rows", "columns", "stride", "taps", "latency"),
    [(6, 5, 1, 9, 21), (5, 8, 2, 9, 21), (4, 5, 2, 3, 22), (3, 4, 1, 1, 26)],
)
def test_cycles(rows: int, columns: int, stride: int, taps: int, latency: int) -> None:
    rng = np.random.default_rng(0)
    passes, lanes, interval = 3, 2, 9 // taps
    layer = random_layer(rng, passes * lanes, stride, 20)
    dut = DepthwiseConvolution(lanes=lanes, columns=16, taps_per_cycle=taps)
    assert dut.latency == latency
    _, played = run(dut, layer, random_map(rng, rows, columns, passes * lanes))
    pixel_count = rows * columns
    starts = played.entered[::pixel_count]
    assert Raster.steps(rows, columns) == rows * columns + columns + 1
    assert np.diff(starts).tolist() == [Raster.steps(rows, columns) * interval + 1] * (passes - 1)
    steps = [start + number * interval for start in starts for number in range(pixel_count)]
    assert played.entered == steps
    centres = [row * columns + column for row in range(0, rows, stride) for column in range(0, columns, stride)]
    expected = [start + (centre + columns + 1) * interval + latency for start in starts for centre in centres]
    assert played.left == expected


def test_a_small_map_waits_for_its_channels() -> None:
    rng = np.random.default_rng(0)
    layer = random_layer(rng, 9, 1, 20)
    dut = DepthwiseConvolution(lanes=3, columns=3)
    _, played = run(dut, layer, random_map(rng, 1, 3, 9))
    assert np.diff(played.entered[::3]).tolist() == [dut.shortest_pass + dut.lanes] * 2


def test_a_receiver_that_waits_loses_nothing() -> None:
    rng = np.random.default_rng(4)
    layer, values = random_layer(rng, 2, 1, 22), random_map(rng, 6, 6, 2)
    results, _ = run(DepthwiseConvolution(lanes=1, columns=6), layer, values, hold=120)
    assert np.array_equal(results, DepthwiseConvolution.model(layer, values))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lanes": "15"}, "lanes=15 must be in 1..14; nearest valid value: 14"),
        ({"columns": "2"}, "columns=2 must be in 3..512; nearest valid value: 3"),
        ({"taps_per_cycle": "2"}, "taps_per_cycle=2 must be one of (9, 3, 1); nearest valid value: 1"),
        ({"columns": "600"}, "columns=600 must be in 3..512; nearest valid value: 512"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match="unit depthwise: ") as refusal:
        build_unit("depthwise", parameters)
    assert message in str(refusal.value)


def test_maps_that_do_not_fit_are_refused() -> None:
    dut = DepthwiseConvolution(lanes=1, columns=16)
    layer = random_layer(np.random.default_rng(0), 1, 1, 0)
    with pytest.raises(ValueError, match=r"columns=17 must have 3..16; nearest valid value: 16"):
        dut.setting(layer, 8, 17)
    with pytest.raises(ValueError, match=r"rows=1025 must have 1..1024; nearest valid value: 1024"):
        dut.setting(layer, 1025, 8)


@pytest.mark.parametrize("taps", [9, 3, 1])
def test_elaborates_for_ecp5(taps: int) -> None:
    text = Harness(build_unit("depthwise", {"lanes": "2", "taps_per_cycle": str(taps)})[0]).rtlil()
    assert text.count("cell \\MULT18X18D") == 2 * (taps + 2)
    assert text.count("cell \\DP16KD") == 2
