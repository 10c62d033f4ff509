"""Instance-segmentation mAP on a data set in the COCO format, with boxes that some detector found.

The protocol is the one in which post-training quantizers of SAM are compared: every box of the detector is a
prompt, its one mask inherits the box's category, and its score is the detector's times the IoU that SAM predicts.
COCO's own evaluation (`pycocotools`) then matches masks with the truth.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from quant.coco_files import CocoImage, CocoTask, read_dataset
from sim.picture import Box, load_picture

__all__ = ["BOXES_PER_CHUNK", "CocoTask", "Segment", "encode_once", "evaluate_masks", "read_dataset"]

BOXES_PER_CHUNK: Final = 32
"""Prompts that go through the mask decoder at once: some detectors give hundreds of boxes per picture, and their
logits together would need gigabytes."""

PromptedMask = tuple[NDArray[np.bool_], float]
"""Bool mask (height, width) of the picture, and the IoU that the model predicts for it."""

Segment = Callable[[NDArray[np.uint8], list[Box]], list[PromptedMask]]
"""From a picture, uint8 RGB (height, width, 3), and boxes in its pixels to one mask per box."""

FIGURES: Final = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "recall_1", "recall_10", "recall_100", "recall_small", "recall_medium", "recall_large",
)  # fmt: skip
"""The twelve figures of COCO's summary, in its order. The plain `map` is the mean over IoU 0.50, 0.55, ... 0.95."""

Embedding = TypeVar("Embedding")


def encode_once(
    encode: Callable[[NDArray[np.uint8]], Embedding],
    decode: Callable[[Embedding, list[Box]], list[PromptedMask]],
) -> Segment:
    """A `Segment` that encodes a picture when its first chunk of boxes comes and decodes later chunks from that."""
    kept: list[tuple[NDArray[np.uint8], Embedding]] = []

    def segment(picture: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
        if not kept or kept[0][0] is not picture:
            kept[:] = []  # freed before the next one is made
            kept.append((picture, encode(picture)))
        return decode(kept[0][1], boxes)

    return segment


def _masks(image: CocoImage, segment: Segment, boxes_per_chunk: int) -> Iterator[dict[str, Any]]:
    """Results of one picture in COCO's form, one per detection. Only run lengths outlive a chunk."""
    if not image.detections:
        return
    picture = load_picture(image.path)
    for start in range(0, len(image.detections), boxes_per_chunk):
        chunk = image.detections[start : start + boxes_per_chunk]
        masks = segment(picture, [detection.box for detection in chunk])
        for detection, (mask, predicted_iou) in zip(chunk, masks, strict=True):
            if mask.shape != picture.shape[:2] or mask.dtype != np.bool_:
                raise ValueError(f"mask of {mask.dtype} {mask.shape}, the picture is {picture.shape[:2]}")
            if not np.isfinite(predicted_iou):
                raise ValueError(f"predicted IoU of {image.path.name} is {predicted_iou}")
            encoded = run_lengths.encode(np.asfortranarray(mask, np.uint8))
            yield {
                "image_id": image.id,
                "category_id": detection.category,
                "segmentation": encoded,
                "area": float(run_lengths.area(encoded)),
                "score": detection.score * float(predicted_iou),
                "iscrowd": 0,
            }


def _indexed(task: CocoTask, annotations: Sequence[dict[str, Any]]) -> COCO:
    """COCO's index over copies of `annotations`, numbered from 1: to COCO's evaluation the number 0 means no match,
    and it writes into what it is given."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image.id, "width": image.width, "height": image.height} for image in task.images],
        "categories": [{"id": category} for category in task.categories],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def evaluate_masks(
    task: CocoTask,
    segment: Segment,
    progress: Callable[[str], None] = lambda _: None,
    boxes_per_chunk: int = BOXES_PER_CHUNK,
) -> dict[str, Any]:
    """COCO's twelve figures (`FIGURES`, each within [0, 1], or None where the truth has nothing of that size) of the
    masks that `segment` gives, with the numbers of images, boxes and boxes that were clipped.

    One picture is in memory at a time; all chunks of its boxes come with the same array object. `progress` receives
    the name of each finished picture. Raises UserError when a picture cannot be read, ValueError when `segment`
    returns masks that do not fit or scores that are not finite.
    """
    if boxes_per_chunk < 1:
        raise ValueError(f"boxes_per_chunk is {boxes_per_chunk}")
    results: list[dict[str, Any]] = []
    for image in task.images:
        results.extend(_masks(image, segment, boxes_per_chunk))
        progress(image.path.name)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_indexed(task, task.truth), _indexed(task, results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures: dict[str, Any] = {
        name: None if value < 0 else float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)
    }
    return {**figures, "images": len(task.images), "boxes": len(results), "boxes_clipped": task.boxes_clipped}
