import numpy as np
import pytest

from sim.contract.activation_table import TABLE_ENTRIES, ActivationTable
from sim.contract.depthwise import Depthwise
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.contract.wide import Wide
from sim.machine.ports import Port
from tests.sim.executor.assembler import Assembler


def wide(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-(1 << 15), 1 << 15, shape).astype(np.int16)


@pytest.mark.parametrize("channels", [8, 64, 200])
def test_layer_norm_of_two_commands(channels: int) -> None:
    rng = np.random.default_rng(channels)
    layer = LayerNorm(
        name="norm",
        input_exponent=-8,
        wide_exponent=-10,
        epsilon=1 << 33,
        gain=rng.integers(-(1 << 15), 1 << 15, channels).astype(np.int16),
        bias=rng.integers(-(1 << 27), 1 << 27, channels).astype(np.int32),
        shift=15,
    )
    values = wide(rng, 9, channels)
    values[3] = 5
    a = Assembler()
    a.records(Port.NORM_PARAMETER, [(p, int(layer.gain[p]), int(layer.bias[p])) for p in range(channels)])
    place = a.write(Port.NORMED, values.nbytes)
    for part in (slice(0, 4), slice(4, 9)):
        a.send(Port.NORM_COMMAND, part.stop - part.start, channels, layer.shift, layer.epsilon)
        a.read(Port.NORM_VALUES, values[part])
    a.wait()
    a.run()
    assert np.array_equal(a.get(place, values.shape), layer.run(Wide(values, -8)).values)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (-16, -3), (5, -11), (16, 2)])
def test_sums_of_two_tensors(first: int, second: int) -> None:
    rng = np.random.default_rng(abs(first - second))
    residual = Residual("add", first, second, 0)
    a = Assembler()
    values = wide(rng, 2, 40, 8)
    a.send(Port.RESIDUAL_SETTING, first + 16, second + 16)
    place = a.write(Port.SUMS, 40 * 16)
    a.read(Port.RESIDUAL_VALUES, values, counts=(1, 2, 40, 1), strides=(40 * 16, 16, 0))
    a.wait()
    a.run()
    expected = residual.run(Wide(values[0], first), Wide(values[1], second)).values
    assert np.array_equal(a.get(place, (40, 8)), expected)


@pytest.mark.parametrize("bits", [0, 3, 6])
def test_activation_of_every_value(bits: int) -> None:
    rng = np.random.default_rng(bits)
    table = ActivationTable("gelu", -8, -9, wide(rng, TABLE_ENTRIES), bits)
    values = np.arange(1 << 16).astype(np.uint16).view(np.int16)
    a = Assembler()
    a.records(Port.ACTIVATION_TABLE, list(enumerate(table.table.tolist())))
    a.send(Port.ACTIVATION_SETTING, bits)
    place = a.write(Port.ACTIVATED, values.nbytes)
    a.read(Port.ACTIVATION_VALUES, values)
    a.wait()
    a.run()
    assert np.array_equal(a.get(place, values.shape), table.run(Wide(values, -8)).values)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (6, 5), (7, 8)])
def test_depthwise_in_passes(stride: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows * stride)
    channels, lanes = 24, 8
    layer = Depthwise(
        name="depthwise",
        input_exponent=-8,
        wide_exponent=-8,
        stride=stride,
        weight=rng.integers(-128, 128, (channels, 3, 3)).astype(np.int8),
        multiplier=rng.integers(0, 1 << 16, channels).astype(np.uint16),
        bias=rng.integers(-(1 << 40), 1 << 40, channels),
        shift=27,
    )
    values = wide(rng, rows, columns, channels)
    expected = layer.run(Wide(values, -8)).values
    a = Assembler()
    pixels, result = a.put(values), a.room(expected.nbytes)
    a.send(Port.DEPTHWISE_MAP, rows - 1, columns - 1, stride - 1, layer.shift)
    row = channels * 2
    for start in range(0, channels, lanes):
        a.move_out(Port.CONVOLVED, result + start * 2, counts=(1, expected[..., 0].size, 1, 1), strides=(row, 0, 0))
        part = range(start, start + lanes)
        a.records(
            Port.DEPTHWISE_CHANNEL,
            [(*layer.weight[c].reshape(-1).tolist(), int(layer.multiplier[c]), int(layer.bias[c])) for c in part],
        )
        a.move_in(Port.DEPTHWISE_VALUES, pixels + start * 2, counts=(1, rows * columns, 1, 1), strides=(row, 0, 0))
    a.wait()
    a.run()
    assert np.array_equal(a.get(result, expected.shape), expected)
