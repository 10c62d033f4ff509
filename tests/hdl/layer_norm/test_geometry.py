# amaranth: UnusedElaboratable=no

"""Parameters, layers and orders that do not fit are refused with a line that names the limit."""

import numpy as np
import pytest

from hdl.layer_norm.geometry import LayerNormGeometry
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.operands import command_of, order_of, parameters_of, transfers_of
from hdl.units import build_unit
from sim.contract.errors import UserError
from tests.hdl.layer_norm.bench import layer_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("lanes", 3, r"lanes=3 must be one of \(1, 2, 4\); nearest valid value: 2"),
        ("lanes", 8, r"lanes=8 must be one of \(1, 2, 4\); nearest valid value: 4"),
        ("lanes", 0, "lanes=0 .* nearest valid value: 1"),
        ("depth", 15, "depth=15 must be in 16..4096; nearest valid value: 16"),
        ("depth", 4097, "depth=4097 must be in 16..4096; nearest valid value: 4096"),
        ("buffers", 1, "buffers=1 must be in 2..4; nearest valid value: 2"),
        ("buffers", 5, "buffers=5 must be in 2..4; nearest valid value: 4"),
        ("permuted", 2, "permuted=2 must be 0 or 1; nearest valid value: 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused(parameter: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerNormGeometry(**{parameter: value})
    with pytest.raises(UserError, match=f"unit layer_norm: {parameter}={value} must be"):
        build_unit("layer_norm", {parameter: str(value)})


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("depth", [16, 17, 18, 768, 4095, 4096])
def test_every_channel_has_an_address_of_its_own(lanes: int, depth: int) -> None:
    geometry = LayerNormGeometry(lanes=lanes, depth=depth, buffers=3)
    assert geometry.groups(depth) * lanes >= depth
    assert 1 << geometry.channel_bits >= depth
    assert geometry.token_words >= 3 * geometry.groups(depth)
    last = (2 << geometry.group_bits) + geometry.groups(depth) - 1
    assert last == geometry.token_words - 1


def test_layers_and_orders_that_do_not_fit_are_refused() -> None:
    geometry = LayerNormGeometry(depth=32)
    layer = layer_of(RNG, 33)
    with pytest.raises(ValueError, match="norm has 33 channels, more than depth=32; build a deeper unit"):
        command_of(geometry, layer, 1)
    layer = layer_of(RNG, 4)
    for order in ([0, 1, 2], [0, 1, 2, 4], [-1, 0, 1, 2]):
        with pytest.raises(ValueError, match="norm: a permutation names 4 channels from 0 to 3"):
            order_of(geometry, layer, np.array(order))
    with pytest.raises(ValueError, match="a unit with permuted=0 keeps the order"):
        parameters_of(LayerNormGeometry(depth=32, permuted=0), layer, np.arange(4))
    with pytest.raises(ValueError, match=r"tokens=65536 must be in 0\.\.65535; nearest valid value: 65535"):
        command_of(geometry, layer, 65536)
    with pytest.raises(ValueError, match="norm: a permutation names 4 channels"):
        LayerNormUnit(depth=32).model(layer, np.zeros((1, 4), np.int16), np.array([9, 9, 9, 9]))


def test_operands_say_what_the_layer_says() -> None:
    geometry = LayerNormGeometry(lanes=4, depth=32)
    layer = layer_of(RNG, 6, epsilon=1 << 60, shift=40)
    order = np.array([5, 4, 3, 2, 1, 0])
    assert command_of(geometry, layer, 7) == {"tokens": 7, "channels": 6, "epsilon": 1 << 60, "shift": 40}
    words = parameters_of(geometry, layer, order)
    assert words[1] == {"position": 1, "channel": 4, "gain": layer.gain[4], "bias": layer.bias[4]}
    assert "channel" not in parameters_of(LayerNormGeometry(depth=32, permuted=0), layer)[0]
    assert transfers_of(geometry, np.arange(1, 13).reshape(2, 6)).tolist() == [
        [1, 2, 3, 4],
        [5, 6, 0, 0],
        [7, 8, 9, 10],
        [11, 12, 0, 0],
    ]
