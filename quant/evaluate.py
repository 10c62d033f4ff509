"""Masks of the golden integer model against those of the float model, and each operation against float arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.agreement import FakeQuantParameters, agreement
from quant.coco import PromptedMask, Segment, encode_once
from quant.pictures import Mask, PromptedPicture, builtin_evaluation
from quant.reference import FloatReference
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.folder import ModelFolder, read_folder
from sim.golden import GoldenModel
from sim.golden.parameters import Executed, Observer
from sim.picture import Box, Preprocessed, intersection_over_union, load_picture, mask_from_logits, preprocess


def decoded_masks(
    golden: GoldenModel, embedding: NDArray[np.float32], prepared: Preprocessed, boxes: Sequence[Box]
) -> list[PromptedMask]:
    """The mask and predicted IoU of every box for an embedding."""
    results = []
    for box in boxes:
        logits, quality = golden.decode(embedding, prepared.scale_box(box))
        results.append((mask_from_logits(logits, prepared), quality))
    return results


def model_masks(golden: GoldenModel, picture: PromptedPicture, observer: Observer | None = None) -> list[Mask]:
    """The model's mask of every box of a picture; `observer` sees the encoder, and the decoder for the first box."""
    prepared = preprocess(picture.pixels, golden.architecture.input_format)
    embedding = golden.encode_image(prepared.pixels, observer)
    if observer is not None:
        golden.decode(embedding, prepared.scale_box(picture.boxes[0]), observer)
    return [mask for mask, _ in decoded_masks(golden, embedding, prepared, picture.boxes)]


def golden_segment(folder: Path) -> Segment:
    """What COCO evaluation asks for masks: the golden model of a folder, each picture encoded once.

    Raises UserError when the folder is damaged.
    """
    golden = GoldenModel.from_folder(folder)

    def encode(picture: NDArray[np.uint8]) -> tuple[Preprocessed, NDArray[np.float32]]:
        prepared = preprocess(picture, golden.architecture.input_format)
        return prepared, golden.encode_image(prepared.pixels)

    def decode(encoded: tuple[Preprocessed, NDArray[np.float32]], boxes: Sequence[Box]) -> list[PromptedMask]:
        return decoded_masks(golden, encoded[1], encoded[0], boxes)

    return encode_once(encode, decode)


def fake_quant_model(contents: ModelFolder) -> GoldenModel:
    """The model of a folder with float arithmetic around the same codes."""
    golden = GoldenModel.from_contents(contents)
    return GoldenModel(
        FakeQuantParameters(golden.parameters.tensors, golden.parameters.operations), golden.architecture
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _shows_retina(picture: PromptedPicture, retina: NDArray[np.uint8]) -> bool:
    return RETINA_BOX in picture.boxes and np.array_equal(picture.pixels, retina)


def with_retina(pictures: list[PromptedPicture]) -> list[PromptedPicture]:
    """The pictures to encode: the retina picture goes in front where it is not among them with its box."""
    pixels = load_picture(retina_picture())
    if any(_shows_retina(one, pixels) for one in pictures):
        return pictures
    return [PromptedPicture("retina", pixels, (RETINA_BOX,)), *pictures]


def prompt_figures(prompts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over prompts of `evaluate`."""

    def mean_of(key: str) -> float | None:
        return _mean([prompt[key] for prompt in prompts if key in prompt])

    return {
        "n_prompts": len(prompts),
        "mean_iou_to_float": mean_of("iou_to_float"),
        "min_iou_to_float": min((prompt["iou_to_float"] for prompt in prompts), default=None),
        "mean_iou_to_fake_quant": mean_of("iou_to_fake_quant"),
        "mean_iou_to_truth": {kind: mean_of(f"{kind}_iou_to_truth") for kind in ("int4", "float")},
    }


class MaskAgreement:
    """Mask figures of many folders of one float model on the same pictures; float masks are computed once."""

    def __init__(self, pictures: list[PromptedPicture]) -> None:
        self._pictures = pictures
        self._wanted: list[list[Mask]] = []

    def __call__(self, folder: Path) -> dict[str, Any]:
        """`prompt_figures` of a folder, and its size. Raises UserError when it is damaged."""
        contents = read_folder(folder)
        golden = GoldenModel.from_contents(contents)
        if not self._wanted:
            reference = FloatReference(contents.manifest)
            self._wanted = [reference.masks(picture.pixels, picture.boxes) for picture in self._pictures]
        prompts = []
        for picture, wanted in zip(self._pictures, self._wanted, strict=True):
            prompts += _prompts(picture, model_masks(golden, picture), wanted, None)
        return {**prompt_figures(prompts), "model_bytes": contents.size_bytes}


def evaluate(
    folder: Path,
    pictures: list[PromptedPicture] | None,
    progress: Callable[[str], None],
    *,
    checkpoint: Path | None = None,
    fake_quant: bool = False,
) -> dict[str, Any]:
    """Figures of an exported model on `pictures` (None: the built-in ones) and on the retina picture.

    Every INT4 mask is the golden integer model's. checkpoint: of the float model, as for `quantize`. fake_quant: also
    compare each mask with that of fake quantization. `progress` is told the name of every picture of `with_retina`.
    Raises UserError when the folder or the checkpoint is at fault.
    """
    contents = read_folder(folder)
    golden = GoldenModel.from_contents(contents)
    reference = FloatReference(contents.manifest, checkpoint)
    simulated = fake_quant_model(contents) if fake_quant else None
    pictures = builtin_evaluation() if pictures is None else pictures
    retina = load_picture(retina_picture())
    compared: dict[str, dict[str, Any]] = {}

    def compare(name: str, executed: Executed) -> None:
        if name not in compared:
            compared[name] = agreement(executed)

    prompts: list[dict[str, Any]] = []
    retina_figures: dict[str, Any] = {}
    for picture in with_retina(pictures):
        is_retina = not retina_figures and _shows_retina(picture, retina)
        wanted = reference.masks(picture.pixels, picture.boxes)
        reached = model_masks(golden, picture, compare if is_retina else None)
        if is_retina:
            at = picture.boxes.index(RETINA_BOX)
            retina_figures = {
                "box": list(RETINA_BOX),
                "iou_to_float": intersection_over_union(reached[at], wanted[at]),
                "pixels": {"int4": int(reached[at].sum()), "float": int(wanted[at].sum())},
            }
        if any(picture is one for one in pictures):
            faked = model_masks(simulated, picture) if simulated is not None else None
            prompts += _prompts(picture, reached, wanted, faked)
        progress(picture.name)

    return {
        "model": str(contents.manifest["model"]),
        "bits": contents.manifest["bits"],
        "masks_from": "golden integer model",
        **prompt_figures(prompts),
        "retina": retina_figures,
        "model_bytes": contents.size_bytes,
        "per_layer": list(compared.values()),
        "prompts": prompts,
    }


def _prompts(
    picture: PromptedPicture, reached: list[Mask], wanted: list[Mask], faked: list[Mask] | None
) -> list[dict[str, Any]]:
    """Figures of every box of a picture."""
    prompts = []
    for index, box in enumerate(picture.boxes):
        figures: dict[str, Any] = {
            "picture": picture.name,
            "box": list(box),
            "iou_to_float": intersection_over_union(reached[index], wanted[index]),
        }
        if faked is not None:
            figures["iou_to_fake_quant"] = intersection_over_union(reached[index], faked[index])
        if picture.truth:
            figures["int4_iou_to_truth"] = intersection_over_union(reached[index], picture.truth[index])
            figures["float_iou_to_truth"] = intersection_over_union(wanted[index], picture.truth[index])
        prompts.append(figures)
    return prompts
