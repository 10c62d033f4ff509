"""LayerNorm over the last axis. On channel-last maps SAM's `LayerNorm2d` is the same operation."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LAYER_NORM_EPSILON: Final = 1e-5
"""Of the LayerNorms in transformers (PyTorch's default)."""

LAYER_NORM_2D_EPSILON: Final = 1e-6
"""Of the channel LayerNorms of SAM's neck and mask upscaling."""


def layer_norm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    epsilon: float = LAYER_NORM_EPSILON,
) -> NDArray[np.float32]:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis, biased variance, float32.

    Ba, Kiros, Hinton, Layer Normalization, equation 4. `weight`, `bias`: (channels,).
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    centred /= np.sqrt(variance + np.float32(epsilon))
    centred *= weight
    centred += bias
    return centred
