"""The whole way from the float checkpoint to an exported model folder."""

import hashlib
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
from quant.models.registry import check_hardware_limits, load_model, model_spec
from quant.pictures import PromptedPicture
from quant.recipe import DEFAULT, Recipe
from quant.workbook import Workbook
from sim.picture import preprocess

CALIBRATION_PICTURES: Final = {"lite_medsam": 8, "vit_test": 4}
LARGE_MODEL_PICTURES: Final = 2
"""Built-in pictures to calibrate on; encoders of 4,096 tokens see as many tokens in few."""


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
