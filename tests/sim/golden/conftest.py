"""Small models, TinyViT and ViT, of random weights: in float as torch networks, in integers as model folders."""

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant.models.layer_call import Steps, run
from quant.models.promptable import AttentionShape, PromptableModel
from quant.models.sam import SamShape, SamVit
from quant.models.tiny_vit import StageShape, TinyViT
from sim.contract.folder import ModelFolder, write_folder
from sim.golden import GoldenModel
from sim.picture import LITE_MEDSAM, VIT_TEST, Box, InputFormat, Preprocessed, preprocess

SIDE = 64
BOX: Box = (20.0, 20.0, 100.0, 70.0)

STAGES = (
    StageShape(channels=16, depth=1, heads=1, window=7, downsample_stride=2),
    StageShape(channels=24, depth=1, heads=2, window=3, downsample_stride=2),
    StageShape(channels=32, depth=2, heads=2, window=5, downsample_stride=1),
    StageShape(channels=48, depth=1, heads=3, window=3, downsample_stride=0),
)
"""Every kind of block of LiteMedSAM on maps of 64, 32 and 16 pixels, which no window divides."""

VIT = SamShape("toy_vit", 32, 3, 2, (1,), "", window=3, input_format=replace(VIT_TEST, side=SIDE))
"""A map of 4 x 4 patches in windows of 3, padded to 6."""

EPSILONS = {"transformer": 1e-5, "channels_first": 1e-6}


def load_byte_export() -> Any:
    """The exporter beside this file; tests are imported without packages."""
    spec = importlib.util.spec_from_file_location("golden_byte_export", Path(__file__).with_name("byte_export.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ToyTinyVit(PromptableModel):
    """LiteMedSAM with the encoder of STAGES."""

    image_encoder: TinyViT

    def __init__(self) -> None:
        input_format: InputFormat = replace(LITE_MEDSAM, side=SIDE)
        super().__init__(TinyViT(STAGES), input_format, SIDE // 4)
        self.image_encoder.fold_norms()

    def image_steps(self, x: Tensor) -> Steps[Tensor]:
        return self.image_encoder.steps(x)

    def encoder_attention(self) -> list[AttentionShape]:
        return []


def fill(model: nn.Module, seed: int) -> None:
    """Random parameters that keep signals near a standard deviation of one, and make every bias and table count."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).clamp(-2, 2)
        if name.endswith(("rel_pos_h", "rel_pos_w")):
            value = 0.3 * noise
        elif name.endswith("attention_biases"):
            value = noise
        elif name.endswith("pos_embed"):
            # 7 bits, which are stored without loss.
            value = torch.round(noise * 32) / 32
        elif parameter.ndim == 1:
            value = 1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise
        else:
            inputs = parameter.shape[0] if "output_upscaling" in name else math.prod(parameter.shape[1:])
            # No LayerNorm keeps the signal up in front of stage 1.
            gain = 1.6 if name.startswith(("image_encoder.patch_embed.seq", "image_encoder.layers.0.")) else 1.0
            value = gain * noise / math.sqrt(1 if "embed" in name and parameter.ndim == 2 else inputs)
        parameter.data.copy_(value)


@dataclass(frozen=True)
class Toy:
    """A float model, its integer folder in memory, and what the float model makes of the picture."""

    torch_model: PromptableModel
    folder: ModelFolder
    prepared: Preprocessed
    embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
    predicted_iou: float

    def model(self) -> GoldenModel:
        return GoldenModel.from_contents(self.folder)


def export(model: PromptableModel, picture: NDArray[np.uint8], encoder: dict[str, Any], normalisation: str) -> Toy:
    module = load_byte_export()
    handler = module.ByteExport()
    prepared = preprocess(picture, model.input_format)
    with torch.no_grad():
        embedding = run(model.encoder_steps(prepared), handler)
        logits, quality = run(model.prompt_steps(embedding, prepared, [BOX]), handler)
    tensors = {name: value.numpy().astype(np.float32) for name, value in model.state_dict().items()}
    gone = tuple(f"{name}." for name in handler.operations)
    manifest = {
        "model": "toy",
        "bits": {"weight": 8, "activation": 8},
        "source": {"file": "none"},
        "created": {"seed": 0},
        "architecture": {
            "input": {"side": SIDE, "normalisation": normalisation, "exponent": module.EXPONENT},
            "encoder": encoder,
            "decoder": {"depth": 2, "heads": 8},
            "layer_norm_epsilon": EPSILONS,
        },
    }
    kept = {name: value for name, value in tensors.items() if not f"{name}.".startswith(gone)}
    return Toy(
        torch_model=model,
        folder=ModelFolder(handler.operations, kept, manifest),
        prepared=prepared,
        embedding=embedding[0].numpy(),
        logits=logits[0].numpy(),
        predicted_iou=float(quality[0]),
    )


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A bright ellipse on a gradient, 90 rows by 120 columns, RGB."""
    y, x = np.mgrid[0:90, 0:120]
    grey = 40 + 0.5 * x + 0.3 * y
    grey[((x - 60) / 30.0) ** 2 + ((y - 45) / 20.0) ** 2 < 1] = 220
    noise = np.random.default_rng(7).normal(0, 4, (90, 120, 3))
    return np.clip(grey[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def toy_tiny_vit(picture: NDArray[np.uint8]) -> Toy:
    model = ToyTinyVit().eval().requires_grad_(False)
    fill(model, 1)
    stages = [
        {key: getattr(stage, key) for key in ("depth", "heads", "window", "downsample_stride")} for stage in STAGES
    ]
    return export(model, picture, {"kind": "tiny_vit", "stages": stages}, "min_max")


@pytest.fixture(scope="session")
def toy_sam_vit(picture: NDArray[np.uint8]) -> Toy:
    model = SamVit(VIT).eval().requires_grad_(False)
    fill(model, 2)
    encoder = {"depth": VIT.depth, "heads": VIT.heads, "window": VIT.window, "global_blocks": list(VIT.global_blocks)}
    return export(model, picture, {"kind": "sam_vit", "patch": 16, **encoder}, "mean_std")


@pytest.fixture(scope="session", params=["toy_tiny_vit", "toy_sam_vit"])
def toy(request: pytest.FixtureRequest) -> Toy:
    """Each of the two small models in turn."""
    made: Toy = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="session")
def toy_folder(toy_tiny_vit: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small TinyViT as a folder on disk."""
    contents = toy_tiny_vit.folder
    folder = tmp_path_factory.mktemp("toy") / "model"
    tensors = {f"float.{name}": value for name, value in contents.tensors.items()}
    write_folder(folder, contents.operations, tensors, contents.manifest)
    return folder


@pytest.fixture(scope="session")
def toy_box() -> Box:
    """The box that `logits` and `predicted_iou` of a Toy belong to."""
    return BOX
