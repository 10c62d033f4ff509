"""Codes and wide results of one layer for one picture: what a bench sends to the hardware and expects back."""

import difflib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.golden.model import GoldenModel
from sim.golden.parameters import Executed
from sim.picture import Box, preprocess


@dataclass(frozen=True)
class LayerTap:
    """What went into and came out of a dense layer.

    codes: uint8 (..., K), the 4-bit codes of its array form, passes included. wide: int16 (..., N). The leading axes
    are those of the network: (windows, tokens) for qkv and in the attention of the mask decoder, (rows, columns) in
    the other layers of the image encoder, (tokens,) in those of the mask decoder; flattened, tokens are in the order
    in which the layer sees them.
    """

    name: str
    codes: NDArray[np.uint8]
    wide: NDArray[np.int16]


class _ReachedError(Exception):
    """Ends the forward pass once the wanted operation has run."""

    def __init__(self, executed: Executed) -> None:
        super().__init__(executed.name)
        self.executed = executed


def executed_operation(model: GoldenModel, picture: NDArray[np.uint8], name: str, box: Box | None = None) -> Executed:
    """Run `model` on a picture up to the operation `name` and return that operation as it ran.

    picture: uint8 RGB (height, width, 3). box: x0, y0, x1, y1 in pixels of the picture, used by the mask decoder; the
    whole picture by default. Raises UserError when the network never runs such an operation.
    """

    def stop(reached: str, executed: Executed) -> None:
        if reached == name:
            raise _ReachedError(executed)

    prepared = preprocess(picture, model.architecture.input_format)
    height, width = picture.shape[:2]
    try:
        embedding = model.encode_image(prepared.pixels, stop)
        model.decode(embedding, prepared.scale_box(box or (0, 0, width, height)), stop)
    except _ReachedError as reached:
        return reached.executed
    raise UserError(f"the network never runs its layer {name}; export the model again")


def layer_codes(model: GoldenModel, picture: NDArray[np.uint8], layer_name: str, box: Box | None = None) -> LayerTap:
    """Run `model` on a picture up to one dense layer and return that layer's codes and wide results.

    picture: uint8 RGB (height, width, 3). layer_name: for example `image_encoder.layers.2.blocks.0.attn.qkv`.
    box: x0, y0, x1, y1 in pixels of the picture, used by the layers of the mask decoder; the whole picture by
    default. Raises UserError when the model has no such dense layer.
    """
    operations = model.parameters.operations
    names = [name for name, operation in operations.items() if isinstance(operation, QuantizedLayer)]
    if layer_name not in names:
        close = difflib.get_close_matches(layer_name, names, n=3, cutoff=0.0)
        raise UserError(f"the model has no dense layer {layer_name}; the nearest names are {', '.join(close)}")
    layer = model.parameters.operation(layer_name, QuantizedLayer)
    executed = executed_operation(model, picture, layer_name, box)
    assert isinstance(executed.codes, np.ndarray)
    return LayerTap(layer_name, layer.array_codes(executed.codes), executed.output.values)
