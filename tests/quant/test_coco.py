"""COCO mask mAP: known masks give known figures, and every fault of the files is one line."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as run_lengths

from quant.coco import CocoTask, PromptedMask, encode_once, evaluate_masks, read_dataset
from sim.contract.errors import UserError
from sim.picture import Box

WIDTH, HEIGHT = 120, 90
MASK_BOX = (50, 20, 80, 60)


def mask_of(box: Box, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """The filled box."""
    mask = np.zeros((height, width), bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return mask


def polygon(box: tuple[int, int, int, int]) -> list[list[int]]:
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def plain_counts(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths down the columns, the first one of zeros."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(run) for run in np.diff([0, *changes, mask.size])]


def as_bbox(box: tuple[int, int, int, int]) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


INSTANCES = [
    (7, 1, (10, 10, 20, 20)),  # small
    (7, 2, (30, 20, 90, 70)),  # medium
    (9, 1, (5, 5, 60, 45)),
    (9, 2, MASK_BOX),
    (4, 2, (0, 0, 110, 88)),  # large
]
"""Image id, category id and box of each filled rectangle."""


class Files:
    """The three files of a data set of 3 drawn pictures, and the contents that tests spoil."""

    def __init__(self, root: Path) -> None:
        self.annotations, self.pictures, self.boxes = root / "instances.json", root / "pictures", root / "boxes.json"
        self.pictures.mkdir()
        compressed = run_lengths.encode(np.asfortranarray(mask_of(MASK_BOX), np.uint8))["counts"].decode()
        segmentations: list[Any] = [polygon(box) for _, _, box in INSTANCES]
        segmentations[2] = {"size": [HEIGHT, WIDTH], "counts": plain_counts(mask_of(INSTANCES[2][2]))}
        segmentations[3] = {"size": [HEIGHT, WIDTH], "counts": compressed}
        self.truth: dict[str, Any] = {
            "images": [
                {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT} for number in (7, 9, 4)
            ],
            "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "table"}, {"id": 3, "name": "absent"}],
            "annotations": [
                {
                    "id": index,  # from 0 on: COCO's own evaluation takes 0 for no match
                    "image_id": image,
                    "category_id": category,
                    "segmentation": segmentation,
                    "area": int(mask_of(box).sum()),
                    "iscrowd": 0,
                }
                for index, ((image, category, box), segmentation) in enumerate(
                    zip(INSTANCES, segmentations, strict=True)
                )
            ],
        }
        self.found: list[dict[str, Any]] = [
            {"image_id": image, "category_id": category, "bbox": as_bbox(box), "score": 0.9 - 0.1 * index}
            for index, (image, category, box) in enumerate(INSTANCES)
        ]
        for number in (7, 9, 4):
            picture = Image.new("RGB", (WIDTH, HEIGHT), (30, 30, number))
            for image, category, (x0, y0, x1, y1) in INSTANCES:
                if image == number:
                    ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), fill=(0, 90 * category, 0))
            picture.save(self.pictures / f"{number}.png")

    def read(self, limit: int | None = None) -> CocoTask:
        self.annotations.write_text(json.dumps(self.truth))
        self.boxes.write_text(json.dumps(self.found))
        return read_dataset(self.annotations, self.pictures, self.boxes, limit)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def filled(picture: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
    """The perfect answer: every instance fills its box."""
    return [(mask_of(box, *picture.shape[:2]), 1.0) for box in boxes]


def shifted(picture: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
    return [(np.roll(mask, 3, axis=1), score) for mask, score in filled(picture, boxes)]


def empty(picture: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
    return [(np.zeros(picture.shape[:2], bool), 1.0) for _ in boxes]


def test_perfect_masks_reach_one_in_every_figure(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    figures = evaluate_masks(files.read(), filled)
    for name in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "recall_100"):
        assert figures[name] == pytest.approx(1.0, abs=1e-9), name
    assert (figures["images"], figures["boxes"], figures["boxes_clipped"]) == (3, 5, 0)
    assert capsys.readouterr().out == ""


def test_shifted_masks_lose_the_strict_thresholds_first(files: Files) -> None:
    figures = evaluate_masks(files.read(), shifted)
    assert 0.3 < figures["map"] < 0.95
    assert figures["map_50"] == pytest.approx(1.0, abs=1e-9)
    # 10 x 10 shifted by 3: IoU 7 / 13, over the first of ten thresholds only.
    assert figures["map_small"] == pytest.approx(0.1, abs=1e-9)


def test_empty_masks_reach_nothing(files: Files) -> None:
    figures = evaluate_masks(files.read(), empty)
    assert figures["map"] == figures["map_50"] == figures["recall_100"] == 0.0


def test_a_size_without_truth_is_none_and_not_minus_one(files: Files) -> None:
    files.truth["annotations"] = files.truth["annotations"][1:]
    figures = evaluate_masks(files.read(), filled)
    assert figures["map_small"] is None and figures["recall_small"] is None
    assert figures["map"] is not None
    json.dumps(figures, allow_nan=False)


def test_predicted_iou_reorders_the_detections(files: Files) -> None:
    """A wrong detection that the detector prefers falls behind the right one where its predicted IoU is low."""
    box = INSTANCES[4][2]
    files.truth["annotations"] = files.truth["annotations"][4:]
    files.found = [
        {"image_id": 4, "category_id": 2, "bbox": [100, 10, 10, 10], "score": 0.9},
        {"image_id": 4, "category_id": 2, "bbox": as_bbox(box), "score": 0.6},
    ]
    task = files.read()
    assert evaluate_masks(task, filled)["map_50"] == pytest.approx(0.5, abs=0.01)

    def doubtful(picture: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
        return [
            (mask, 0.5 if box[0] == 100 else 0.9) for (mask, _), box in zip(filled(picture, boxes), boxes, strict=True)
        ]

    assert evaluate_masks(task, doubtful)["map_50"] == pytest.approx(1.0, abs=1e-9)


def test_a_task_serves_several_evaluations(files: Files) -> None:
    task = files.read()
    before = copy.deepcopy(task)
    first = evaluate_masks(task, shifted)
    assert task == before
    assert evaluate_masks(task, filled)["map"] == pytest.approx(1.0, abs=1e-9)
    assert evaluate_masks(task, shifted) == first


def test_chunks_of_boxes_share_one_encoding_and_change_no_figure(files: Files) -> None:
    encoded, sizes = [], []

    def encode(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        encoded.append(int(picture[0, -1, 2]))
        return picture

    def decode(embedding: NDArray[np.uint8], boxes: list[Box]) -> list[PromptedMask]:
        sizes.append(len(boxes))
        return shifted(embedding, boxes)

    task = files.read()
    names: list[str] = []
    chunked = evaluate_masks(task, encode_once(encode, decode), names.append, boxes_per_chunk=1)
    assert encoded == [7, 9, 4]
    assert sizes == [1] * 5
    assert names == ["7.png", "9.png", "4.png"]
    assert chunked == evaluate_masks(task, shifted)


def test_missed_pictures_count_against_the_detector(files: Files) -> None:
    files.found = files.found[:4]
    assert evaluate_masks(files.read(), filled)["map_large"] == 0.0
    files.found = []
    assert evaluate_masks(files.read(), filled)["map"] == 0.0


def test_limit_takes_the_first_pictures_and_their_boxes_only(files: Files) -> None:
    (files.pictures / "4.png").unlink()
    task = files.read(limit=2)
    assert [image.id for image in task.images] == [7, 9]
    assert [len(image.detections) for image in task.images] == [2, 2]
    assert evaluate_masks(task, filled)["map"] == pytest.approx(1.0, abs=1e-9)


def test_all_three_kinds_of_segmentation_give_the_same_code(files: Files) -> None:
    expected = [run_lengths.encode(np.asfortranarray(mask_of(box), np.uint8)) for _, _, box in INSTANCES]
    assert [run_lengths.iou([entry["segmentation"]], [code], [0])[0, 0] for entry, code in zip(
        files.read().truth, expected, strict=True
    )] == [1.0] * 5  # fmt: skip


def test_a_detailed_compressed_code_survives(files: Files) -> None:
    """Many runs, long and short, so differences of both signs occur in the text."""
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < np.linspace(0, 1, WIDTH)
    code = run_lengths.encode(np.asfortranarray(mask, np.uint8))
    files.truth["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}
    assert files.read().truth[0]["segmentation"]["counts"] == code["counts"]


def test_a_box_just_over_the_border_is_clipped_and_counted(files: Files) -> None:
    files.found[4]["bbox"] = [-2.5, 0, WIDTH + 5, HEIGHT]
    task = files.read()
    assert task.images[2].detections[0].box == (0, 0, WIDTH, HEIGHT)
    assert evaluate_masks(task, filled)["boxes_clipped"] == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_id", 12345, "unknown image id 12345"),
        ("image_id", None, "unknown image id None"),
        ("category_id", 8, "unknown category id 8"),
        ("category_id", [1], "unknown category id"),
        ("bbox", [10, 10, 0, 5], "has no area"),
        ("bbox", [10, 10, 5, -5], "has no area"),
        ("bbox", [200, 10, 5, 5], "leaves the picture of 120 x 90"),
        ("bbox", [100, 60, 115, 85], "leaves the picture"),  # corners given as width and height
        ("bbox", [10, 10, float("nan"), 5], "four numbers"),
        ("bbox", [10, 10, 5], "four numbers"),
        ("score", float("nan"), "score nan"),
        ("score", 1.5, "score 1.5"),
        ("score", "0.5", "score 0.5"),
    ],
)
def test_a_faulty_detection_is_named_in_one_line(files: Files, field: str, value: Any, message: str) -> None:
    files.found[3][field] = value
    with pytest.raises(UserError, match=message) as caught:
        files.read()
    assert "entry 3" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", 1, "not unique"),
        ("image_id", 77, "unknown image id 77"),
        ("category_id", 77, "unknown category id 77"),
        ("segmentation", [], "no polygons"),
        ("segmentation", [[1, 2, 3, 4]], "three or more corners"),
        ("segmentation", [[1, 2, 3, 4, 5, float("inf")]], "three or more corners"),
        ("segmentation", [[1, 2, 3, 4, 5, 1e12]], "far outside"),
        ("segmentation", {"size": [HEIGHT, WIDTH], "counts": [5, 10]}, "do not fill"),
        ("segmentation", {"size": [HEIGHT, WIDTH], "counts": "0o"}, "ends early"),
        ("segmentation", {"size": [HEIGHT, WIDTH], "counts": " "}, "text of run lengths"),
        ("segmentation", {"size": [HEIGHT, WIDTH], "counts": [-1, 2]}, "not numbers"),
        ("segmentation", {"size": [WIDTH, HEIGHT], "counts": [1]}, "picture's size"),
        ("area", float("nan"), "area nan"),
        ("iscrowd", 2, "iscrowd 2"),
    ],
)
def test_a_faulty_annotation_is_named_in_one_line(files: Files, field: str, value: Any, message: str) -> None:
    files.truth["annotations"][3][field] = value
    with pytest.raises(UserError, match=message) as caught:
        files.read()
    assert "annotation 3" in str(caught.value) and "\n" not in str(caught.value)


def test_faults_of_whole_files_are_named(files: Files) -> None:
    files.read()
    with pytest.raises(UserError, match=r"annotation file .*none\.json does not exist"):
        read_dataset(files.annotations.with_name("none.json"), files.pictures, files.boxes)
    with pytest.raises(UserError, match=r"box file .*none\.json does not exist"):
        read_dataset(files.annotations, files.pictures, files.boxes.with_name("none.json"))
    with pytest.raises(UserError, match=r"7\.png .*does not exist; check the image folder"):
        read_dataset(files.annotations, files.pictures.parent, files.boxes)
    files.boxes.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_dataset(files.annotations, files.pictures, files.boxes)
    files.boxes.write_text('{"boxes": []}')
    with pytest.raises(UserError, match="not a list"):
        read_dataset(files.annotations, files.pictures, files.boxes)
    files.annotations.write_text("[]")
    with pytest.raises(UserError, match="has no list of images"):
        read_dataset(files.annotations, files.pictures, files.boxes)


def test_a_picture_of_another_size_is_refused(files: Files) -> None:
    files.truth["images"][1]["width"] = 121
    with pytest.raises(UserError, match=r"120 x 90 pixels, .* says 121 x 90"):
        files.read()


@pytest.mark.parametrize(
    ("mask", "score", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), np.float32), 1.0, "mask of float32"),
        (np.zeros((WIDTH, HEIGHT), bool), 1.0, "the picture is"),
        (np.zeros((HEIGHT, WIDTH), bool), float("nan"), "predicted IoU of 7.png is nan"),
    ],
)
def test_a_segmenter_that_returns_nonsense_is_refused(files: Files, mask: Any, score: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_masks(files.read(), lambda _, boxes: [(mask, score) for _ in boxes])
