"""What a folder stores, and how many bytes that takes at full shape."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant.assemble import stored_positions
from quant.calibrate import Calibration
from quant.export import (
    NOT_EXPORTED,
    POSITIONS,
    WEIGHT_ONLY_8_BIT,
    Calibrated,
    architecture,
    channel_axis,
    integer_operations,
    is_dense,
    quantized_names,
    remaining_tensors,
    report_of,
    round_stored_weights,
    write_model,
)
from quant.fake_quant import FakeQuant, FakeQuantAttention, FakeQuantLinear, OperandGrid
from quant.gptq import RoundedWeight
from quant.input_grid import InputGrid, uniform_levels
from quant.models.layer_call import AttentionCall, DecomposedBias, weight_matrix
from quant.models.promptable import AttentionShape, PromptableModel
from quant.models.registry import load_model, shape_only
from quant.operand_grid import operand_limits
from quant.recipe import DEFAULT
from quant.score_grid import ScoreGrid
from sim.contract.constants import TILE_CHANNELS
from sim.contract.folder import read_folder
from sim.contract.layer import weight_limits
from sim.golden.architecture import Architecture

LARGEST_VIT_B_BYTES = 50_000_000
REPORT_BYTES = 300_000
"""What is left for the report: 249,161 bytes after a whole run."""

STEP = 0.315
"""Of 4-bit weights, in standard deviations: they then have 3.67 bits of entropy, against 3.64 after a whole run. So
they take more bytes here than there."""


def random_linear(name: str, weight: Tensor, generator: torch.Generator) -> FakeQuantLinear:
    """Normally distributed weights (the distribution of most entropy for its energy), scales within a factor of 3."""
    outputs, inputs = weight.shape
    tiles = -(-inputs // TILE_CHANNELS)
    bits = DEFAULT.weight_bits(name)
    integers = torch.randn(outputs, inputs, generator=generator) / (STEP / 2 ** (bits - 4))
    grid = InputGrid(
        permutation=torch.randperm(inputs, generator=generator),
        scale=1 + torch.rand(tiles, generator=generator),
        offset=torch.randn(inputs, generator=generator),
        levels=(uniform_levels(DEFAULT.input_bits(name)),) * tiles,
        bits=DEFAULT.input_bits(name),
    )
    return FakeQuantLinear(
        grid=grid,
        weight=RoundedWeight(
            integers.round().clamp(*weight_limits(bits)),
            torch.exp(0.3 * torch.randn(tiles, outputs, generator=generator)) / 2 ** (bits + 6),
            bits,
        ),
        bias=torch.randn(outputs, generator=generator),
    )


def random_attention(name: str, heads: int, width: int, generator: torch.Generator) -> FakeQuantAttention:
    def operand(stationary: bool) -> OperandGrid:
        low, high = operand_limits(DEFAULT.input_bits(name), stationary)
        return OperandGrid(
            torch.rand(heads, 1, width, generator=generator) / 64, torch.zeros(heads, 1, width), low, high
        )

    codes = 2 ** DEFAULT.score_bits(name)
    scores = ScoreGrid((torch.arange(codes - 1).double() + 0.5) / codes, torch.arange(codes), 1 / codes)
    return FakeQuantAttention(operand(False), operand(True), operand(True), scores)


class MadeWhenAsked(dict[str, FakeQuant]):
    """Random operations by name, none of which is kept: those of a whole ViT-B would take hundreds of megabytes."""

    def __init__(self, model: PromptableModel) -> None:
        super().__init__()
        self.model = model
        self.generator = torch.Generator().manual_seed(0)

    def __missing__(self, name: str) -> FakeQuant:
        module: Any = self.model.get_submodule(name.removesuffix(".attend"))
        if isinstance(module, nn.Linear | nn.Conv2d):
            return random_linear(name, weight_matrix(module), self.generator)
        heads, width = heads_and_width(module)
        return random_attention(name, heads, width, self.generator)


def heads_and_width(attention: Any) -> tuple[int, int]:
    """Of an attention of the encoder or of the mask decoder."""
    channels = attention.qkv.in_features if hasattr(attention, "qkv") else attention.internal_dim
    return attention.num_heads, channels // attention.num_heads


def call_of(model: PromptableModel, shape: AttentionShape) -> AttentionCall:
    """A call without operands."""
    module: Any = model.get_submodule(shape.name)
    bias = None
    if hasattr(module, "rel_pos_h"):
        height, width = (len(table) // 2 + 1 for table in (module.rel_pos_h, module.rel_pos_w))
        bias = DecomposedBias(module.rel_pos_h, module.rel_pos_w, height, width)
    nothing = torch.zeros(0)
    return AttentionCall(f"{shape.name}.attend", nothing, nothing, nothing, shape.head_channels**-0.5, bias)


@pytest.fixture(scope="module")
def vit_b() -> Calibrated:
    """ViT-B at full shape, normally distributed parameters, no calibration."""
    model = shape_only("vit_b").to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        tensor.normal_(generator=generator)
    round_stored_weights(model)
    largest: dict[str, float] = defaultdict(lambda: 8.0)
    found = Calibration(quantized=MadeWhenAsked(model), largest=largest, largest_input=largest)
    calls = [call_of(model, shape) for shape in (*model.encoder_attention(), *model.decoder_attention())]
    return Calibrated(model, found, {call.name: call for call in calls})


def test_a_folder_of_vit_b_is_at_most_50_megabytes(vit_b: Calibrated, tmp_path: Path) -> None:
    operations = integer_operations(vit_b)
    assert set(quantized_names(vit_b.model)) < set(operations)
    description = {"model": "vit_b", "bits": 4, "source": {}, "created": {}}
    write_model(tmp_path / "model", vit_b, description, operations)
    total = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert 40_000_000 < total <= LARGEST_VIT_B_BYTES - REPORT_BYTES


def test_positions_are_rounded_before_calibration_to_what_the_addition_holds(vit_b: Calibrated) -> None:
    tensor = vit_b.model.state_dict()[POSITIONS].numpy()
    positions, exponent = stored_positions(POSITIONS, tensor)
    assert (positions.at(exponent).real() == tensor[0]).all()


def test_no_parameter_of_the_encoder_is_stored_as_float() -> None:
    model = load_model("vit_test")
    names = remaining_tensors(model)
    assert names and not any("image_encoder" in name for name in names)


@pytest.fixture(scope="module")
def small() -> PromptableModel:
    """What is stored of vit_test, as calibration sees it."""
    model = load_model("vit_test")
    with torch.no_grad():
        round_stored_weights(model)
    return model


def test_what_calibration_sees_in_float_is_what_the_folder_keeps(small: PromptableModel) -> None:
    for name, stored in remaining_tensors(small).items():
        if name.endswith(".scale"):
            continue
        kind, _, parameter = name.partition(".")
        kept = stored.astype(np.float32)
        if kind == "int8":
            kept = kept * remaining_tensors(small)[f"{name}.scale"]
        np.testing.assert_array_equal(kept, small.state_dict()[parameter].numpy(), err_msg=name)


def test_rounding_what_is_rounded_changes_nothing(small: PromptableModel) -> None:
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with torch.no_grad():
        round_stored_weights(small)
    assert [name for name, value in small.state_dict().items() if not torch.equal(value, before[name])] == []


def test_four_layers_of_the_decoder_are_stored_in_bytes_with_a_scale_per_output(small: PromptableModel) -> None:
    stored = remaining_tensors(small)
    bytes_ = {name.removeprefix("int8."): value for name, value in stored.items() if value.dtype == np.int8}
    assert set(bytes_) == set(WEIGHT_ONLY_8_BIT)
    for name, value in bytes_.items():
        axis = channel_axis(name)
        assert axis == (1 if "upscaling" in name else 0)
        scale = stored[f"int8.{name}.scale"]
        assert scale.shape == tuple(size if place == axis else 1 for place, size in enumerate(value.shape))
        assert int(np.abs(value).max()) == 127
    frequencies = [value.dtype for name, value in stored.items() if ".pe_layer." in name]
    assert frequencies == [np.float32]


def test_what_a_box_with_one_mask_never_uses_is_neither_stored_nor_quantized(small: PromptableModel) -> None:
    names = [name.partition(".")[2] for name in remaining_tensors(small)] + quantized_names(small)
    unused = (
        "output_hypernetworks_mlps.1.",
        "output_hypernetworks_mlps.3.",
        "mask_downscaling",
        "not_a_point",
        "gs.0.",
    )
    assert not [name for name in names if any(part in name for part in unused)]
    assert all(any(name.startswith(prefix) for name in small.state_dict()) for prefix in NOT_EXPORTED)


def test_every_dense_layer_is_quantized_or_stored_in_bytes(small: PromptableModel) -> None:
    quantized = set(quantized_names(small))
    assert len(quantized) == len(quantized_names(small))
    for name, module in small.named_modules():
        if name.startswith(("prompt_encoder.", *NOT_EXPORTED)):
            assert name not in quantized
        elif isinstance(module, nn.Linear | nn.Conv2d):
            assert (name in quantized) == is_dense(name, module) == (f"{name}.weight" not in WEIGHT_ONLY_8_BIT), name
    attentions = [*small.encoder_attention(), *small.decoder_attention()]
    assert {f"{one.name}.attend" for one in attentions} == {name for name in quantized if name.endswith(".attend")}


@pytest.mark.parametrize(("name", "exponent"), [("lite_medsam", -14), ("vit_test", -13), ("vit_h", -13)])
def test_the_golden_model_reads_the_numbers_of_the_network(name: str, exponent: int) -> None:
    model = shape_only(name)
    written = json.loads(json.dumps(architecture(model)))
    shape = Architecture.from_manifest({"architecture": written})
    assert shape.input_format.side == model.input_format.side and shape.input_exponent == exponent
    largest = 1.0 if exponent == -14 else 2.7
    assert largest < np.ldexp(32767.0, exponent) < 2 * largest


def test_a_report_is_read_back_and_none_is_none(toy_folder: Path, tmp_path: Path) -> None:
    assert report_of(tmp_path) is None
    report = report_of(toy_folder)
    assert report is not None and report["model"] == "vit_test"
    assert set(report["layers"]) < set(read_folder(toy_folder).operations)
