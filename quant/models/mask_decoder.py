"""The single-mask path of Segment Anything's mask decoder, one quantizable operation at a time.

The modules (weights, norms, upscaling, heads) are those of the package segment-anything; this file only states
the order in which they run, so that calibration can stop before every projection and every attention. Norms,
additions and ReLUs are computed in place, in float. Only mask token 0 is decoded, which is what a box prompt
uses. A test holds it against the package's own forward pass.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from quant.models.layer_call import AttentionCall, LayerCall, Steps


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) to (B, heads, T, C / heads)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _attention(name: str, module: Any, q: Tensor, k: Tensor, v: Tensor, *, residual: Tensor | None) -> Steps[Tensor]:
    """Multi-head attention with its own projection of each operand: (B, T, C) queries to (B, T, C)."""
    heads = module.num_heads
    q = _split_heads((yield LayerCall(f"{name}.q_proj", module.q_proj, q)), heads)
    k = _split_heads((yield LayerCall(f"{name}.k_proj", module.k_proj, k)), heads)
    v = _split_heads((yield LayerCall(f"{name}.v_proj", module.v_proj, v)), heads)
    attended = yield AttentionCall(f"{name}.attend", q, k, v, q.shape[-1] ** -0.5)
    attended = attended.transpose(1, 2).flatten(2)
    return (yield LayerCall(f"{name}.out_proj", module.out_proj, attended, residual=residual))


def _two_way_block(
    name: str, block: Any, tokens: Tensor, pixels: Tensor, *, token_pe: Tensor, pixel_pe: Tensor
) -> Steps[tuple[Tensor, Tensor]]:
    """Self attention of tokens, tokens to picture, MLP of tokens, picture to tokens."""
    if block.skip_first_layer_pe:
        tokens = yield from _attention(f"{name}.self_attn", block.self_attn, tokens, tokens, tokens, residual=None)
    else:
        q = tokens + token_pe
        tokens = tokens + (yield from _attention(f"{name}.self_attn", block.self_attn, q, q, tokens, residual=tokens))
    tokens = block.norm1(tokens)
    attend = block.cross_attn_token_to_image
    q, k = tokens + token_pe, pixels + pixel_pe
    tokens = tokens + (
        yield from _attention(f"{name}.cross_attn_token_to_image", attend, q, k, pixels, residual=tokens)
    )
    tokens = block.norm2(tokens)
    hidden = block.mlp.act((yield LayerCall(f"{name}.mlp.lin1", block.mlp.lin1, tokens)))
    tokens = block.norm3(
        tokens + (yield LayerCall(f"{name}.mlp.lin2", block.mlp.lin2, hidden, residual=tokens, activation="relu"))
    )
    attend = block.cross_attn_image_to_token
    q, k = pixels + pixel_pe, tokens + token_pe
    pixels = pixels + (
        yield from _attention(f"{name}.cross_attn_image_to_token", attend, q, k, tokens, residual=pixels)
    )
    return tokens, block.norm4(pixels)


def _head(name: str, module: Any, x: Tensor) -> Steps[Tensor]:
    """A small ReLU network on one token per prompt, (B, C) to (B, outputs); its narrow last layer stays float."""
    *hidden, last = module.layers
    for index, layer in enumerate(hidden):
        activation: Literal["relu"] | None = "relu" if index else None
        x = functional.relu((yield LayerCall(f"{name}.layers.{index}", layer, x, activation=activation)))
    return last(x)


def decoder_steps(
    decoder: nn.Module, embedding: Tensor, position: Tensor, prompt: Tensor, name: str = "mask_decoder"
) -> Steps[tuple[Tensor, Tensor]]:
    """Mask logits (B, 4H, 4W) and predicted IoU (B,) of B prompts.

    embedding: (B, H, W, C), the dense prompt already added. position: (1, H, W, C). prompt: (B, points, C).
    """
    parts: Any = decoder
    batch, (height, width) = prompt.shape[0], embedding.shape[1:3]
    learned = torch.cat([parts.iou_token.weight, parts.mask_tokens.weight])
    token_pe = torch.cat([learned.expand(batch, -1, -1), prompt], dim=1)
    pixels, pixel_pe = embedding.flatten(1, 2), position.flatten(1, 2)
    tokens = token_pe
    for index, block in enumerate(parts.transformer.layers):
        prefix = f"{name}.transformer.layers.{index}"
        tokens, pixels = yield from _two_way_block(prefix, block, tokens, pixels, token_pe=token_pe, pixel_pe=pixel_pe)
    attend = parts.transformer.final_attn_token_to_image
    prefix = f"{name}.transformer.final_attn_token_to_image"
    q, k = tokens + token_pe, pixels + pixel_pe
    tokens = tokens + (yield from _attention(prefix, attend, q, k, pixels, residual=tokens))
    tokens = parts.transformer.norm_final_attn(tokens)
    upscaled = parts.output_upscaling(pixels.transpose(1, 2).reshape(batch, -1, height, width))
    kernel = yield from _head(f"{name}.output_hypernetworks_mlps.0", parts.output_hypernetworks_mlps[0], tokens[:, 1])
    quality = yield from _head(f"{name}.iou_prediction_head", parts.iou_prediction_head, tokens[:, 0])
    return torch.einsum("bc,bchw->bhw", kernel, upscaled), quality[:, 0]
