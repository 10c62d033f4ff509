"""The numbers of a network that its tensors do not tell, read from the manifest and checked against the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.golden.mask_decoder import MaskDecoderShape
from sim.golden.normalization import LAYER_NORM_2D_EPSILON, LAYER_NORM_EPSILON
from sim.golden.tinyvit import StageShape
from sim.picture import INPUT_SIDE

ENCODER: Final = "image_encoder"
"""Module name of the image encoder: the names of its layers start with it and a dot."""


EPSILONS: Final = {"transformer": LAYER_NORM_EPSILON, "channels_first": LAYER_NORM_2D_EPSILON}
"""The only ones that the network functions know."""


def _object(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {entry!r}; export the model again")
    return entry


def _integer(entry: Mapping[str, Any], key: str, low: int, high: int, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not low <= value <= high:
        limits = f"{low}" if low == high else f"an integer from {low} to {high}"
        raise UserError(f"{where}: {key} must be {limits}, found {value!r}; export the model again")
    return value


def _stage(entry: Any, where: str) -> StageShape:
    stage = _object(entry, where)
    return StageShape(
        depth=_integer(stage, "depth", 1, 64, where),
        heads=_integer(stage, "heads", 1, 64, where),
        window=_integer(stage, "window", 1, 64, where),
        downsample_stride=_integer(stage, "downsample_stride", 0, 2, where),
    )


@dataclass(frozen=True)
class Architecture:
    """input_side: side of the square picture the encoder takes, in pixels. stages: of the TinyViT encoder.
    decoder: shape of the mask decoder."""

    input_side: int
    stages: tuple[StageShape, ...]
    decoder: MaskDecoderShape

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Architecture":
        """Architecture of a manifest. Raises UserError when an entry is missing, out of range or not supported."""
        where = "manifest, architecture"
        entry = _object(manifest["architecture"], where)
        stages = entry.get("stages")
        if not isinstance(stages, list) or not stages:
            raise UserError(f"{where}: it does not list the encoder's stages; export the model again")
        if entry.get("layer_norm_epsilon") != EPSILONS:
            raise UserError(
                f"{where}: layer_norm_epsilon must be {EPSILONS}, found {entry.get('layer_norm_epsilon')!r}; "
                "export the model again"
            )
        decoder = _object(entry.get("decoder"), f"{where}, decoder")
        return cls(
            # sim.picture prepares pictures of this one size.
            input_side=_integer(entry, "input_side", INPUT_SIDE, INPUT_SIDE, where),
            stages=tuple(_stage(stage, f"{where}, stage {index}") for index, stage in enumerate(stages)),
            decoder=MaskDecoderShape(
                depth=_integer(decoder, "depth", 1, 64, f"{where}, decoder"),
                heads=_integer(decoder, "heads", 1, 64, f"{where}, decoder"),
            ),
        )

    def check_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Raise UserError unless every attention block of the encoder has the bias table that its stage asks for."""
        for index, stage in enumerate(self.stages[1:], start=1):
            for number in range(stage.depth):
                name = f"{ENCODER}.layers.{index}.blocks.{number}.attn.attention_biases"
                expected = (stage.heads, stage.window**2)
                if name not in tensors or tensors[name].shape != expected:
                    found = tensors[name].shape if name in tensors else "nothing"
                    raise UserError(f"the model's {name} should be {expected}, found {found}; export the model again")
