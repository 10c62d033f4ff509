"""How far a quantized layer in integers is from its float twin, both fed the very same codes.

The twin multiplies dequantized codes by dequantized weights in float64 and rounds nothing. Three things
separate them: the integer layer rounds its output to a whole wide step (at most 1/2 step), its scales to 16-bit
mantissas (at most half a mantissa step per unit of tile sum) and its bias to 1/256 of a step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract.arithmetic import signed_limits
from sim.contract.constants import BIAS_FRACTION_BITS, SCALE_FRACTION_BITS, WIDE_BITS
from sim.contract.linear import QuantizedLinear

BIAS_ROUNDING_STEPS = 0.5 / (1 << BIAS_FRACTION_BITS)


@dataclass(frozen=True)
class FloatTwin:
    """Float operands of a layer. weight: float64 (N, K) in permuted order, scales multiplied in. bias: float64 (N,),
    the real bias, no offset folded in."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def of(cls, layer: QuantizedLinear) -> "FloatTwin":
        """The twin that a folder tells: the layer's own operands, its bias freed of the offsets."""
        tile = np.repeat(range(layer.tiles), [at.stop - at.start for _, at in layer.tile_slices()])
        scale = np.ldexp(layer.scale.astype(np.float64), layer.wide_exponent - SCALE_FRACTION_BITS)
        weight = layer.weight * (scale / layer.activation_scale.astype(np.float64)[:, None])[tile].T
        folded = np.ldexp(layer.bias.astype(np.float64), layer.wide_exponent - BIAS_FRACTION_BITS)
        offset = layer.activation_offset.astype(np.float64) * layer.activation_scale.astype(np.float64)[tile]
        return cls(weight, folded - weight @ offset)


def dequantize(codes: NDArray[np.uint8], layer: QuantizedLinear) -> NDArray[np.float64]:
    """What codes (tokens, K) stand for: float64 (tokens, K), permuted order."""
    real = np.empty(codes.shape, np.float64)
    for tile, positions in layer.tile_slices():
        level = layer.codebooks[tile].astype(np.float64)[codes[:, positions]]
        real[:, positions] = (level + layer.activation_offset[positions]) * float(layer.activation_scale[tile])
    return real


def compare(
    codes: NDArray[np.uint8], wide: NDArray[np.int16], layer: QuantizedLinear, twin: FloatTwin
) -> dict[str, Any]:
    """Differences of wide results int16 (tokens, N) from the twin's outputs on the same codes (tokens, K).

    Errors are in wide steps (least significant bits); `relative` is the mean error over the mean magnitude of the
    twin's outputs. `bound` is what rounding allows: 1/2 for the output, the worst scale rounding over these codes,
    and the bias. Saturated results are counted, not compared.
    """
    expected = np.ldexp(dequantize(codes, layer) @ twin.weight.T + twin.bias, -layer.wide_exponent)
    low, high = signed_limits(WIDE_BITS)
    inside = (wide > low) & (wide < high)
    error = np.abs(wide - expected)[inside]
    levels = np.abs(
        np.stack(
            [
                layer.codebooks[tile][codes[:, at]].astype(int) @ layer.weight[:, at].T.astype(int)
                for tile, at in layer.tile_slices()
            ]
        )
    )
    scale_rounding = float(levels.sum(axis=0).max()) * 0.5 / (1 << SCALE_FRACTION_BITS)
    largest = float(error.max(initial=0.0))
    bound = 0.5 + scale_rounding + BIAS_ROUNDING_STEPS
    return {
        "name": layer.name,
        "max_abs_error_lsb": largest,
        "mean_abs_error_lsb": float(error.mean()) if error.size else 0.0,
        "relative_error": float(error.mean() / max(float(np.abs(expected[inside]).mean()), 1e-12))
        if error.size
        else 0.0,
        "bound_lsb": bound,
        "saturated": int((~inside).sum()),
        "explanation": (
            f"output rounded to 16 bits: up to 0.5; scales rounded to 16-bit mantissas: up to {scale_rounding:.3f} on "
            f"these codes; bias rounded to 1/256: up to {BIAS_ROUNDING_STEPS:.3f}"
        ),
    }
