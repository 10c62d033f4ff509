"""The float models by name: where their weights come from, and whether the hardware can run them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from quant.models.checkpoint import LITE_MEDSAM as LITE_MEDSAM_WEIGHTS
from quant.models.checkpoint import locate
from quant.models.lite_medsam import LiteMedSam, load_lite_medsam
from quant.models.promptable import PromptableModel
from quant.models.sam import SHAPES, SOURCE, SamVit, load_sam, synthetic_sam
from sim.contract.attention import MAX_KEYS
from sim.contract.errors import UserError
from sim.picture import LITE_MEDSAM, InputFormat

HEAD_CHANNELS_STEP: Final = 8
HEAD_CHANNELS_LIMIT: Final = 128
"""Limits of the attention hardware on the channels of a head, a multiple of the step."""


@dataclass(frozen=True)
class ModelSpec:
    """One model by name.

    checkpoint_file: name of the published weights, empty where there are none. license, origin: of the weights, for
    the manifest. needs_checkpoint: without a path there are no weights. can_be_synthetic: random weights exist.
    """

    name: str
    input_format: InputFormat
    checkpoint_file: str
    license: str
    origin: str
    needs_checkpoint: bool
    can_be_synthetic: bool

    @property
    def input_side(self) -> int:
        """Side of the encoder's square in pixels."""
        return self.input_format.side

    def source(self, path: Path | None, *, synthetic: bool, seed: int) -> dict[str, str]:
        """Where weights came from, for the manifest; the arguments are those of `load_model`."""
        if synthetic or (path is None and not self.checkpoint_file):
            return {"file": "", "sha256": "", "license": "", "origin": f"synthetic weights, seed {seed}"}
        if path is None:
            path = locate()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": path.name, "sha256": digest, "license": self.license, "origin": self.origin}


MODELS: Final = {
    "lite_medsam": ModelSpec(
        name="lite_medsam",
        input_format=LITE_MEDSAM,
        checkpoint_file=LITE_MEDSAM_WEIGHTS.file,
        license=LITE_MEDSAM_WEIGHTS.license,
        origin=LITE_MEDSAM_WEIGHTS.origin,
        needs_checkpoint=False,
        can_be_synthetic=False,
    )
} | {
    name: ModelSpec(
        name=name,
        input_format=shape.input_format,
        checkpoint_file=shape.file,
        license="Apache-2.0",
        origin=f"given by the user; published at {SOURCE}" if shape.file else "given by the user",
        needs_checkpoint=bool(shape.file),
        can_be_synthetic=True,
    )
    for name, shape in SHAPES.items()
}


def model_spec(name: str) -> ModelSpec:
    """The model of that name. Raises UserError that lists the names."""
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    return MODELS[name]


def load_model(name: str, checkpoint: Path | None = None, synthetic: bool = False, seed: int = 0) -> PromptableModel:
    """A float model in evaluation mode.

    checkpoint: path of its weights; LiteMedSAM finds its own, vit_test has synthetic ones. synthetic: seeded random
    weights instead. Raises UserError for an unknown name, weights that are missing, damaged or another model's, or
    a combination that makes no sense.
    """
    spec = model_spec(name)
    if synthetic and checkpoint is not None:
        raise UserError("synthetic weights and a checkpoint exclude each other; give one of the two")
    if name == "lite_medsam":
        if synthetic:
            raise UserError("lite_medsam has no synthetic weights; leave --synthetic out, its own are installed")
        return load_lite_medsam(checkpoint)
    if checkpoint is not None:
        return load_sam(SHAPES[name], checkpoint)
    if spec.needs_checkpoint and not synthetic:
        raise UserError(
            f"{name} needs its weights: download {spec.checkpoint_file} from {SOURCE} and give --checkpoint PATH, "
            "or try the tools with --synthetic"
        )
    return synthetic_sam(SHAPES[name], seed)


def shape_only(name: str) -> PromptableModel:
    """A model without memory for its weights, for its names and shapes. Raises UserError for an unknown name."""
    model_spec(name)
    with torch.device("meta"):
        return LiteMedSam() if name == "lite_medsam" else SamVit(SHAPES[name])


def check_hardware_limits(model: PromptableModel) -> None:
    """Raise UserError, naming the attention and the limit, when the hardware cannot run a model."""
    for one in [*model.encoder_attention(), *model.decoder_attention()]:
        if one.head_channels % HEAD_CHANNELS_STEP or one.head_channels > HEAD_CHANNELS_LIMIT:
            raise UserError(
                f"{one.name} has heads of {one.head_channels} channels; the hardware takes multiples of "
                f"{HEAD_CHANNELS_STEP} up to {HEAD_CHANNELS_LIMIT}; choose a model with such heads"
            )
        if one.keys > MAX_KEYS:
            raise UserError(
                f"{one.name} has {one.keys} keys per row; the hardware takes at most {MAX_KEYS}; "
                "choose a smaller input side or window"
            )
