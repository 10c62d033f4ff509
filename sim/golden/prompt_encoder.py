"""SAM's prompt encoder for a box: two corner tokens, a dense positional encoding and the no-mask embedding.

Kirillov et al., Segment Anything, appendix A; random Fourier features of Tancik et al. 2020, equation 5.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.golden.parameters import Parameters


@dataclass(frozen=True)
class Prompt:
    """What the mask decoder is told besides the image.

    tokens: float32 (2, C), corners of the box. dense: float32 (C,), added to every pixel of the image
    embedding, here the embedding of "no mask given". position: float32 (rows, columns, C), positional
    encoding of the image embedding.
    """

    tokens: NDArray[np.float32]
    dense: NDArray[np.float32]
    position: NDArray[np.float32]


def encode_position(points: NDArray[np.float32], frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fourier features of points: float32 (..., 2) as (x, y) in [0, 1] to float32 (..., 2 * features).

    frequencies: (2, features). Sines first, then cosines.
    """
    phase = ((2 * points - 1) @ frequencies) * np.float32(2 * np.pi)
    return np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)


def encode_grid(shape: tuple[int, int], parameters: Parameters, name: str = "prompt_encoder") -> NDArray[np.float32]:
    """Positional encoding of the pixel centres of a map of `shape` (rows, columns): float32 (rows, columns, C)."""
    rows, columns = shape
    y = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) / np.float32(rows)
    x = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) / np.float32(columns)
    points = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)
    return encode_position(points, parameters.tensor(f"{name}.pe_layer.positional_encoding_gaussian_matrix"))


def encode_box(
    box: NDArray[np.float32], side: int, parameters: Parameters, name: str = "prompt_encoder"
) -> NDArray[np.float32]:
    """Tokens of a box's corners: float32 (2, channels).

    box: float32 (4,), x0, y0, x1, y1 in pixels of the encoder's input, which is `side` pixels square.
    """
    corners = (box.reshape(2, 2).astype(np.float32) + np.float32(0.5)) / np.float32(side)
    tokens = encode_position(corners, parameters.tensor(f"{name}.pe_layer.positional_encoding_gaussian_matrix"))
    tokens[0] += parameters.tensor(f"{name}.point_embeddings.2.weight")[0]
    tokens[1] += parameters.tensor(f"{name}.point_embeddings.3.weight")[0]
    return tokens


def encode_prompt(
    box: NDArray[np.float32], side: int, shape: tuple[int, int], parameters: Parameters, name: str = "prompt_encoder"
) -> Prompt:
    """The prompt of one box for an image embedding of `shape` (rows, columns); `box` and `side` as in `encode_box`."""
    return Prompt(
        tokens=encode_box(box, side, parameters, name),
        dense=parameters.tensor(f"{name}.no_mask_embed.weight")[0],
        position=encode_grid(shape, parameters, name),
    )
