"""SAM's ViT encoder as a generator against the package's own forward pass, and the names of its operations."""

import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from quant.models.layer_call import AttentionCall, DecomposedBias, LayerCall, weight_matrix
from quant.models.sam_vit import merge_windows, partition_windows, vit_steps
from quant.models.segment_anything_parts import load_modeling
from tests.quant.models.calls import recorded


def encoder(side: int, window: int) -> Any:
    """A small encoder of the package, patches of 4 x 4, all parameters random, block 1 global."""
    torch.manual_seed(2)
    module = load_modeling().ImageEncoderViT(
        img_size=side,
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=3,
        out_chans=16,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
    )
    for name, parameter in module.named_parameters():
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = offset + 0.4 * torch.randn(parameter.shape)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("window", [5, 4, 3], ids=["padded to 10", "no padding", "padded to 9"])
def test_steps_equal_the_packages_own_forward(window: int) -> None:
    module = encoder(32, window)
    x = torch.randn(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    result, _ = recorded(vit_steps(module, x))
    with torch.inference_mode():
        expected = module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_windows_of_a_map_that_is_not_square_are_the_packages() -> None:
    package = sys.modules[load_modeling().ImageEncoderViT.__module__]
    x = torch.arange(2 * 5 * 7 * 3, dtype=torch.float32).view(2, 5, 7, 3)
    windows = partition_windows(x, 4)
    assert torch.equal(windows, package.window_partition(x, 4)[0])
    assert torch.equal(merge_windows(windows, 5, 7), x)


def test_every_operation_is_yielded_under_its_name() -> None:
    _, calls = recorded(vit_steps(encoder(32, 5), torch.zeros(1, 32, 32, 3)))
    block = ["norm1", "attn.qkv", "attn.attend", "attn.proj", "attn.add", "norm2"]
    block += ["mlp.lin1", "mlp.act", "mlp.lin2", "mlp.add"]
    assert list(calls) == [
        "image_encoder.patch_embed.proj",
        "image_encoder.pos_embed",
        *(f"image_encoder.blocks.{index}.{one}" for index in (0, 1) for one in block),
        *(f"image_encoder.neck.{index}" for index in range(4)),
    ]


def test_calls_carry_what_calibration_needs() -> None:
    module = encoder(32, 5)
    _, calls = recorded(vit_steps(module, torch.randn(1, 32, 32, 3)))
    patch = calls["image_encoder.patch_embed.proj"]
    assert isinstance(patch, LayerCall) and patch.x.shape == (1, 8, 8, 48)
    assert weight_matrix(patch.module).shape == (24, 48)
    qkv = calls["image_encoder.blocks.0.attn.qkv"]
    assert isinstance(qkv, LayerCall) and qkv.norm is module.blocks[0].norm1
    assert qkv.x.shape == (4, 5, 5, 24) and (qkv.x[1, :, 3:] == 0).all() and not (qkv.x[1, :, :3] == 0).any()
    for index, (windows, side) in enumerate([(4, 5), (1, 8)]):
        attend = calls[f"image_encoder.blocks.{index}.attn.attend"]
        assert isinstance(attend, AttentionCall) and isinstance(attend.bias, DecomposedBias)
        assert attend.q.shape == (windows, 3, side**2, 8)
        assert (attend.bias.side_h, attend.bias.side_w) == (side, side)
        assert attend.bias.rel_h.shape == (2 * side - 1, 8)
    first, last = (calls[f"image_encoder.blocks.1.mlp.lin{index}"] for index in (1, 2))
    assert isinstance(first, LayerCall) and first.norm is module.blocks[1].norm2
    assert isinstance(last, LayerCall) and last.activation == "gelu" and last.residual is not None
