"""Integer operations built by running the network over shapes: which, in which order, between which exponents."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from quant.assemble import Assembly
from quant.calibrate import Calibration
from quant.export import Calibrated, architecture, integer_operations, quantized_names, remaining_tensors
from quant.integers import exponent_for
from quant.models.registry import load_model
from quant.quantize import quantize_model
from sim.contract.attention import Attention
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide
from sim.golden import GoldenModel
from sim.golden.architecture import Architecture
from sim.golden.parameters import Executed, Parameters
from sim.golden.rehearsal import blank

PATCHES = "image_encoder.patch_embed.proj"


@dataclass(frozen=True)
class Toy:
    """The toy model, calibrated, with its operations in integers."""

    calibrated: Calibrated
    operations: dict[str, Operation]

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_manifest({"architecture": architecture(self.calibrated.model)})

    def golden(self) -> GoldenModel:
        """The golden model of what would be exported. Small tensors keep the precision that the folder gives them."""
        tensors = {
            name.removeprefix("float."): value.astype(np.float32)
            for name, value in remaining_tensors(self.calibrated.model).items()
            if name.startswith("float.")
        }
        for name, value in remaining_tensors(self.calibrated.model).items():
            if name.startswith("int8.") and not name.endswith(".scale"):
                scale = remaining_tensors(self.calibrated.model)[f"{name}.scale"]
                tensors[name.removeprefix("int8.")] = value.astype(np.float32) * scale
        return GoldenModel(Parameters(tensors, self.operations), self.architecture)

    def assembly(self, found: Calibration | None = None) -> Assembly:
        """Nothing built yet."""
        return Assembly(
            tensors={},
            model=self.calibrated.model,
            found=found or self.calibrated.found,
            attentions=self.calibrated.attentions,
            operations={},
        )


@pytest.fixture(scope="module")
def toy(toys_of_module: Any) -> Toy:
    model = load_model("vit_test")
    calibrated = quantize_model(model, toys_of_module.pictures(), toys_of_module.quick, lambda _: None)
    return Toy(calibrated, integer_operations(calibrated))


def test_every_quantized_operation_is_built_once_in_the_order_of_the_network(toy: Toy) -> None:
    """The golden model refuses to miss an operation and to be left with one."""
    seen: list[str] = []

    def note(name: str, _executed: Executed) -> None:
        seen.append(name)

    golden = toy.golden()
    side = golden.architecture.input_format.side
    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, side, side)).astype(np.float32)
    embedding = golden.encode_image(pixels, note)
    golden.decode(embedding, np.array([3, 3, 40, 50], np.float32), note)
    assert seen == list(toy.operations)
    dense = {name for name, one in toy.operations.items() if isinstance(one, QuantizedLayer | Attention)}
    assert dense == set(quantized_names(toy.calibrated.model)) == set(toy.calibrated.found.quantized)


def test_an_operation_is_named_as_it_is_stored(toy: Toy) -> None:
    assert all(name == operation.name for name, operation in toy.operations.items())


def test_exponents_hold_what_calibration_saw_with_a_margin(toy: Toy) -> None:
    for name, operation in toy.operations.items():
        largest = toy.calibrated.found.largest[name]
        assert np.ldexp(32767.0, operation.wide_exponent) >= 1.5 * largest, name
        if isinstance(operation, Residual):
            assert operation.wide_exponent == exponent_for(largest), name


def test_an_addition_takes_both_operands_as_they_come(toy: Toy) -> None:
    block = "image_encoder.blocks.0"
    first, second = toy.operations[f"{block}.attn.add"], toy.operations[f"{block}.mlp.add"]
    assert isinstance(first, Residual) and isinstance(second, Residual)
    assert first.first_exponent == toy.operations["image_encoder.pos_embed"].wide_exponent
    assert first.second_exponent == toy.operations[f"{block}.attn.proj"].wide_exponent
    assert (second.first_exponent, second.second_exponent) == (
        first.wide_exponent,
        toy.operations[f"{block}.mlp.lin2"].wide_exponent,
    )


def test_a_layer_behind_a_float_part_reads_the_exponent_of_its_largest_input(toy: Toy) -> None:
    name = "mask_decoder.transformer.layers.0.mlp.lin2"
    layer = toy.operations[name]
    assert isinstance(layer, QuantizedLayer)
    assert layer.encoder.input_exponent == exponent_for(toy.calibrated.found.largest_input[name])


def test_a_layer_is_built_for_what_arrives_and_only_once(toy: Toy) -> None:
    assembly = toy.assembly()
    channels = toy.calibrated.model.get_submodule(PATCHES).weight[0].numel()  # type: ignore[index]
    result = assembly.linear(PATCHES, blank((4, 4, channels), -11))
    built = assembly.operations[PATCHES]
    assert isinstance(built, QuantizedLayer) and built.encoder.input_exponent == -11
    assert result.values.shape == (4, 4, 32) and result.exponent == built.wide_exponent
    assembly.linear(PATCHES, blank((2, 2, channels), -11))
    assert assembly.operations[PATCHES] is built and list(assembly.operations) == [PATCHES]
    with pytest.raises(UserError, match=rf"{PATCHES} takes {channels} channels at exponent -11, the network gives it"):
        assembly.linear(PATCHES, blank((2, 2, channels), -10))


def test_nothing_is_computed_while_operations_are_built(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("an operation runs")

    for kind in (QuantizedLayer, Attention, Residual):
        monkeypatch.setattr(kind, "run", refuse)
    assert list(integer_operations(toy.calibrated)) == list(toy.operations)


def test_building_again_gives_the_same_bits(toy: Toy) -> None:
    again = integer_operations(toy.calibrated)
    x = Wide(np.random.default_rng(1).integers(-3000, 3000, (9, 32)).astype(np.int16), 0)
    for name in ("image_encoder.blocks.0.mlp.lin1", "image_encoder.blocks.1.attn.qkv"):
        first, second = toy.operations[name], again[name]
        assert isinstance(first, QuantizedLayer) and isinstance(second, QuantizedLayer)
        inputs = Wide(x.values, first.encoder.input_exponent)
        assert np.array_equal(first.run(inputs)[1].values, second.run(inputs)[1].values)


def test_what_calibration_did_not_find_is_a_fault_of_the_program(toy: Toy) -> None:
    found = toy.calibrated.found
    without = replace(found, quantized={name: one for name, one in found.quantized.items() if name != PATCHES})
    channels = toy.calibrated.model.get_submodule(PATCHES).weight[0].numel()  # type: ignore[index]
    with pytest.raises(KeyError, match=PATCHES):
        toy.assembly(without).linear(PATCHES, blank((4, 4, channels), -11))


def test_the_folded_norm_gives_what_the_float_one_gives(toy: Toy) -> None:
    """The norm is the equalised one of the model, not that of the checkpoint."""
    name = "image_encoder.blocks.0.norm1"
    norm = toy.operations[name]
    values = np.random.default_rng(2).integers(-9000, 9000, (5, 32)).astype(np.int16)
    x = Wide(values, norm.input_exponent)  # type: ignore[union-attr]
    module = toy.calibrated.model.get_submodule(name)
    with torch.no_grad():
        expected = module(torch.from_numpy(x.real())).numpy()
    reached = norm.run(x).real()  # type: ignore[union-attr,call-arg]
    assert float(np.abs(reached - expected).max()) < 0.01 * float(np.abs(expected).max())
