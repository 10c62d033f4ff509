"""The float model as a reference: its masks, its size."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from quant.models import checkpoint
from quant.models.layer_call import run
from quant.models.lite_medsam import LiteMedSam, load_lite_medsam
from sim.picture import Box, Preprocessed, mask_from_logits, preprocess


@cache
def float_model() -> LiteMedSam:
    """The pretrained float model, loaded once. Raises UserError when its checkpoint is missing or altered."""
    return load_lite_medsam()


def float_masks(prepared: Preprocessed, boxes: Sequence[Box]) -> list[NDArray[np.bool_]]:
    """The float model's masks bool (height, width) of a prepared picture, one per box."""
    model = float_model()
    with torch.inference_mode():
        embedding = run(model.encoder_steps(prepared))
        logits, _ = run(model.prompt_steps(embedding, prepared, list(boxes)))
    return [mask_from_logits(one.numpy(), prepared) for one in logits]


def float_mask(picture: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """The float model's mask of one box on a picture uint8 RGB (height, width, 3)."""
    return float_masks(preprocess(picture), [box])[0]


def checkpoint_bytes() -> int:
    """Size of the float checkpoint in bytes."""
    return checkpoint.locate().stat().st_size
