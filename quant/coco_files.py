"""Reading a data set in the COCO format: annotations, pictures and the boxes of a detector, all checked.

Formats: cocodataset.org, "Data format" and "Results format". Every fault is found before anything long starts.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError
from pycocotools import mask as run_lengths

from quant.coco_segmentation import is_id, is_number, run_length_code
from sim.contract.errors import UserError
from sim.picture import Box

BORDER_SLACK: Final = 0.1
"""How far, in sides of the picture, a detector's box may reach over the border and be clipped: detectors that do not
clip overshoot a little; boxes written as corners instead of [x, y, width, height] overshoot far."""


@dataclass(frozen=True)
class Detection:
    """A detector's box (x0, y0, x1, y1 in pixels, inside the picture), category id and score within [0, 1]."""

    category: int
    box: Box
    score: float


@dataclass(frozen=True)
class CocoImage:
    """A picture file of width x height pixels, and what the detector found on it, in the detector's order."""

    id: int
    path: Path
    width: int
    height: int
    detections: tuple[Detection, ...]


@dataclass(frozen=True)
class CocoTask:
    """Pictures in the order of the annotation file, category ids, and the true instances: COCO annotations whose
    `segmentation` is a compressed run-length code. boxes_clipped: boxes that reached over the border."""

    images: tuple[CocoImage, ...]
    categories: tuple[int, ...]
    truth: tuple[dict[str, Any], ...]
    boxes_clipped: int


def _read_json(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{what} {path} does not exist; check the path") from error
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path} is not JSON ({error}); give a file in the COCO format") from error


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects `key` of the annotation file."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"annotation file {path} has no list of {key}; give a COCO instances file")
    return entries


def _unique_ids(entries: Iterable[dict[str, Any]], what: str, path: Path) -> set[int]:
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        number = entry.get("id")
        if not is_id(number) or number in seen:
            raise UserError(f"annotation file {path}: id {number} of {what} {index} is missing or not unique; mend it")
        seen.add(number)
    return seen


def _picture(entry: dict[str, Any], root: Path, annotations: Path) -> tuple[Path, int, int]:
    """Path, width and height of one entry of `images`; only the header of the file is read."""
    name, width, height = entry.get("file_name"), entry.get("width"), entry.get("height")
    if not isinstance(name, str) or not name or not is_id(width) or not is_id(height):
        raise UserError(f"annotation file {annotations}: image {entry['id']} lacks file_name, width or height; add it")
    path = root / name
    try:
        with Image.open(path) as image:
            size = image.size
    except FileNotFoundError as error:
        raise UserError(f"picture {path} of {annotations} does not exist; check the image folder") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file") from error
    if size != (width, height):
        raise UserError(
            f"picture {path} has {size[0]} x {size[1]} pixels, {annotations} says {width} x {height}; "
            "give the pictures that were annotated"
        )
    return path, size[0], size[1]


def _truth(
    entry: dict[str, Any], sizes: dict[int, tuple[int, int]], categories: set[int], path: Path
) -> dict[str, Any]:
    """One true instance in the form that COCO's evaluation takes."""
    where = f"annotation file {path}: annotation {entry['id']}"
    category = entry.get("category_id")
    if not is_id(category) or category not in categories:
        raise UserError(f"{where} has the unknown category id {category}; add it to the file's categories")
    try:
        code = run_length_code(entry.get("segmentation"), *sizes[entry["image_id"]])
    except ValueError as error:
        raise UserError(f"{where} has {error}; give a COCO segmentation") from error
    area = entry.get("area", float(run_lengths.area(code)))
    if not is_number(area) or area < 0 or entry.get("iscrowd", 0) not in (0, 1):
        raise UserError(f"{where} has area {area} and iscrowd {entry.get('iscrowd', 0)}; give pixels and 0 or 1")
    return {
        "image_id": entry["image_id"],
        "category_id": category,
        "segmentation": code,
        "area": float(area),
        "iscrowd": entry.get("iscrowd", 0),
    }


