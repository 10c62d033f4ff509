"""The ViT image encoder of Segment Anything, one quantizable operation at a time.

The modules are those of `ImageEncoderViT` of the package segment-anything; this file only states the order in
which they run. Activations are (B, H, W, C). A test holds it against the package's own forward pass.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from quant.models.layer_call import (
    ActivationCall,
    AddCall,
    AttentionCall,
    BlockCall,
    DecomposedBias,
    LayerCall,
    NormCall,
    Steps,
    patches,
)
from quant.models.neck import neck_steps


def partition_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) to windows (B * windows, side, side, C), zeros right and below."""
    batch, height, width, channels = x.shape
    padded = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    windows = padded.view(batch, rows, side, columns, side, channels).transpose(2, 3)
    return windows.reshape(-1, side, side, channels)


def merge_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `partition_windows`: windows (B * windows, side, side, C) to (B, height, width, C)."""
    side, channels = windows.shape[1], windows.shape[-1]
    rows, columns = -(-height // side), -(-width // side)
    grid = windows.reshape(-1, rows, columns, side, side, channels).transpose(2, 3)
    return grid.reshape(-1, rows * side, columns * side, channels)[:, :height, :width]


def _attention(name: str, block: Any, normed: Tensor, residual: Tensor) -> Steps[Tensor]:
    """Attention branch (B, H, W, C) of a block. Windows are padded with zeros behind the norm, as the package does.

    The outputs of `qkv` are ordered (q, k or v; head; channel).
    """
    module = block.attn
    height, width = normed.shape[1:3]
    windows = partition_windows(normed, block.window_size) if block.window_size else normed
    _, side_h, side_w, channels = windows.shape
    qkv = yield LayerCall(f"{name}.qkv", module.qkv, windows, norm=block.norm1)
    q, k, v = qkv.reshape(-1, side_h * side_w, 3, module.num_heads, channels // module.num_heads).permute(2, 0, 3, 1, 4)
    bias = DecomposedBias(module.rel_pos_h, module.rel_pos_w, side_h, side_w)
    attended = yield AttentionCall(f"{name}.attend", q, k, v, module.scale, bias)
    attended = attended.transpose(1, 2).reshape(-1, side_h, side_w, channels)
    merged = merge_windows(attended, height, width) if block.window_size else attended
    return (yield LayerCall(f"{name}.proj", module.proj, merged, residual=residual))


def _block(name: str, block: Any, x: Tensor) -> Steps[Tensor]:
    """LayerNorm and attention, LayerNorm and MLP, each added to the stream (B, H, W, C)."""
    normed = yield NormCall(f"{name}.norm1", block.norm1, x)
    x = yield AddCall(f"{name}.attn.add", x, (yield from _attention(f"{name}.attn", block, normed, x)))
    normed = yield NormCall(f"{name}.norm2", block.norm2, x)
    hidden = yield LayerCall(f"{name}.mlp.lin1", block.mlp.lin1, normed, norm=block.norm2)
    hidden = yield ActivationCall(f"{name}.mlp.act", hidden)
    branch = yield LayerCall(f"{name}.mlp.lin2", block.mlp.lin2, hidden, residual=x, activation="gelu")
    return (yield AddCall(f"{name}.mlp.add", x, branch))


def vit_steps(encoder: nn.Module, x: Tensor, name: str = "image_encoder") -> Steps[Tensor]:
    """A normalised picture float32 (B, side, side, 3) to its embedding (B, side / patch, side / patch, neck channels).

    encoder: an `ImageEncoderViT` with absolute and relative positions, its tables made for this side.
    """
    parts: Any = encoder
    projection = parts.patch_embed.proj
    x = yield LayerCall(f"{name}.patch_embed.proj", projection, patches(x, projection.kernel_size[0]))
    x = yield AddCall(f"{name}.pos_embed", x, parts.pos_embed.expand_as(x))
    for index, block in enumerate(parts.blocks):
        path = f"{name}.blocks.{index}"
        x = yield BlockCall(path, partial(_block, path, block), x, block.window_size)
    path = f"{name}.neck"
    return (yield BlockCall(path, partial(neck_steps, parts.neck, path), x, 1))
