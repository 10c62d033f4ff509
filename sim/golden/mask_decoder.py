"""SAM's mask decoder for one mask: two-way transformer, upscaling, hypernetwork of mask token 0, IoU head.

Kirillov et al., Segment Anything, section 3 and appendix A. A single box asks for a single mask, so the
hypernetworks of the other three mask tokens are not evaluated (and not exported).

Projections, MLPs and attention are integer operations; norms, additions, ReLU, upscaling and the narrow last layer
of each head are float32.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.contract.wide import Wide
from sim.golden.convolution import transposed_2x2
from sim.golden.gelu import gelu
from sim.golden.normalization import LAYER_NORM_2D_EPSILON
from sim.golden.parameters import Parameters
from sim.golden.prompt_encoder import Prompt

Tokens: TypeAlias = NDArray[np.float32]
"""(tokens, channels)"""


@dataclass(frozen=True)
class MaskDecoderShape:
    """What the tensors do not tell: layers and attention heads of the transformer."""

    depth: int
    heads: int


HEAD_LAYERS: Final = 3
"""Linear layers of a hypernetwork and of the IoU head."""


def _relu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(x, np.float32(0))


def attention(name: str, q: Tokens, k: Tokens, v: Tokens, *, heads: int, parameters: Parameters) -> Tokens:
    """Multi-head attention with its own projections: (queries, C), (keys, C), (keys, C) to (queries, C).

    From the projections of its operands to the projection of its result, values stay integers.
    """

    def project(part: str, x: Tokens) -> Wide:
        return parameters.linear(f"{name}.{part}", parameters.entering(f"{name}.{part}", x[None]))

    mixed = parameters.attention(
        f"{name}.attend", project("q_proj", q), project("k_proj", k), project("v_proj", v), heads=heads
    )
    return parameters.linear(f"{name}.out_proj", mixed.with_values(mixed.values[0])).real()


def two_way_transformer(
    name: str, image: Tokens, position: Tokens, tokens: Tokens, *, shape: MaskDecoderShape, parameters: Parameters
) -> tuple[Tokens, Tokens]:
    """Tokens attend to themselves and to the image, the image to the tokens; returns (tokens, image).

    image, position: (pixels, C). tokens: (tokens, C); they serve as their own positional encoding. The first
    self-attention runs without that encoding and without a residual.
    """
    queries, keys = tokens, image
    for index in range(shape.depth):
        layer = f"{name}.layers.{index}"
        if index == 0:
            queries = attention(
                f"{layer}.self_attn", queries, queries, queries, heads=shape.heads, parameters=parameters
            )
        else:
            q = queries + tokens
            queries = queries + attention(f"{layer}.self_attn", q, q, queries, heads=shape.heads, parameters=parameters)
        queries = parameters.float_norm(f"{layer}.norm1", queries)

        cross = f"{layer}.cross_attn_token_to_image"
        queries = queries + attention(
            cross, queries + tokens, keys + position, keys, heads=shape.heads, parameters=parameters
        )
        queries = parameters.float_norm(f"{layer}.norm2", queries)

        hidden = _relu(parameters.float_linear(f"{layer}.mlp.lin1", queries))
        queries = parameters.float_norm(
            f"{layer}.norm3", queries + parameters.float_linear(f"{layer}.mlp.lin2", hidden)
        )

        cross = f"{layer}.cross_attn_image_to_token"
        keys = keys + attention(
            cross, keys + position, queries + tokens, queries, heads=shape.heads, parameters=parameters
        )
        keys = parameters.float_norm(f"{layer}.norm4", keys)

    final = f"{name}.final_attn_token_to_image"
    queries = queries + attention(
        final, queries + tokens, keys + position, keys, heads=shape.heads, parameters=parameters
    )
    return parameters.float_norm(f"{name}.norm_final_attn", queries), keys


def mlp_head(name: str, x: Tokens, parameters: Parameters) -> Tokens:
    """HEAD_LAYERS linear layers with ReLU between them; the last, narrow one is float."""
    last = f"{name}.layers.{HEAD_LAYERS - 1}"
    for index in range(HEAD_LAYERS - 1):
        x = _relu(parameters.float_linear(f"{name}.layers.{index}", x))
    return x @ parameters.tensor(f"{last}.weight").T + parameters.tensor(f"{last}.bias")


def upscale(name: str, x: NDArray[np.float32], parameters: Parameters) -> NDArray[np.float32]:
    """Two transposed convolutions: (rows, columns, C) to (4 * rows, 4 * columns, C / 8)."""
    x = transposed_2x2(x, parameters.tensor(f"{name}.0.weight"), parameters.tensor(f"{name}.0.bias"))
    x = parameters.float_norm(f"{name}.1", x, LAYER_NORM_2D_EPSILON)
    x = transposed_2x2(gelu(x), parameters.tensor(f"{name}.3.weight"), parameters.tensor(f"{name}.3.bias"))
    return gelu(x)


def decode_mask(
    embedding: NDArray[np.float32],
    prompt: Prompt,
    shape: MaskDecoderShape,
    parameters: Parameters,
    name: str = "mask_decoder",
) -> tuple[NDArray[np.float32], float]:
    """Mask logits float32 (4 * rows, 4 * columns) and the predicted IoU for an embedding (rows, columns, C)."""
    rows, columns, channels = embedding.shape
    iou_token = parameters.tensor(f"{name}.iou_token.weight")
    mask_tokens = parameters.tensor(f"{name}.mask_tokens.weight")
    tokens, image = two_way_transformer(
        f"{name}.transformer",
        (embedding + prompt.dense).reshape(rows * columns, channels),
        prompt.position.reshape(rows * columns, channels),
        np.concatenate([iou_token, mask_tokens, prompt.tokens]),
        shape=shape,
        parameters=parameters,
    )
    upscaled = upscale(f"{name}.output_upscaling", image.reshape(rows, columns, channels), parameters)
    weights = mlp_head(f"{name}.output_hypernetworks_mlps.0", tokens[1:2], parameters)
    quality = mlp_head(f"{name}.iou_prediction_head", tokens[0:1], parameters)
    return upscaled @ weights[0], float(quality[0, 0])
