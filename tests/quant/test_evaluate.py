"""Figures of a toy model: whose masks they compare, over which prompts, and what is refused."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quant import evaluate as module
from quant.agreement import FakeQuantParameters
from quant.evaluate import (
    MaskAgreement,
    decoded_masks,
    evaluate,
    fake_quant_model,
    golden_segment,
    model_masks,
    with_retina,
)
from quant.pictures import PromptedPicture
from quant.reference import FloatReference
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.errors import UserError
from sim.contract.folder import TENSOR_FILE, read_folder
from sim.golden import GoldenModel
from sim.picture import intersection_over_union, load_picture, preprocess


@pytest.fixture(scope="module")
def golden(toy_folder: Path) -> GoldenModel:
    return GoldenModel.from_folder(toy_folder)


def with_truth(picture: PromptedPicture) -> PromptedPicture:
    """The left half of the picture is the truth of every box."""
    half = np.zeros(picture.pixels.shape[:2], bool)
    half[:, : picture.pixels.shape[1] // 2] = True
    return PromptedPicture(picture.name, picture.pixels, picture.boxes, (half,) * len(picture.boxes))


def test_every_box_has_a_mask_of_the_pictures_size_and_its_own_iou(golden: GoldenModel, toys_of_module: Any) -> None:
    (picture,) = toys_of_module.pictures(1)
    wide = PromptedPicture("wide", np.ascontiguousarray(picture.pixels[:40]), ((2, 2, 30, 30), (20, 5, 60, 38)))
    prepared = preprocess(wide.pixels, golden.architecture.input_format)
    embedding = golden.encode_image(prepared.pixels)
    results = decoded_masks(golden, embedding, prepared, wide.boxes)
    assert [mask.shape for mask, _ in results] == [(40, 64)] * 2 and results[0][0].dtype == np.bool_
    for (mask, quality), box in zip(results, wide.boxes, strict=True):
        whole = golden.segment(wide.pixels, box)
        assert np.array_equal(mask, whole.mask) and quality == whole.predicted_iou
    assert results[0][1] != results[1][1]
    assert all(map(np.array_equal, model_masks(golden, wide), [mask for mask, _ in results]))


def test_an_observer_sees_the_encoder_and_the_decoder_once(golden: GoldenModel, toys_of_module: Any) -> None:
    (picture,) = toys_of_module.pictures(1)
    seen: list[str] = []
    watched = model_masks(golden, picture, lambda name, _: seen.append(name))
    assert len(picture.boxes) == 2 and sorted(seen) == sorted(golden.parameters.operations)
    assert all(map(np.array_equal, watched, model_masks(golden, picture)))


def test_chunks_of_boxes_share_one_encoding(
    toy_folder: Path, toys_of_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = GoldenModel.encode_image

    def counted(model: GoldenModel, pixels: NDArray[np.float32], *observer: Any) -> NDArray[np.float32]:
        encoded.append(1)
        return encode(model, pixels, *observer)

    monkeypatch.setattr(GoldenModel, "encode_image", counted)
    segment = golden_segment(toy_folder)
    first, second = toys_of_module.pictures(2)
    chunks = [segment(first.pixels, list(first.boxes[:1])), segment(first.pixels, list(first.boxes[1:]))]
    assert len(encoded) == 1
    masks = model_masks(GoldenModel.from_folder(toy_folder), first)
    assert all(np.array_equal(chunk[0][0], mask) for chunk, mask in zip(chunks, masks, strict=True))
    segment(second.pixels, list(second.boxes))
    assert len(encoded) == 3  # model_masks, and the second picture


@pytest.fixture(scope="module")
def reference(toy_folder: Path, toys_of_module: Any) -> FloatReference:
    return FloatReference(read_folder(toy_folder).manifest)


@pytest.fixture(scope="module")
def pictures(toys_of_module: Any) -> list[PromptedPicture]:
    """Two boxes without and two with a truth."""
    plain, truthful = toys_of_module.pictures(2)
    return [plain, with_truth(truthful)]


@dataclass(frozen=True)
class Evaluated:
    """Figures of both pictures, and the names that progress was told."""

    figures: dict[str, Any]
    seen: list[str]


@pytest.fixture(scope="module")
def evaluated(toy_folder: Path, reference: FloatReference, pictures: list[PromptedPicture]) -> Evaluated:
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FloatReference", lambda *_: reference)
        return Evaluated(evaluate(toy_folder, pictures, seen.append, fake_quant=True), seen)


def test_figures_are_of_integer_masks_against_float_masks(
    evaluated: Evaluated, golden: GoldenModel, reference: FloatReference, pictures: list[PromptedPicture]
) -> None:
    figures = evaluated.figures
    assert evaluated.seen == ["retina", "toy 0", "toy 1"]
    json.dumps(figures, allow_nan=False)
    expected = [
        intersection_over_union(ours, theirs)
        for picture in pictures
        for ours, theirs in zip(
            model_masks(golden, picture), reference.masks(picture.pixels, picture.boxes), strict=True
        )
    ]
    assert [prompt["iou_to_float"] for prompt in figures["prompts"]] == expected
    assert figures["n_prompts"] == 4 and figures["min_iou_to_float"] == min(expected)
    assert figures["mean_iou_to_float"] == pytest.approx(np.mean(expected))
    assert min(expected) < 1, "with equal masks the figures would say nothing of whose they are"
    assert figures["masks_from"] == "golden integer model"


def test_truth_counts_where_there_is_one(
    evaluated: Evaluated, toy_folder: Path, golden: GoldenModel, pictures: list[PromptedPicture]
) -> None:
    figures = evaluated.figures
    assert [("int4_iou_to_truth" in prompt) for prompt in figures["prompts"]] == [False, False, True, True]
    ours = [intersection_over_union(mask, pictures[1].truth[0]) for mask in model_masks(golden, pictures[1])]
    assert figures["mean_iou_to_truth"]["int4"] == pytest.approx(np.mean(ours))
    assert figures["model_bytes"] == read_folder(toy_folder).size_bytes > 100_000


def test_every_operation_is_compared_with_float_arithmetic(evaluated: Evaluated, golden: GoldenModel) -> None:
    per_layer = evaluated.figures["per_layer"]
    assert sorted(one["name"] for one in per_layer) == sorted(golden.parameters.operations)
    for one in per_layer:
        if one["kind"] in ("QuantizedLayer", "Residual"):
            assert one["max_abs_error_lsb"] <= 0.51, one["name"]
    retina = evaluated.figures["retina"]
    assert set(retina["pixels"]) == {"int4", "float"} and 0 <= retina["iou_to_float"] <= 1


def test_fake_quantization_is_another_model_with_the_same_codes(
    evaluated: Evaluated, toy_folder: Path, golden: GoldenModel, pictures: list[PromptedPicture]
) -> None:
    simulated = fake_quant_model(read_folder(toy_folder))
    assert isinstance(simulated.parameters, FakeQuantParameters)
    prepared = preprocess(pictures[0].pixels, simulated.architecture.input_format)
    ours, theirs = simulated.encode_image(prepared.pixels), golden.encode_image(prepared.pixels)
    assert 0 < float(np.abs(ours - theirs).max() / np.abs(theirs).max()) < 0.5
    masks = zip(model_masks(golden, pictures[0]), model_masks(simulated, pictures[0]), strict=True)
    expected = [intersection_over_union(*pair) for pair in masks]
    assert [prompt["iou_to_fake_quant"] for prompt in evaluated.figures["prompts"][:2]] == expected
    assert evaluated.figures["mean_iou_to_fake_quant"] == pytest.approx(
        np.mean([prompt["iou_to_fake_quant"] for prompt in evaluated.figures["prompts"]])
    )


def test_the_built_in_pictures_are_the_default_and_no_prompts_have_no_means(
    toy_folder: Path, reference: FloatReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def none_built_in() -> list[PromptedPicture]:
        asked.append("built-in")
        return []

    monkeypatch.setattr(module, "FloatReference", lambda *_: reference)
    monkeypatch.setattr(module, "agreement", lambda executed: {"name": executed.name})
    monkeypatch.setattr(module, "builtin_evaluation", none_built_in)
    figures = evaluate(toy_folder, None, lambda _: None)
    assert asked == ["built-in"] and figures["n_prompts"] == 0 and figures["prompts"] == []
    means = [figures[key] for key in ("mean_iou_to_float", "min_iou_to_float", "mean_iou_to_fake_quant")]
    assert means == [None] * 3 and figures["mean_iou_to_truth"] == {"int4": None, "float": None}


def test_the_retina_is_encoded_once_where_it_is_among_the_pictures(toys_of_module: Any) -> None:
    retina = PromptedPicture("mine", load_picture(retina_picture()), (RETINA_BOX,))
    other = toys_of_module.pictures(1)[0]
    assert [one.name for one in with_retina([other, retina])] == [other.name, "mine"]
    assert [one.name for one in with_retina([other])] == ["retina", other.name]
    moved = PromptedPicture("mine", retina.pixels, ((0.0, 0.0, 9.0, 9.0),))
    assert [one.name for one in with_retina([moved])] == ["retina", "mine"]


def test_mask_agreement_has_the_figures_of_evaluate_and_asks_the_float_model_once(
    evaluated: Evaluated,
    toy_folder: Path,
    reference: FloatReference,
    pictures: list[PromptedPicture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def float_reference(manifest: object) -> FloatReference:
        asked.append(manifest)
        return reference

    monkeypatch.setattr(module, "FloatReference", float_reference)
    measure = MaskAgreement(pictures)
    first = measure(toy_folder)
    shared = [key for key in first if key != "mean_iou_to_fake_quant"]
    assert "model_bytes" in shared and all(first[key] == evaluated.figures[key] for key in shared)
    assert measure(toy_folder) == first and len(asked) == 1


def test_a_checkpoint_beside_synthetic_weights_is_refused(
    toy_folder: Path, toys_of_module: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"made from synthetic weights; leave --checkpoint out"):
        evaluate(toy_folder, [], lambda _: None, checkpoint=tmp_path / "some.pth")


def test_a_damaged_folder_is_refused_before_anything_runs(
    toy_folder: Path, toys_of_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(toy_folder, copy)
    content = bytearray((copy / TENSOR_FILE).read_bytes())
    content[-1] ^= 1
    (copy / TENSOR_FILE).write_bytes(content)

    def runs(*_arguments: object) -> None:
        raise AssertionError("a model of a damaged folder")

    monkeypatch.setattr(GoldenModel, "from_contents", runs)
    with pytest.raises(UserError, match="does not match the hash"):
        evaluate(copy, [], lambda _: None)
    with pytest.raises(UserError, match="does not match the hash"):
        GoldenModel.from_folder(copy)
