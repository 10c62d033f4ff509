"""The exported model as fake quantization: the same codes, levels and weights, but float arithmetic around them.

Every value that the integer model rounds to a code is rounded here too, by the same encoder; everything else (results
of layers, LayerNorm, GELU, softmax, sums) is float64 and unrounded. What separates the two is therefore what integers
cost beyond the codes. Compared operation by operation on the same inputs, and mask by mask as a whole model.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quant.integers import gelu_real
from sim.contract.activation_table import ActivationTable
from sim.contract.arithmetic import signed_limits
from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.constants import BIAS_FRACTION_BITS, SCALE_FRACTION_BITS, WIDE_BITS
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import ENCODER_INDICES, Encoder, half_step_table
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import NORM_FRACTION_BITS, LayerNorm
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.softmax import LOG_FRACTION_BITS
from sim.contract.wide import Wide
from sim.golden.parameters import Codes, Executed, Parameters

Real = NDArray[np.float64]

CHUNK_TOKENS: Final = 16384


def float_levels(encoder: Encoder, x: Real) -> Real:
    """Levels (..., C) in permuted order of inputs in steps of the encoder's exponent, which need not be whole."""
    levels = np.empty(x.shape, np.float64)
    for tile, positions in enumerate(encoder.tile_slices()):
        index = x[..., encoder.permutation[positions]] * encoder.multiplier[positions] + encoder.addend[positions]
        entry = np.clip(np.floor(np.ldexp(index, -int(encoder.shift[tile]))), 0, ENCODER_INDICES - 1).astype(np.int64)
        codes = half_step_table(encoder.tile_levels(tile))[entry]
        row = encoder.tile_levels(tile).astype(np.float64)
        levels[..., positions] = codes.astype(np.float64) - 128 if encoder.code_planes == 2 else row[codes]
    return levels


def _dense(layer: QuantizedLayer, x: Real) -> Real:
    tokens = x.reshape(-1, x.shape[-1])
    result = np.empty((tokens.shape[0], layer.outputs))
    for start in range(0, tokens.shape[0], CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        result[chunk] = np.ldexp(layer.products(float_levels(layer.encoder, tokens[chunk])), -SCALE_FRACTION_BITS)
    result += np.ldexp(layer.bias.astype(float), -BIAS_FRACTION_BITS)
    return result.reshape(*x.shape[:-1], layer.outputs)


def _layer_norm(norm: LayerNorm, x: Real) -> Real:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True) + norm.epsilon / norm.gain.size**2
    normal = np.ldexp(centred / np.sqrt(variance), NORM_FRACTION_BITS)
    return np.ldexp(normal * norm.gain + norm.bias, -norm.shift)


