"""TinyViT image encoder as LiteMedSAM has it (Wu et al., TinyViT, 2022): 256x256x3 to 64x64x256, in integers.

Stage 0 is convolutional (MBConv) at full resolution; the stages behind it are window attention. Batch norms are
folded into the convolutions in front of them. Maps are wide, (rows, columns, channels).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.golden.neck import neck
from sim.golden.parameters import Parameters
from sim.golden.windows import join_windows, partition_windows


@dataclass(frozen=True)
class StageShape:
    """What the operations do not tell of one stage.

    depth: blocks. heads, window: attention heads and window side in pixels, unused in stage 0 (it has no
    attention). downsample_stride: of the merging convolution behind the stage, 0 where there is none.
    """

    depth: int
    heads: int
    window: int
    downsample_stride: int


def mbconv(name: str, x: Wide, parameters: Parameters) -> Wide:
    """Inverted bottleneck of stage 0: 1x1 up, depthwise 3x3, 1x1 down, residual, each with GELU."""
    hidden = parameters.gelu(f"{name}.act1", parameters.linear(f"{name}.conv1.c", x))
    hidden = parameters.gelu(f"{name}.act2", parameters.depthwise(f"{name}.conv2.c", hidden))
    return parameters.gelu(
        f"{name}.act3", parameters.add(f"{name}.add", x, parameters.linear(f"{name}.conv3.c", hidden))
    )


def patch_merging(name: str, x: Wide, stride: int, parameters: Parameters) -> Wide:
    """Downsampling between stages: 1x1, depthwise 3x3 with `stride`, 1x1."""
    x = parameters.gelu(f"{name}.act1", parameters.linear(f"{name}.conv1.c", x))
    x = parameters.gelu(f"{name}.act2", parameters.depthwise(f"{name}.conv2.c", x, stride))
    return parameters.linear(f"{name}.conv3.c", x)


def split_interleaved(name: str, qkv: Wide, heads: int) -> tuple[Wide, Wide, Wide]:
    """q, k and v (windows, tokens, heads * D), heads outermost, of (windows, tokens, heads * 3 * D).

    TinyViT orders the outputs of qkv by head: q, k, v of head 0, then of head 1, and so on.
    """
    windows, tokens, outputs = qkv.values.shape
    if outputs % (3 * heads):
        raise UserError(f"{name} has {outputs} outputs, no multiple of 3 x {heads} heads; export the model again")
    by_head = qkv.values.reshape(windows, tokens, heads, 3, outputs // (3 * heads))
    q, k, v = (qkv.with_values(by_head[:, :, :, part].reshape(windows, tokens, outputs // 3)) for part in range(3))
    return q, k, v


def window_attention(name: str, x: Wide, heads: int, window: int, parameters: Parameters) -> Wide:
    """Self-attention inside windows of `window` x `window` pixels, with LayerNorm in front.

    The map is padded with zeros before the LayerNorm, so padding pixels take part with its bias as value.
    """
    rows, columns, _ = x.values.shape
    windows = parameters.norm(f"{name}.norm", x.with_values(partition_windows(x.values, window)))
    q, k, v = split_interleaved(f"{name}.qkv", parameters.linear(f"{name}.qkv", windows), heads)
    mixed = parameters.attention(f"{name}.attend", q, k, v, heads=heads)
    return parameters.linear(f"{name}.proj", mixed.with_values(join_windows(mixed.values, rows, columns)))


def block(name: str, x: Wide, heads: int, window: int, parameters: Parameters) -> Wide:
    """TinyViT block: window attention, depthwise 3x3, MLP; the convolution alone has no residual."""
    x = parameters.add(f"{name}.attn.add", x, window_attention(f"{name}.attn", x, heads, window, parameters))
    x = parameters.depthwise(f"{name}.local_conv.c", x)
    hidden = parameters.linear(f"{name}.mlp.fc1", parameters.norm(f"{name}.mlp.norm", x))
    hidden = parameters.linear(f"{name}.mlp.fc2", parameters.gelu(f"{name}.mlp.act", hidden))
    return parameters.add(f"{name}.mlp.add", x, hidden)


def encode_tiny_vit(x: Wide, stages: Sequence[StageShape], parameters: Parameters, name: str = "image_encoder") -> Wide:
    """Image embedding (rows / 4, columns / 4, 256) of a preprocessed picture (rows, columns, 3)."""
    x = parameters.gelu(f"{name}.patch_embed.seq.1", parameters.linear(f"{name}.patch_embed.seq.0.c", x))
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
