"""A model checked before it runs: the network functions on zeros that take no memory and no arithmetic.

The same functions that run the model say which operations it needs, in which order, and with which widths and
exponents, so no second list of names can come apart from them.
"""

from collections.abc import Callable

import numpy as np

from sim.contract.activation_table import ActivationTable
from sim.contract.attention import MAX_KEYS, Attention, DecomposedBias, StaticBias
from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide
from sim.golden.parameters import Codes, Executed, Parameters


def blank(shape: tuple[int, ...], exponent: int) -> Wide:
    """Zeros of any shape in two bytes of memory, not writable."""
    return Wide(np.broadcast_to(np.int16(0), shape), exponent)


def _expected_inputs(operation: Operation) -> list[tuple[int | None, int]]:
    """(channels or None for any, exponent) of each input."""
    if isinstance(operation, QuantizedLayer):
        return [(operation.encoder.channels, operation.encoder.input_exponent)]
    if isinstance(operation, Attention):
        return [(one.channels, one.input_exponent) for one in (operation.q, operation.k, operation.v)]
    if isinstance(operation, Residual):
        return [(None, operation.first_exponent), (None, operation.second_exponent)]
    if isinstance(operation, ActivationTable):
        return [(None, operation.input_exponent)]
    channels = operation.gain.size if isinstance(operation, LayerNorm) else operation.multiplier.size
    return [(int(channels), operation.input_exponent)]


def _check_position(operation: Attention, queries: int, keys: int) -> None:
    """Raise UserError unless the bias of an attention is made for windows of so many pixels."""
    bias = operation.position
    if isinstance(bias, StaticBias | DecomposedBias):
        pixels = bias.window**2 if isinstance(bias, StaticBias) else bias.rows * bias.columns
        if pixels != queries or pixels != keys:
            raise UserError(
                f"{operation.name} has positions for windows of {pixels} pixels, the network's have {queries}; "
                "export the model again"
            )
    if keys > MAX_KEYS:
        raise UserError(f"{operation.name} gets {keys} keys, at most {MAX_KEYS} are possible; export a smaller model")


def result_shape(operation: Operation, inputs: tuple[Wide, ...]) -> tuple[int, ...]:
    """Shape of an operation's result. Raises UserError when the inputs do not fit the operation."""
    for x, (channels, exponent) in zip(inputs, _expected_inputs(operation), strict=True):
        if x.exponent != exponent or channels not in (None, x.values.shape[-1]):
            expected = f"{'any' if channels is None else channels} channels at exponent {exponent}"
            raise UserError(
                f"{operation.name} takes {expected}, the network gives it {x.values.shape[-1]} at {x.exponent}; "
                "export the model again"
            )
    shape = inputs[0].values.shape
    if isinstance(operation, QuantizedLayer):
        return (*shape[:-1], operation.outputs)
    if isinstance(operation, Depthwise):
        return (-(-shape[0] // operation.stride), -(-shape[1] // operation.stride), shape[2])
    if isinstance(operation, Residual) and inputs[1].values.shape != shape:
        raise UserError(f"{operation.name} adds {shape} and {inputs[1].values.shape}; export the model again")
    if isinstance(operation, Attention):
        _check_position(operation, shape[1], inputs[1].values.shape[1])
    return shape


class Rehearsal(Parameters):
    """Parameters whose operations check their inputs and compute nothing: results are zeros of the right shape."""

    def execute(self, operation: Operation, inputs: tuple[Wide, ...]) -> tuple[Codes, Wide]:
        """No codes, and blank results. Raises UserError when the inputs do not fit."""
        return None, blank(result_shape(operation, inputs), operation.wide_exponent)


def rehearse(parameters: Parameters, network: Callable[[Parameters], object]) -> list[str]:
    """Names of the operations that `network` runs, in order.

    Raises UserError that names the first operation that is missing, of another kind or does not fit, or a tensor
    that is missing or of another shape.
    """
    names: list[str] = []

    def note(name: str, _executed: Executed) -> None:
        names.append(name)

    try:
        network(Rehearsal(parameters.tensors, parameters.operations, note))
    except ValueError as error:
        raise UserError(
            f"the model's tensors behind {names[-1] if names else 'its input'} do not fit its architecture ({error}); "
            "export the model again"
        ) from error
    return names