def _clipped(bbox: Any, width: int, height: int) -> tuple[Box, bool]:
    """Box x, y, width, height as corners inside the picture, and whether that cut it. Raises ValueError."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise ValueError("is not four numbers x, y, width, height")
    x, y, w, h = map(float, bbox)
    if w <= 0 or h <= 0:
        raise ValueError("has no area")
    overshoot = max(-x / width, -y / height, (x + w) / width - 1, (y + h) / height - 1)
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    if overshoot > BORDER_SLACK or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"leaves the picture of {width} x {height} pixels")
    return box, overshoot > 0


def _detections(
    path: Path, known: set[int], sizes: dict[int, tuple[int, int]], categories: set[int]
) -> tuple[dict[int, list[Detection]], int]:
    """Detections by image id, those of `sizes` (width, height) only, and how many boxes were clipped."""
    entries = _read_json(path, "box file")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"box file {path} is not a list of objects; give detections in COCO's results format")
    found: dict[int, list[Detection]] = {number: [] for number in sizes}
    clipped = 0
    for index, entry in enumerate(entries):
        where, image, category = f"box file {path}: entry {index}", entry.get("image_id"), entry.get("category_id")
        if not is_id(image) or image not in known:
            raise UserError(f"{where} has the unknown image id {image}; give boxes of the annotated pictures")
        if not is_id(category) or category not in categories:
            raise UserError(f"{where} has the unknown category id {category}; give categories of the annotation file")
        score = entry.get("score")
        if not is_number(score) or not 0 <= score <= 1:
            raise UserError(f"{where} has the score {score}; give a number within 0 and 1")
        if image not in sizes:
            continue
        try:
            box, cut = _clipped(entry.get("bbox"), *sizes[image])
        except ValueError as error:
            raise UserError(
                f"{where}: box {entry.get('bbox')} {error}; give [x, y, width, height] in pixels"
            ) from error
        clipped += cut
        found[image].append(Detection(category, box, float(score)))
    return found, clipped


def read_dataset(annotations: Path, image_root: Path, boxes: Path, limit: int | None = None) -> CocoTask:
    """The first `limit` pictures (None: all) of an instances file, whose files lie under `image_root`, with the
    detections of `boxes`: a JSON list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

    Boxes that reach over the border by at most `BORDER_SLACK` of the side are clipped. Raises UserError when a file
    is missing or malformed, an id is unknown, a box has no area or leaves the picture, a score is no number, or the
    limit is not positive.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} leaves no picture; give 1 or more")
    content = _read_json(annotations, "annotation file")
    images, categories = _entries(content, "images", annotations), _entries(content, "categories", annotations)
    instances = _entries(content, "annotations", annotations)
    known_images = _unique_ids(images, "image", annotations)
    known_categories = _unique_ids(categories, "category", annotations)
    _unique_ids(instances, "annotation", annotations)
    if not images:
        raise UserError(f"annotation file {annotations} has no images; give a COCO instances file")
    files = {entry["id"]: _picture(entry, image_root, annotations) for entry in images[:limit]}
    sizes = {number: (width, height) for number, (_, width, height) in files.items()}
    truth = []
    for entry in instances:
        image = entry.get("image_id")
        if not is_id(image) or image not in known_images:
            raise UserError(
                f"annotation file {annotations}: annotation {entry['id']} has the unknown image id {image}; "
                "add the image to the file"
            )
        if image in sizes:
            truth.append(_truth(entry, sizes, known_categories, annotations))
    found, clipped = _detections(boxes, known_images, sizes, known_categories)
    return CocoTask(
        images=tuple(CocoImage(number, *files[number], tuple(found[number])) for number in files),
        categories=tuple(sorted(known_categories)),
        truth=tuple(truth),
        boxes_clipped=clipped,
    )
