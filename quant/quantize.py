"""The whole way from the float checkpoint to an exported model folder."""

import hashlib
import re
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from quant.bimodal_keys import fold_bimodal_keys
from quant.calibrate import Calibrator, Record
from quant.calibration_pictures import builtin_calibration, check_pictures
from quant.export import Calibrated, integer_operations, round_stored_weights, write_model
from quant.models.promptable import PromptableModel
from quant.models.registry import check_hardware_limits, load_model, model_spec, shape_only
from quant.pictures import PromptedPicture
from quant.recipe import DEFAULT, Recipe
from quant.workbook import Workbook
from sim.picture import preprocess

CALIBRATION_PICTURES: Final = {"lite_medsam": 16, "vit_test": 4}
LARGE_MODEL_PICTURES: Final = 2
"""Built-in pictures to calibrate on; encoders of 4,096 tokens see as many tokens in few."""


ENCODER_GMAC: Final = {"lite_medsam": 37, "vit_test": 1, "vit_b": 486, "vit_l": 1493, "vit_h": 2981}
SECONDS_PER_GMAC: Final = 0.25
"""Of calibration, per picture: both passes and the statistics. Measured on two cores with LiteMedSAM and ViT-B."""

SECONDS_PER_MILLION_WEIGHTS: Final = 4.0
"""Of choosing grids and rounding, with compensation. Measured likewise."""

SECONDS_PER_BLOCK_STEP: Final = 0.25
"""Of reconstruction, on squares of 32 pixels. Measured with LiteMedSAM."""


def forecast_minutes(model_name: str, recipe: Recipe, pictures: int | None) -> float:
    """Roughly how long `quantize_to_folder` takes on two cores. pictures: how many of the user's; None: built-in."""
    count = pictures or CALIBRATION_PICTURES.get(model_name, LARGE_MODEL_PICTURES)
    model = shape_only(model_name)
    weights = sum(parameter.numel() for parameter in model.image_encoder.parameters()) / 1e6
    blocks = sum(re.fullmatch(r".*\.blocks\.\d+", name) is not None for name, _ in model.named_modules())
    seconds = count * ENCODER_GMAC[model_name] * SECONDS_PER_GMAC + weights * SECONDS_PER_MILLION_WEIGHTS
    return (seconds + blocks * recipe.recon_iters * SECONDS_PER_BLOCK_STEP) / 60


def quantize_model(
    model: PromptableModel,
    pictures: list[PromptedPicture],
    recipe: Recipe,
    progress: Callable[[str], None],
    *,
    record: Record | None = None,
    seed: int = 0,
) -> Calibrated:
    """Quantize encoder and mask decoder, in network order, on the given pictures.

    `model` is changed in place (equalised norms, folded signs, what stays float rounded to its storage). `progress` is
    told each operation's name as it is finished.
    """
    calibrator = Calibrator(recipe, progress, record, seed)
    with torch.no_grad():
        round_stored_weights(model)
        prepared = [preprocess(picture.pixels, model.input_format) for picture in pictures]
        if recipe.big:
            fold_bimodal_keys(model, pictures, prepared)
        embeddings = calibrator.run(
            [model.encoder_steps(one) for one in prepared], [model.encoder_steps(one) for one in prepared]
        )
        float_passes, passes = (
            [
                model.prompt_steps(embedding, one, list(picture.boxes))
                for embedding, one, picture in zip(side, prepared, pictures, strict=True)
            ]
            for side in embeddings
        )
        calibrator.run(float_passes, passes)
    return Calibrated(model, calibrator.found, calibrator.attentions)


def _digest(pictures: list[PromptedPicture]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.pixels.tobytes() + repr(picture.boxes).encode())
    return digest.hexdigest()


def quantize_to_folder(
    out: Path,
    pictures: list[PromptedPicture] | None,
    seed: int,
    progress: Callable[[str], None],
    *,
    model_name: str = "lite_medsam",
    checkpoint: Path | None = None,
    synthetic: bool = False,
    recipe: Recipe = DEFAULT,
    resume: bool = False,
) -> dict[str, Any]:
    """Quantize a model and write the folder `out`; returns figures: operations, seconds, bytes and those of each file.

    pictures: to calibrate on, None for the built-in ones. checkpoint: of the model, None for the installed one.
    synthetic: seeded random weights. resume: go on with the work that an interrupted run left in `OUT.partial`. Raises
    UserError for whatever the user can mend.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    spec = model_spec(model_name)
    model = load_model(model_name, checkpoint, synthetic, seed)
    check_hardware_limits(model)
    if pictures is None:
        pictures = builtin_calibration(seed, CALIBRATION_PICTURES.get(model_name, LARGE_MODEL_PICTURES))
    warnings = check_pictures(pictures)
    source = spec.source(checkpoint, synthetic=synthetic, seed=seed)
    version = metadata.version("nibblesam")
    settings = {
        "model": model_name,
        "recipe": recipe.described(),
        "seed": seed,
        "source": source,
        "pictures": _digest(pictures),
        "version": version,
    }
    workbook = Workbook(out.with_name(f"{out.name}.partial"), settings, resume)
    resumed = workbook.units()
    calibrated = quantize_model(model, pictures, recipe, progress, record=workbook, seed=seed)
    operations = integer_operations(calibrated)
    created = {"version": version, "seed": seed, "calibration_pictures": [picture.name for picture in pictures]}
    description = {
        "model": model_name,
        "bits": recipe.bits,
        "source": source,
        "created": created,
        "recipe": recipe.described(),
    }
    write_model(out, calibrated, description, operations)
    workbook.remove()
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return {
        "layers": len(calibrated.found.quantized),
        "operations": len(operations),
        "seconds": time.monotonic() - started,
        "resumed_units": resumed,
        "warnings": warnings,
        "files": files,
        "bytes": sum(files.values()),
    }