def _depthwise(layer: Depthwise, x: Real) -> Real:
    rows, columns, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    stride = layer.stride
    total = np.zeros((-(-rows // stride), -(-columns // stride), channels))
    for ky in range(3):
        for kx in range(3):
            total += padded[ky : ky + rows : stride, kx : kx + columns : stride] * layer.weight[:, ky, kx]
    return np.ldexp(total * layer.multiplier + layer.bias, -layer.shift)


def _position(attention: Attention, q: Real) -> Real | float:
    """Bias of the logits, in their steps, unrounded."""
    bias = attention.position
    if isinstance(bias, StaticBias):
        return bias.pairs.astype(np.float64)
    if not isinstance(bias, DecomposedBias):
        return 0.0
    pixel = np.arange(bias.rows * bias.columns)
    parts = []
    for table, scale, side, place in (
        (bias.rel_rows, bias.row_scale, bias.rows, pixel // bias.columns),
        (bias.rel_columns, bias.column_scale, bias.columns, pixel % bias.columns),
    ):
        sums = q @ np.swapaxes(table.astype(float), -1, -2)
        sums *= np.ldexp(scale.astype(float), -SCALE_FRACTION_BITS)[:, None, None]
        index = place[:, None] - np.arange(side) + side - 1
        parts.append(np.take_along_axis(sums, index[None, None], axis=-1))
    return (parts[0][..., :, None] + parts[1][..., None, :]).reshape(*q.shape[:-1], -1)


def _attention(attention: Attention, q: Real, k: Real, v: Real) -> Real:
    heads = attention.heads

    def split(encoder: Encoder, x: Real) -> Real:
        levels = float_levels(encoder, x)
        return levels.reshape(*levels.shape[:2], heads, -1).swapaxes(1, 2)

    result = np.empty(q.shape)
    for window in range(q.shape[0]):
        at = slice(window, window + 1)
        q_level, k_level, v_level = split(attention.q, q[at]), split(attention.k, k[at]), split(attention.v, v[at])
        for head in range(heads):
            one = slice(head, head + 1)
            logits = q_level[:, one] @ k_level[:, one].swapaxes(-1, -2)
            logits *= np.ldexp(float(attention.logit_scale[head]), -attention.logit_shift)
            position = _position(attention, q_level)
            logits += position[..., one, :, :] if isinstance(position, np.ndarray) else position
            distance = np.ldexp(logits.max(axis=-1, keepdims=True) - logits, -LOG_FRACTION_BITS)
            score = np.exp2(-distance)
            far = (-np.log2(score / score.sum(axis=-1, keepdims=True) + 1e-300)) * (1 << LOG_FRACTION_BITS)
            # Thresholds are rounded down to whole steps, where integers are compared; the middle of the step is fair.
            count = attention.thresholds.size - np.searchsorted(np.sort(attention.thresholds) + 1.0, far, side="left")
            mixed = attention.score_levels.astype(np.float64)[count] @ v_level[:, one]
            width = mixed.shape[-1]
            result[window, :, head * width : (head + 1) * width] = mixed[0, 0]
    scaled: Real = result * np.ldexp(attention.scale.astype(float), -SCALE_FRACTION_BITS)
    return scaled + np.ldexp(attention.bias.astype(float), -BIAS_FRACTION_BITS)


def float_result(operation: Operation, inputs: tuple[Wide, ...]) -> Real:
    """What an operation gives without rounding, in steps of its wide exponent; inputs may be real numbers of steps."""
    x = [one.values.astype(np.float64) for one in inputs]
    if isinstance(operation, QuantizedLayer):
        return _dense(operation, x[0])
    if isinstance(operation, LayerNorm):
        return _layer_norm(operation, x[0])
    if isinstance(operation, Depthwise):
        return _depthwise(operation, x[0])
    if isinstance(operation, Attention):
        return _attention(operation, *x)
    if isinstance(operation, Residual):
        total = np.ldexp(x[0], inputs[0].exponent) + np.ldexp(x[1], inputs[1].exponent)
        return np.ldexp(total, -operation.wide_exponent)
    return np.ldexp(gelu_real(np.ldexp(x[0], inputs[0].exponent)), -operation.wide_exponent)


class FakeQuantParameters(Parameters):
    """Parameters whose operations round codes and nothing else: wide values are real numbers of steps (float64)."""

    def execute(self, operation: Operation, inputs: tuple[Wide, ...]) -> tuple[Codes, Wide]:
        """No codes, and the unrounded result."""
        return None, Wide(float_result(operation, inputs), operation.wide_exponent)  # type: ignore[arg-type]


PIECE: Final = 8
"""Map rows, or windows, of each operation that are compared."""

_REASONS: Final[dict[type, str]] = {
    QuantizedLayer: "result rounded to 16 bits: at most half a step",
    LayerNorm: "normalised value rounded to 10 fraction bits and multiplied by the gain, then rounded",
    ActivationTable: "GELU from 1,025 samples, interpolated",
    Residual: "sum rounded to 16 bits: at most half a step",
    Depthwise: "result rounded to 16 bits: at most half a step",
    Attention: "logits rounded to 2**-9 of log2; where a probability lies on a threshold its code may be the next one",
}


def agreement(executed: Executed) -> dict[str, Any]:
    """Differences of an operation's integers from `float_result` on the same inputs, over the first PIECE rows.

    Errors are in wide steps (least significant bits). relative_error: root of the mean squared error over that of the
    float result. saturated: results at the ends of 16 bits, counted and not compared.
    """
    operation = executed.operation
    pieces = tuple(one.with_values(one.values[:PIECE]) for one in executed.inputs)
    wide = Parameters({}, {}).execute(operation, pieces)[1].values
    expected = float_result(operation, pieces)
    low, high = signed_limits(WIDE_BITS)
    inside = (wide > low) & (wide < high)
    error = np.abs(wide - expected)[inside]
    power = float(np.square(expected[inside]).mean()) if error.size else 0.0
    return {
        "name": executed.name,
        "kind": type(operation).__name__,
        "max_abs_error_lsb": float(error.max(initial=0.0)),
        "mean_abs_error_lsb": float(error.mean()) if error.size else 0.0,
        "relative_error": float(np.sqrt(np.square(error).mean() / max(power, 1e-30))) if error.size else 0.0,
        "saturated": int((~inside).sum()),
        "explanation": _REASONS[type(operation)],
    }
