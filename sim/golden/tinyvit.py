"""TinyViT image encoder as LiteMedSAM has it (Wu et al., TinyViT, 2022): 256x256x3 to 64x64x256.

Stage 0 is convolutional (MBConv) at full resolution; stages 1 to 3 are window attention. Batch norms are
folded into the convolutions in front of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.golden.attention import (
    join_windows,
    merge_heads,
    partition_windows,
    relative_position_bias,
    scaled_attention,
    split_heads,
)
from sim.golden.convolution import depthwise_3x3, im2col_3x3
from sim.golden.gelu import gelu
from sim.golden.normalization import LAYER_NORM_2D_EPSILON
from sim.golden.parameters import Parameters

Map: TypeAlias = NDArray[np.float32]
"""(rows, columns, channels)"""


@dataclass(frozen=True)
class StageShape:
    """What the tensors do not tell of one stage.

    depth: blocks. heads, window: attention heads and window side in pixels, unused in stage 0 (it has no
    attention). downsample_stride: of the merging convolution behind the stage, 0 where there is none.
    """

    depth: int
    heads: int
    window: int
    downsample_stride: int


def _depthwise(name: str, x: Map, parameters: Parameters, stride: int = 1) -> Map:
    return depthwise_3x3(x, parameters.tensor(f"{name}.weight"), parameters.tensor(f"{name}.bias"), stride)


def mbconv(name: str, x: Map, parameters: Parameters) -> Map:
    """Inverted bottleneck of stage 0: 1x1 up, depthwise 3x3, 1x1 down, residual, each with GELU."""
    hidden = gelu(parameters.linear(f"{name}.conv1.c", x))
    hidden = gelu(_depthwise(f"{name}.conv2.c", hidden, parameters))
    return gelu(parameters.linear(f"{name}.conv3.c", hidden) + x)


def patch_merging(name: str, x: Map, stride: int, parameters: Parameters) -> Map:
    """Downsampling between stages: 1x1, depthwise 3x3 with `stride`, 1x1."""
    x = gelu(parameters.linear(f"{name}.conv1.c", x))
    x = gelu(_depthwise(f"{name}.conv2.c", x, parameters, stride))
    return parameters.linear(f"{name}.conv3.c", x)


def window_attention(name: str, x: Map, heads: int, window: int, parameters: Parameters) -> Map:
    """Self-attention inside windows of `window` x `window` pixels, with LayerNorm in front.

    The map is padded with zeros before the LayerNorm, so padding pixels take part with its bias as value.
    Outputs of qkv are interleaved per head: q, k, v of head 0, then of head 1, and so on.
    """
    rows, columns, channels = x.shape
    windows = parameters.norm(f"{name}.norm", partition_windows(x, window))
    per_head = split_heads(parameters.linear(f"{name}.qkv", windows), heads)
    width = channels // heads
    bias = relative_position_bias(parameters.tensor(f"{name}.attention_biases"), window)
    mixed = scaled_attention(per_head[..., :width], per_head[..., width : 2 * width], per_head[..., 2 * width :], bias)
    return join_windows(parameters.linear(f"{name}.proj", merge_heads(mixed)), rows, columns)


def block(name: str, x: Map, heads: int, window: int, parameters: Parameters) -> Map:
    """TinyViT block: window attention, depthwise 3x3, MLP; the convolution alone has no residual."""
    x = x + window_attention(f"{name}.attn", x, heads, window, parameters)
    x = _depthwise(f"{name}.local_conv.c", x, parameters)
    hidden = parameters.linear(f"{name}.mlp.fc1", parameters.norm(f"{name}.mlp.norm", x))
    return x + parameters.linear(f"{name}.mlp.fc2", gelu(hidden))


def neck(name: str, x: Map, parameters: Parameters) -> Map:
    """SAM's neck: 1x1, LayerNorm, 3x3, LayerNorm, all over channels; 64x64x320 to 64x64x256."""
    x = parameters.norm(f"{name}.1", parameters.linear(f"{name}.0", x), LAYER_NORM_2D_EPSILON)
    x = parameters.linear(f"{name}.2", im2col_3x3(x))
    return parameters.norm(f"{name}.3", x, LAYER_NORM_2D_EPSILON)


def encode_image(x: Map, stages: Sequence[StageShape], parameters: Parameters, name: str = "image_encoder") -> Map:
    """Image embedding float32 (rows / 4, columns / 4, 256) of a preprocessed picture float32 (rows, columns, 3)."""
    x = gelu(parameters.linear(f"{name}.patch_embed.seq.0.c", x))
    x = parameters.linear(f"{name}.patch_embed.seq.2.c", x)
    for index, stage in enumerate(stages):
        layer = f"{name}.layers.{index}"
        for number in range(stage.depth):
            if index == 0:
                x = mbconv(f"{layer}.blocks.{number}", x, parameters)
            else:
                x = block(f"{layer}.blocks.{number}", x, stage.heads, stage.window, parameters)
        if stage.downsample_stride:
            x = patch_merging(f"{layer}.downsample", x, stage.downsample_stride, parameters)
    return neck(f"{name}.neck", x, parameters)
