"""The numbers of a network that its tensors do not tell, read from the manifest and checked against the tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.golden.mask_decoder import MaskDecoderShape
from sim.golden.tinyvit import StageShape
from sim.picture import INPUT_SIDE

ENCODER: Final = "image_encoder"
"""Module name of the image encoder: the names of its layers start with it and a dot."""


def _integer(entry: Mapping[str, Any], key: str, low: int, high: int, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not low <= value <= high:
        raise UserError(
            f"{where}: {key} must be an integer from {low} to {high}, found {value!r}; export the model again"
        )
    return value


@dataclass(frozen=True)
class Architecture:
    """input_side: side of the square picture the encoder takes, in pixels. stages: of the TinyViT encoder.
    decoder: shape of the mask decoder."""

    input_side: int
    stages: tuple[StageShape, ...]
    decoder: MaskDecoderShape

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Architecture":
        """Architecture of a manifest. Raises UserError when an entry is missing or out of range."""
        where = "manifest, architecture"
        entry = manifest["architecture"]
        if not isinstance(entry, dict) or not isinstance(entry.get("stages"), list) or not entry["stages"]:
            raise UserError(f"{where}: it must name the stages of the encoder; export the model again")
        stages = []
        for index, stage in enumerate(entry["stages"]):
            if not isinstance(stage, dict):
                raise UserError(f"{where}: stage {index} is not an object; export the model again")
            spot = f"{where}, stage {index}"
            stages.append(
                StageShape(
                    depth=_integer(stage, "depth", 1, 64, spot),
                    heads=_integer(stage, "heads", 1, 64, spot),
                    window=_integer(stage, "window", 1, 64, spot),
                    downsample_stride=_integer(stage, "downsample_stride", 0, 2, spot),
                )
            )
        return cls(
            # sim.picture prepares pictures of this one size.
            input_side=_integer(entry, "input_side", INPUT_SIDE, INPUT_SIDE, where),
            stages=tuple(stages),
            decoder=MaskDecoderShape(
                depth=_integer(entry, "decoder_depth", 1, 64, where),
                heads=_integer(entry, "decoder_heads", 1, 64, where),
            ),
        )

    def to_manifest(self) -> dict[str, Any]:
        """What `from_manifest` reads under the manifest's key `architecture`."""
        return {
            "input_side": self.input_side,
            "stages": [asdict(stage) for stage in self.stages],
            "decoder_depth": self.decoder.depth,
            "decoder_heads": self.decoder.heads,
        }

    def check_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Raise UserError unless every attention block of the encoder has the bias table that its stage asks for."""
        for index, stage in enumerate(self.stages[1:], start=1):
            for number in range(stage.depth):
                name = f"{ENCODER}.layers.{index}.blocks.{number}.attn.attention_biases"
                expected = (stage.heads, stage.window**2)
                if name not in tensors or tensors[name].shape != expected:
                    found = tensors[name].shape if name in tensors else "nothing"
                    raise UserError(f"the model's {name} should be {expected}, found {found}; export the model again")
