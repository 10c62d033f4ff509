"""The whole way from the float checkpoint to an exported model folder."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from quant.calibrate import Recipe, quantize_in_step
from quant.calibration_pictures import builtin_calibration
from quant.export import integer_layer, is_quantized, round_stored_weights, write_model
from quant.fake_quant import FakeQuantLinear
from quant.models.lite_medsam import LiteMedSam, load_lite_medsam
from quant.pictures import PromptedPicture
from sim.contract.linear import QuantizedLinear
from sim.picture import preprocess

CALIBRATION_PICTURES = 8
"""Built-in pictures to calibrate on."""

QUANTIZED_LAYERS = 88
"""Layers of LiteMedSAM that are quantized; a test counts them."""

DECODER_PIXEL_STRIDE = 4
"""Of so many rows and columns of the embedding the decoder sees one while it is calibrated: tokens see enough."""


@dataclass
class QuantizedModel:
    """The float remainder and the layers of a quantized model.

    layers: what calibration chose. largest_output: per layer, the largest magnitude of its outputs in calibration.
    """

    model: LiteMedSam
    layers: dict[str, FakeQuantLinear]
    largest_output: dict[str, float]

    def integer_layers(self) -> dict[str, QuantizedLinear]:
        """The layers in integer form, by name."""
        return {name: integer_layer(name, layer, self.largest_output[name]) for name, layer in self.layers.items()}


def quantized_names(model: LiteMedSam) -> list[str]:
    """Names of the layers that `quantize_model` quantizes."""
    return [name for name, module in model.named_modules() if is_quantized(name, module)]


def quantize_model(
    model: LiteMedSam, pictures: list[PromptedPicture], recipe: Recipe, progress: Callable[[str], None]
) -> QuantizedModel:
    """Quantize encoder and mask decoder, in network order, on the given pictures.

    `model` is changed in place (equalised norms, weights rounded to 8-bit storage). `progress` is told each
    layer's name as it is finished.
    """
    result = QuantizedModel(model, {}, {})

    def done(name: str, layer: FakeQuantLinear, largest_output: float) -> None:
        result.layers[name] = layer
        result.largest_output[name] = largest_output
        progress(name)

    with torch.inference_mode():
        round_stored_weights(model)
        prepared = [preprocess(picture.pixels) for picture in pictures]
        encoded = quantize_in_step(
            [model.encoder_steps(one) for one in prepared], [model.encoder_steps(one) for one in prepared], recipe, done
        )
        float_passes, passes = (
            [
                model.prompt_steps(embedding, one, list(picture.boxes), DECODER_PIXEL_STRIDE)
                for embedding, one, picture in zip(embeddings, prepared, pictures, strict=True)
            ]
            for embeddings in encoded
        )
        quantize_in_step(float_passes, passes, recipe, done)
    return result


def quantize_to_folder(
    out: Path,
    pictures: list[PromptedPicture] | None,
    seed: int,
    progress: Callable[[str], None],
    *,
    checkpoint: Path | None = None,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Quantize LiteMedSAM and write the folder `out`; returns figures: layers, seconds, bytes and those of each file.

    pictures: to calibrate on, None for the built-in ones. checkpoint: a copy of the checkpoint, None for the
    installed one. Raises UserError for whatever the user can mend.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    model = load_lite_medsam(checkpoint)
    pictures = builtin_calibration(seed, CALIBRATION_PICTURES) if pictures is None else pictures
    quantized = quantize_model(model, pictures, recipe or Recipe(), progress)
    layers = quantized.integer_layers()
    created = {
        "version": metadata.version("nibblesam"),
        "seed": seed,
        "calibration_pictures": [picture.name for picture in pictures],
    }
    write_model(out, model, layers, created)
    return {
        "layers": len(layers),
        "seconds": time.monotonic() - started,
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
    }
