"""The SAM wrapper against the package's classes, and what is refused as a checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quant.models.layer_call import run
from quant.models.promptable import PromptableModel
from quant.models.registry import load_model
from quant.models.sam import SHAPES, SamVit, load_sam
from quant.models.segment_anything_parts import load_modeling
from sim.contract.errors import UserError
from sim.picture import VIT_TEST, mask_from_logits, preprocess


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    return load_model("vit_test", seed=4)


def test_a_picture_and_a_box_give_the_packages_logits(model: PromptableModel) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    prepared = preprocess(picture, VIT_TEST)
    boxes = [(30.0, 20.0, 150.0, 180.0), (0.0, 0.0, 300.0, 200.0)]
    with torch.inference_mode():
        embedding = run(model.encoder_steps(prepared))
        logits, quality = run(model.prompt_steps(embedding, prepared, boxes))
        expected_embedding = model.image_encoder(torch.from_numpy(prepared.pixels))
        corners = torch.tensor(boxes) * (256 / 300)
        sparse, dense = model.prompt_encoder(points=None, boxes=corners, masks=None)
        expected, expected_quality = model.mask_decoder(
            image_embeddings=expected_embedding,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    torch.testing.assert_close(embedding, expected_embedding.permute(0, 2, 3, 1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, expected[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quality, expected_quality[:, 0], rtol=1e-3, atol=1e-3)
    assert logits.shape == (2, 64, 64)
    assert mask_from_logits(logits[0].numpy(), prepared).shape == (200, 300)


def test_input_and_output_on_the_picture_are_the_packages(model: PromptableModel) -> None:
    parts = {name: getattr(model, name) for name in ("image_encoder", "prompt_encoder", "mask_decoder")}
    package = load_modeling().Sam(**parts)
    picture = np.random.default_rng(2).integers(0, 256, (150, 220, 3)).astype(np.uint8)
    prepared = preprocess(picture, VIT_TEST)
    scaled = np.asarray(Image.fromarray(picture).resize(prepared.scaled_size, Image.Resampling.BILINEAR))
    expected = package.preprocess(torch.from_numpy(scaled.copy()).permute(2, 0, 1)[None])
    torch.testing.assert_close(torch.from_numpy(prepared.pixels), expected)
    assert prepared.scaled_size == (256, 175) and (prepared.pixels[..., 175:, :] == 0).all()
    logits = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    mask = package.postprocess_masks(torch.from_numpy(logits)[None, None], (175, 256), (150, 220)) > 0
    assert (mask_from_logits(logits, prepared) == mask[0, 0].numpy()).mean() > 0.999


def test_a_picture_prepared_for_another_side_is_refused(model: PromptableModel) -> None:
    prepared = preprocess(np.zeros((9, 9, 3), np.uint8), SHAPES["vit_b"].input_format)
    with pytest.raises(ValueError, match="side of 1024, the encoder takes 256"):
        model.encoder_steps(prepared)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_sizes_are_those_of_the_package(name: str) -> None:
    with torch.device("meta"):
        encoder = SamVit(SHAPES[name]).image_encoder
    millions = {"vit_b": 89.7, "vit_l": 308.3, "vit_h": 637.0}  # published parameter counts of the encoders, rounded
    assert sum(one.numel() for one in encoder.parameters()) / 1e6 == pytest.approx(millions[name], abs=0.1)


def test_a_checkpoint_is_read_back(model: PromptableModel, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(model.state_dict(), path)
    loaded = load_model("vit_test", path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def fake_checkpoint(path: Path, channels: int, depth: int) -> Path:
    """A file that looks like a Segment Anything checkpoint of that size and holds next to nothing."""
    state: dict[str, Tensor] = {"image_encoder.patch_embed.proj.weight": torch.zeros(channels, 3, 16, 16)}
    state |= {f"image_encoder.blocks.{index}.norm1.weight": torch.ones(1) for index in range(depth)}
    torch.save(state, path)
    return path


def test_a_checkpoint_of_another_size_is_named(tmp_path: Path) -> None:
    path = fake_checkpoint(tmp_path / "large.pth", 1024, 24)
    with pytest.raises(UserError, match=r"large\.pth holds vit_l, not vit_b; give --model vit_l"):
        load_model("vit_b", path)


def test_a_checkpoint_of_no_known_size_says_what_does_not_fit(tmp_path: Path) -> None:
    path = fake_checkpoint(tmp_path / "odd.pth", 24, 2)
    with pytest.raises(UserError, match=r"odd\.pth does not fit vit_test of Segment Anything: Missing key"):
        load_model("vit_test", path)


def test_a_checkpoint_with_infinity_is_refused(model: PromptableModel, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    state["image_encoder.neck.1.bias"] = torch.full((256,), float("inf"))
    torch.save(state, tmp_path / "inf.pth")
    with pytest.raises(UserError, match=r"image_encoder\.neck\.1\.bias holds a value that is not finite"):
        load_model("vit_test", tmp_path / "inf.pth")


class Surprise:
    """Unpickling this would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weight": Surprise(tmp_path / "touched")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth cannot be read .*; give sam_vit_b_01ec64\.pth from https"):
        load_model("vit_b", tmp_path / "bad.pth")
    assert not (tmp_path / "touched").exists()


def test_a_missing_checkpoint_names_the_file_and_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"absent\.pth does not exist; give .*sam_vit_h_4b8939\.pth from https://github"
    ):
        load_sam(SHAPES["vit_h"], tmp_path / "absent.pth")
