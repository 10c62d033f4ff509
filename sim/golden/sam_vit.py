"""The ViT image encoder of Segment Anything (Kirillov et al., appendix A; Li et al., ViTDet), in integers.

Patches of 16x16 pixels, absolute positions, blocks of window attention with some of global attention between them,
relative positions in rows and columns inside the attention operation, and the neck. Maps are wide, (rows, columns,
channels).
"""

from dataclasses import dataclass

from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.golden.convolution import patches
from sim.golden.neck import neck
from sim.golden.parameters import Parameters
from sim.golden.windows import join_windows, partition_windows


@dataclass(frozen=True)
class SamVitShape:
    """What the operations do not tell.

    depth: blocks. heads: of every attention. window: side of a window in map pixels. global_blocks: indices of the
    blocks whose attention sees the whole map. patch: side of a patch in pixels.
    """

    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    patch: int


def split_qkv(name: str, qkv: Wide) -> tuple[Wide, Wide, Wide]:
    """q, k and v (windows, tokens, C), heads outermost, of (windows, tokens, 3 * C): all of q, then k, then v."""
    channels, rest = divmod(qkv.values.shape[-1], 3)
    if rest:
        raise UserError(f"{name} has {qkv.values.shape[-1]} outputs, no multiple of 3; export the model again")
    q, k, v = (qkv.with_values(qkv.values[..., part * channels : (part + 1) * channels]) for part in range(3))
    return q, k, v


def windowed_attention(name: str, x: Wide, heads: int, window: int, parameters: Parameters) -> Wide:
    """Self-attention inside windows of a map that has been normalised; zeros are padded behind that norm.

    A window as large as the map is global attention.
    """
    rows, columns, _ = x.values.shape
    windows = x.with_values(partition_windows(x.values, window))
    q, k, v = split_qkv(f"{name}.qkv", parameters.linear(f"{name}.qkv", windows))
    mixed = parameters.attention(f"{name}.attend", q, k, v, heads=heads)
    return parameters.linear(f"{name}.proj", mixed.with_values(join_windows(mixed.values, rows, columns)))


def block(name: str, x: Wide, heads: int, window: int, parameters: Parameters) -> Wide:
    """LayerNorm and attention, LayerNorm and MLP, each added to the stream."""
    normed = parameters.norm(f"{name}.norm1", x)
    x = parameters.add(f"{name}.attn.add", x, windowed_attention(f"{name}.attn", normed, heads, window, parameters))
    hidden = parameters.linear(f"{name}.mlp.lin1", parameters.norm(f"{name}.norm2", x))
    hidden = parameters.linear(f"{name}.mlp.lin2", parameters.gelu(f"{name}.mlp.act", hidden))
    return parameters.add(f"{name}.mlp.add", x, hidden)


def encode_sam_vit(x: Wide, shape: SamVitShape, parameters: Parameters, name: str = "image_encoder") -> Wide:
    """Image embedding (rows / patch, columns / patch, 256) of a preprocessed square picture (rows, columns, 3)."""
    x = parameters.linear(f"{name}.patch_embed.proj", x.with_values(patches(x.values, shape.patch)))
    x = parameters.add_positions(f"{name}.pos_embed", x)
    for index in range(shape.depth):
        window = x.values.shape[0] if index in shape.global_blocks else shape.window
        x = block(f"{name}.blocks.{index}", x, shape.heads, window, parameters)
    return neck(f"{name}.neck", x, parameters)
