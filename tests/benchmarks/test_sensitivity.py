"""The parts that the sensitivity bench takes apart."""

from fnmatch import fnmatchcase

import torch
from torch import nn

from benchmarks.sensitivity import GROUPS, inputs_only, weights_only
from quant.export import quantized_names
from quant.models.layer_call import LayerCall
from quant.models.registry import shape_only
from quant.quantize_layer import quantize_dense
from quant.recipe import Recipe


def test_weights_and_inputs_are_quantized_one_without_the_other() -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(70, 5), torch.randn(2, 300, 70)
    call = LayerCall("layer", module, x)
    with torch.no_grad():
        layer = quantize_dense([call], [call], Recipe(byte_inputs=())).layer
        steps = layer.grid.quantize(x.reshape(-1, 70))
        on_levels = torch.empty_like(steps)
        on_levels[:, layer.grid.permutation] = steps
        assert not torch.equal(on_levels, x.reshape(-1, 70))
        # On levels nothing is left for the input's codes to change; a float weight is left to be changed.
        torch.testing.assert_close(
            weights_only({"layer": layer})(LayerCall("layer", module, on_levels)), layer(on_levels)
        )
        torch.testing.assert_close(inputs_only({"layer": layer})(call).view(-1, 5), module(on_levels))
        assert float((layer(x) - module(x)).abs().max()) > 1e-3
        for handler in (weights_only, inputs_only):
            assert torch.equal(handler({})(call), module(x))


def test_every_group_has_operations_and_stages_make_up_the_encoder() -> None:
    names = [name for name in quantized_names(shape_only("lite_medsam")) if name.startswith("image_encoder.")]
    sizes = {label: sum(fnmatchcase(name, pattern) for name in names) for label, pattern in GROUPS.items()}
    assert all(sizes.values()), sizes
    assert sum(sizes[label] for label in list(GROUPS)[:6]) == len(names)
