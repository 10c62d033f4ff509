"""Masks of the golden integer model against those of the float model, and each layer against its float twin."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.agreement import FloatTwin, compare
from quant.pictures import Mask, PromptedPicture, builtin_evaluation
from quant.reference import float_masks, float_model
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.folder import read_folder
from sim.golden import GoldenModel
from sim.picture import Preprocessed, intersection_over_union, load_picture, mask_from_logits, preprocess

AGREEMENT_TOKENS = 512
"""Tokens of each layer on which it is compared with its float twin."""


def golden_masks(
    golden: GoldenModel,
    picture: PromptedPicture,
    prepared: Preprocessed,
    observer: Callable[[str, NDArray[np.uint8], NDArray[np.int16]], None] | None = None,
) -> list[Mask]:
    """The golden integer model's mask of every box; `observer` sees the encoder and the first box."""
    embedding = golden.encode_image(prepared.pixels, observer)
    masks = []
    for index, box in enumerate(picture.boxes):
        logits, _ = golden.decode(embedding, prepared.scale_box(box), observer if index == 0 else None)
        masks.append(mask_from_logits(logits, prepared))
    return masks


class LayerComparison:
    """An observer of the golden model that compares each layer, the first time it runs, with its float twin."""

    def __init__(self, golden: GoldenModel) -> None:
        self.layers = golden.parameters.quantized
        self.results: dict[str, dict[str, Any]] = {}

    def __call__(self, name: str, codes: NDArray[np.uint8], wide: NDArray[np.int16]) -> None:
        if name not in self.results:
            codes, wide = codes.reshape(-1, codes.shape[-1]), wide.reshape(-1, wide.shape[-1])
            stride = max(1, codes.shape[0] // AGREEMENT_TOKENS)
            layer = self.layers[name]
            self.results[name] = compare(codes[::stride], wide[::stride], layer, FloatTwin.of(layer))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def evaluate(folder: Path, pictures: list[PromptedPicture] | None, progress: Callable[[str], None]) -> dict[str, Any]:
    """Figures of an exported model on `pictures` (None: the built-in ones) and on the retina picture.

    Every INT4 mask is the golden integer model's. Raises UserError when the folder or the checkpoint is at fault.
    """
    contents = read_folder(folder)
    golden = GoldenModel.from_contents(contents)
    float_model()  # a missing checkpoint is found before anything long
    retina = PromptedPicture("retina", load_picture(retina_picture()), (RETINA_BOX,))
    pictures = builtin_evaluation() if pictures is None else pictures
    comparison = LayerComparison(golden)
    prompts: list[dict[str, Any]] = []
    retina_figures: dict[str, Any] = {}
    for picture in [retina, *pictures]:
        prepared = preprocess(picture.pixels)
        wanted = float_masks(prepared, picture.boxes)
        reached = golden_masks(golden, picture, prepared, comparison if picture is retina else None)
        if picture is retina:
            retina_figures = {
                "box": list(RETINA_BOX),
                "iou_to_float": intersection_over_union(reached[0], wanted[0]),
                "pixels": {"int4": int(reached[0].sum()), "float": int(wanted[0].sum())},
            }
        else:
            for index, box in enumerate(picture.boxes):
                prompt: dict[str, Any] = {"picture": picture.name, "box": list(box)}
                prompt["iou_to_float"] = intersection_over_union(reached[index], wanted[index])
                if picture.truth:
                    prompt["int4_iou_to_truth"] = intersection_over_union(reached[index], picture.truth[index])
                    prompt["float_iou_to_truth"] = intersection_over_union(wanted[index], picture.truth[index])
                prompts.append(prompt)
        progress(picture.name)
    to_float = [prompt["iou_to_float"] for prompt in prompts]
    return {
        "model": str(contents.manifest["model"]),
        "bits": contents.manifest["bits"],
        "masks_from": "golden integer model",
        "n_prompts": len(prompts),
        "mean_iou_to_float": _mean(to_float),
        "min_iou_to_float": min(to_float, default=None),
        "mean_iou_to_truth": {
            kind: _mean([prompt[f"{kind}_iou_to_truth"] for prompt in prompts if f"{kind}_iou_to_truth" in prompt])
            for kind in ("int4", "float")
        },
        "retina": retina_figures,
        "model_bytes": contents.size_bytes,
        "per_layer": list(comparison.results.values()),
        "prompts": prompts,
    }
