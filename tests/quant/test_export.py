"""What a folder stores, and how many bytes that takes at full shape."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant.assemble import stored_positions
from quant.calibrate import Calibration
from quant.export import (
    POSITIONS,
    Calibrated,
    integer_operations,
    quantized_names,
    remaining_tensors,
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
from sim.contract.layer import weight_limits

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
