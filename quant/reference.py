"""The float model as a reference: its masks, its size."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from quant.models import checkpoint
from quant.models.layer_call import run
from quant.models.lite_medsam import LiteMedSam, load_lite_medsam
from sim.picture import Box, mask_from_logits, preprocess


@cache
def float_model() -> LiteMedSam:
    """The pretrained float model, loaded once. Raises UserError when its checkpoint is missing or altered."""
    return load_lite_medsam()


def float_masks(picture: NDArray[np.uint8], boxes: list[Box]) -> list[NDArray[np.bool_]]:
    """Masks bool (height, width) of a picture uint8 RGB (height, width, 3), one per box, in float32."""
    model, prepared = float_model(), preprocess(picture)
    with torch.inference_mode():
        embedding = run(model.encoder_steps(prepared))
        logits = run(model.prompt_steps(embedding, prepared, boxes))
    return [mask_from_logits(plane.numpy(), prepared) for plane in logits]


def float_mask(picture: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """The float mask of one box."""
    return float_masks(picture, [box])[0]


def checkpoint_bytes() -> int:
    """Size of the float checkpoint in bytes."""
    return checkpoint.locate().stat().st_size
