"""The numbers of a network that its operations do not tell: read from the manifest and checked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sim.contract.attention import MAX_KEYS
from sim.contract.errors import UserError
from sim.contract.wide import Wide
from sim.golden.mask_decoder import MaskDecoderShape
from sim.golden.normalization import LAYER_NORM_2D_EPSILON, LAYER_NORM_EPSILON
from sim.golden.parameters import Parameters
from sim.golden.sam_vit import SamVitShape, encode_sam_vit
from sim.golden.tinyvit import StageShape, encode_tiny_vit
from sim.picture import LITE_MEDSAM, SAM, InputFormat

ENCODER: Final = "image_encoder"
"""Module name of the image encoder: the names of its operations start with it and a dot."""

EPSILONS: Final = {"transformer": LAYER_NORM_EPSILON, "channels_first": LAYER_NORM_2D_EPSILON}
"""Of the mask decoder's float norms; the only ones that its functions know."""

FORMATS: Final = {"min_max": LITE_MEDSAM, "mean_std": SAM}
"""Input formats by normalisation, but for the side."""

SIDE_LIMIT: Final = 2048
TINY_VIT_REDUCTION: Final = 4
"""A pixel of the embedding is so many pixels of the picture, both ways."""

WHERE: Final = "manifest, architecture"


def _object(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {entry!r}; export the model again")
    return entry


def _integer(entry: Mapping[str, Any], key: str, low: int, high: int, where: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not low <= value <= high:
        raise UserError(
            f"{where}: {key} must be an integer from {low} to {high}, found {value!r}; export the model again"
        )
    return value


def _choice(entry: Mapping[str, Any], key: str, choices: Mapping[str, object], where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{where}: {key} must be one of {', '.join(choices)}, found {value!r}; export the model again")
    return value


def _stage(entry: Any, where: str) -> StageShape:
    stage = _object(entry, where)
    return StageShape(
        depth=_integer(stage, "depth", 1, 64, where),
        heads=_integer(stage, "heads", 1, 64, where),
        window=_integer(stage, "window", 1, 64, where),
        downsample_stride=_integer(stage, "downsample_stride", 0, 2, where),
    )


def _tiny_vit(entry: Mapping[str, Any], where: str) -> tuple[StageShape, ...]:
    stages = entry.get("stages")
    if not isinstance(stages, list) or not stages:
        raise UserError(f"{where}: it does not list the encoder's stages; export the model again")
    shapes = tuple(_stage(stage, f"{where}, stage {index}") for index, stage in enumerate(stages))
    reduction = math.prod(max(1, shape.downsample_stride) for shape in shapes)
    if reduction != TINY_VIT_REDUCTION:
        raise UserError(
            f"{where}: the strides of the stages make {reduction}, the mask decoder needs {TINY_VIT_REDUCTION}; "
            "export the model again"
        )
    return shapes


def _sam_vit(entry: Mapping[str, Any], where: str) -> SamVitShape:
    depth = _integer(entry, "depth", 1, 64, where)
    blocks = entry.get("global_blocks")
    if not isinstance(blocks, list) or not all(type(block) is int and 0 <= block < depth for block in blocks):
        raise UserError(
            f"{where}: global_blocks must list blocks from 0 to {depth - 1}, found {blocks!r}; export the model again"
        )
    return SamVitShape(
        depth=depth,
        heads=_integer(entry, "heads", 1, 64, where),
        window=_integer(entry, "window", 1, 64, where),
        global_blocks=tuple(blocks),
        patch=_integer(entry, "patch", 1, 64, where),
    )


ENCODERS: Final[dict[str, Callable[[Mapping[str, Any], str], tuple[StageShape, ...] | SamVitShape]]] = {
    "tiny_vit": _tiny_vit,
    "sam_vit": _sam_vit,
}


@dataclass(frozen=True)
class Architecture:
    """input_format: how a picture becomes the encoder's input. input_exponent: of that input as wide numbers.
    encoder: stages of a TinyViT, or the shape of a ViT of Segment Anything. decoder: shape of the mask decoder."""

    input_format: InputFormat
    input_exponent: int
    encoder: tuple[StageShape, ...] | SamVitShape
    decoder: MaskDecoderShape

    @property
    def reduction(self) -> int:
        """Pixels of the picture to a pixel of the embedding, along one side."""
        return self.encoder.patch if isinstance(self.encoder, SamVitShape) else TINY_VIT_REDUCTION

    def encode(self, x: Wide, parameters: Parameters) -> Wide:
        """Image embedding (side / reduction, side / reduction, 256) of a preprocessed picture (side, side, 3)."""
        if isinstance(self.encoder, SamVitShape):
            return encode_sam_vit(x, self.encoder, parameters, ENCODER)
        return encode_tiny_vit(x, self.encoder, parameters, ENCODER)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Architecture":
        """Architecture of a manifest. Raises UserError when an entry is missing, out of range or not supported."""
        entry = _object(manifest["architecture"], WHERE)
        if entry.get("layer_norm_epsilon") != EPSILONS:
            raise UserError(
                f"{WHERE}: layer_norm_epsilon must be {EPSILONS}, found {entry.get('layer_norm_epsilon')!r}; "
                "export the model again"
            )
        picture, decoder, encoder = (
            _object(entry.get(part), f"{WHERE}, {part}") for part in ("input", "decoder", "encoder")
        )
        preset = FORMATS[_choice(picture, "normalisation", FORMATS, f"{WHERE}, input")]
        read_encoder = ENCODERS[_choice(encoder, "kind", ENCODERS, f"{WHERE}, encoder")]
        architecture = cls(
            input_format=replace(preset, side=_integer(picture, "side", 16, SIDE_LIMIT, f"{WHERE}, input")),
            input_exponent=_integer(picture, "exponent", -64, 64, f"{WHERE}, input"),
            encoder=read_encoder(encoder, f"{WHERE}, encoder"),
            decoder=MaskDecoderShape(
                depth=_integer(decoder, "depth", 1, 64, f"{WHERE}, decoder"),
                heads=_integer(decoder, "heads", 1, 64, f"{WHERE}, decoder"),
            ),
        )
        architecture.check_side()
        return architecture

    def check_side(self) -> None:
        """Raise UserError unless the picture divides into pixels of an embedding that attention can hold."""
        side, reduction = self.input_format.side, self.reduction
        if side % reduction or (side // reduction) ** 2 > MAX_KEYS:
            raise UserError(
                f"{WHERE}: a side of {side} pixels does not make an embedding of whole pixels of {reduction} each, at "
                f"most {MAX_KEYS} of them; export the model again"
            )
