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


def float_mask(picture: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """Mask bool (height, width) of one box on a picture uint8 RGB (height, width, 3), in float32."""
    prepared = preprocess(picture)
    with torch.inference_mode():
        embedding = run(float_model().encoder_steps(prepared))
        logits, _ = run(float_model().prompt_steps(embedding, prepared, [box]))
    return mask_from_logits(logits[0].numpy(), prepared)


def checkpoint_bytes() -> int:
    """Size of the float checkpoint in bytes."""
    return checkpoint.locate().stat().st_size
