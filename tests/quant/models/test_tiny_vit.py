"""TinyViT as a generator against a plain forward pass, and the names of its operations."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quant.models.layer_call import AddCall, AttentionCall, DepthwiseCall, LayerCall, NormCall, StaticBias
from quant.models.tiny_vit import ConvNorm, StageShape, TinyViT
from tests.quant.models.calls import recorded

STAGES = (
    StageShape(channels=8, depth=1, heads=1, window=1, downsample_stride=2),
    StageShape(channels=16, depth=1, heads=2, window=3, downsample_stride=1),
    StageShape(channels=24, depth=2, heads=3, window=4, downsample_stride=0),
)


@pytest.fixture(scope="module")
def network() -> TinyViT:
    """A small TinyViT whose parameters are all random; maps of 8 x 8, so that windows of 3 are padded."""
    torch.manual_seed(3)
    network = TinyViT(STAGES).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            positive = "running_var" in name or (name.endswith("weight") and tensor.ndim == 1)
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if positive else 0.3 * torch.randn(tensor.shape))
    network.fold_norms()
    return network


def plain_attention(module: Any, x: Tensor) -> Tensor:
    """Window attention of one picture (1, H, W, C), window by window and head by head."""
    _, height, width, channels = x.shape
    side, depth = module.window, channels // module.heads
    padded = torch.zeros(-(-height // side) * side, -(-width // side) * side, channels)
    padded[:height, :width] = x[0]
    output = torch.empty_like(padded)
    positions = [(row, column) for row in range(side) for column in range(side)]
    offset = torch.tensor([[abs(a - c) * side + abs(b - d) for c, d in positions] for a, b in positions])
    for top in range(0, padded.shape[0], side):
        for left in range(0, padded.shape[1], side):
            window = padded[top : top + side, left : left + side].reshape(-1, channels)
            qkv = module.qkv(module.norm(window)).view(-1, module.heads, 3 * depth)
            heads = []
            for head in range(module.heads):
                q, k, v = qkv[:, head].split(depth, dim=1)
                bias = module.attention_biases[head][offset]
                heads.append(torch.softmax(q @ k.T / depth**0.5 + bias, dim=1) @ v)
            output[top : top + side, left : left + side] = module.proj(torch.cat(heads, 1)).view(side, side, channels)
    return output[None, :height, :width]


def plain_forward(network: Any, x: Tensor) -> Tensor:
    """The network without calls."""
    gelu = functional.gelu
    x = network.patch_embed.seq(x)
    for index, stage in enumerate(network.layers):
        for block in stage.blocks:
            if index == 0:
                x = gelu(x + block.conv3(gelu(block.conv2(gelu(block.conv1(x))))))
                continue
            x = block.local_conv(x + plain_attention(block.attn, x))
            x = x + block.mlp.fc2(gelu(block.mlp.fc1(block.mlp.norm(x))))
        if stage.downsample is not None:
            parts = stage.downsample
            x = parts.conv3(gelu(parts.conv2(gelu(parts.conv1(x)))))
    channels_first = x.permute(0, 3, 1, 2)
    for position in (0, 2):
        convolved = network.neck[position](channels_first).permute(0, 2, 3, 1)
        norm = network.neck[position + 1]
        normed = functional.layer_norm(convolved, convolved.shape[-1:], norm.weight, norm.bias, 1e-6)
        channels_first = normed.permute(0, 3, 1, 2)
    return channels_first.permute(0, 2, 3, 1)


def test_steps_equal_a_plain_forward(network: TinyViT) -> None:
    x = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    result, _ = recorded(network.steps(x))
    torch.testing.assert_close(result, plain_forward(network, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(x), result)


def test_every_operation_is_yielded_under_its_name(network: TinyViT) -> None:
    _, calls = recorded(network.steps(torch.rand(1, 16, 16, 3)))
    bottleneck = ["conv1.c", "act1", "conv2.c", "act2", "conv3.c", "add", "act3"]
    downsample = ["conv1.c", "act1", "conv2.c", "act2", "conv3.c"]
    attention = ["norm", "qkv", "attend", "proj", "add"]
    transformer = [f"attn.{one}" for one in attention] + ["local_conv.c"]
    transformer += [f"mlp.{one}" for one in ("norm", "fc1", "act", "fc2", "add")]
    assert list(calls) == [
        *(f"image_encoder.patch_embed.seq.{one}" for one in ("0.c", "1", "2.c")),
        *(f"image_encoder.layers.0.blocks.0.{one}" for one in bottleneck),
        *(f"image_encoder.layers.0.downsample.{one}" for one in downsample),
        *(f"image_encoder.layers.1.blocks.0.{one}" for one in transformer),
        *(f"image_encoder.layers.1.downsample.{one}" for one in downsample),
        *(f"image_encoder.layers.2.blocks.{block}.{one}" for block in (0, 1) for one in transformer),
        *(f"image_encoder.neck.{index}" for index in range(4)),
    ]


def test_calls_carry_what_calibration_needs(network: TinyViT) -> None:
    x = torch.rand(1, 16, 16, 3)
    _, calls = recorded(network.steps(x))
    prefix = "image_encoder.layers.1.blocks.0"
    qkv, norm = calls[f"{prefix}.attn.qkv"], calls[f"{prefix}.attn.norm"]
    assert isinstance(qkv, LayerCall) and isinstance(norm, NormCall) and qkv.norm is norm.module
    assert norm.x.shape == (9, 9, 16) and (norm.x[2].view(3, 3, 16)[:, 2] == 0).all()
    attend = calls[f"{prefix}.attn.attend"]
    assert isinstance(attend, AttentionCall) and isinstance(attend.bias, StaticBias)
    assert attend.q.shape == (9, 2, 9, 8) and attend.bias.table.shape == (2, 9, 9) and attend.scale == 8**-0.5
    assert isinstance(calls[f"{prefix}.local_conv.c"], DepthwiseCall)
    second, add = calls[f"{prefix}.mlp.fc2"], calls[f"{prefix}.mlp.add"]
    assert isinstance(second, LayerCall) and isinstance(add, AddCall)
    assert second.activation == "gelu" and second.residual is not None and torch.equal(second.residual, add.a)
    torch.testing.assert_close(add.b, second.compute())


def test_a_network_with_batch_norms_does_not_run() -> None:
    with pytest.raises(RuntimeError, match=r"patch_embed\.seq\.0: fold the batch norms"):
        recorded(TinyViT(STAGES).steps(torch.rand(1, 16, 16, 3)))


def test_a_depthwise_step_is_the_pair_folded() -> None:
    torch.manual_seed(0)
    pair = ConvNorm(4, 4, kernel=3, stride=2, groups=4).eval()
    pair.fold()
    x = torch.randn(1, 5, 6, 4)
    result, calls = recorded(pair.steps("local", x))
    assert list(calls) == ["local.c"]
    torch.testing.assert_close(result, pair(x))
