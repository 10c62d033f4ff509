"""The float model as a reference: its masks, its size."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quant.models import checkpoint
from quant.models.layer_call import run
from quant.models.promptable import PromptableModel
from quant.models.registry import load_model
from sim.contract.errors import UserError
from sim.picture import Box, mask_from_logits, preprocess


class FloatReference:
    """The float model that a folder was made from.

    manifest: of the folder. path: of its checkpoint, None for the installed one or synthetic weights. Raises UserError
    when the checkpoint is missing, altered, or another one than the folder was made from.
    """

    def __init__(self, manifest: Mapping[str, Any], path: Path | None = None) -> None:
        source = manifest["source"]
        synthetic = not source.get("sha256")
        if synthetic and path is not None:
            raise UserError("the model was made from synthetic weights; leave --checkpoint out")
        if path is not None and source["sha256"]:
            checkpoint.verify(path, source["sha256"])
        seed = int(manifest.get("created", {}).get("seed", 0))
        self.model: PromptableModel = load_model(str(manifest["model"]), path, synthetic, seed)

    def masks(self, picture: NDArray[np.uint8], boxes: Sequence[Box]) -> list[NDArray[np.bool_]]:
        """Masks bool (height, width), one per box, of a picture uint8 RGB (height, width, 3)."""
        prepared = preprocess(picture, self.model.input_format)
        with torch.inference_mode():
            embedding = run(self.model.encoder_steps(prepared))
            logits, _ = run(self.model.prompt_steps(embedding, prepared, list(boxes)))
        return [mask_from_logits(one.numpy(), prepared) for one in logits]


@cache
def _lite_medsam() -> FloatReference:
    return FloatReference({"source": {"sha256": checkpoint.LITE_MEDSAM.sha256}, "model": "lite_medsam"})


def float_mask(picture: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """LiteMedSAM's float mask of one box on a picture uint8 RGB (height, width, 3)."""
    return _lite_medsam().masks(picture, [box])[0]


def checkpoint_bytes() -> int:
    """Size of LiteMedSAM's float checkpoint in bytes."""
    return checkpoint.locate().stat().st_size
