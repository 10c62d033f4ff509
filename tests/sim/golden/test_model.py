"""A folder executed as a whole: quantized layers by the contract, taps, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear
from sim.golden import GoldenModel
from sim.golden.parameters import Parameters
from sim.golden.tap import layer_codes

BOX = (20.0, 20.0, 100.0, 70.0)


@pytest.fixture(scope="module")
def model(toy_folder: Path) -> GoldenModel:
    return GoldenModel.from_folder(toy_folder)


def wide_by_definition(codes: NDArray[np.uint8], layer: QuantizedLinear) -> list[int]:
    """Wide results of one token, straight from the definition, in Python integers."""
    results = []
    for n in range(layer.out_features):
        accumulator = int(layer.bias[n]) << 2
        for t in range(layer.tiles):
            total = 0
            for k in range(64 * t, min(64 * t + 64, layer.in_features)):
                total += int(layer.weight[n, k]) * int(layer.codebooks[t, codes[k]])
            accumulator += int(layer.scale[t, n]) * total
        floor, remainder = accumulator >> 10, accumulator & 0x3FF
        rounded = floor + (remainder > 0x200 or (remainder == 0x200 and floor % 2 == 1))
        results.append(max(-(1 << 15), min((1 << 15) - 1, rounded)))
    return results


def test_every_quantized_layer_runs_the_contract(model: GoldenModel, picture: NDArray[np.uint8]) -> None:
    taps: dict[str, tuple[NDArray[np.uint8], NDArray[np.int16]]] = {}

    def keep(name: str, codes: NDArray[np.uint8], wide: NDArray[np.int16]) -> None:
        assert name not in taps, f"{name} ran twice"
        taps[name] = (codes, wide)

    model.segment(picture, BOX, keep)
    layers = model.parameters.quantized
    assert taps.keys() == layers.keys()
    rng = np.random.default_rng(3)
    for name, (codes, wide) in taps.items():
        layer = layers[name]
        assert codes.shape[:-1] == wide.shape[:-1] and codes.max() < 16
        tokens, results = codes.reshape(-1, layer.in_features), wide.reshape(-1, layer.out_features)
        for index in rng.integers(0, tokens.shape[0], 2):
            assert results[index].tolist() == wide_by_definition(tokens[index], layer), name
    several_tiles = [layer for layer in layers.values() if layer.tiles > 1]
    assert several_tiles and any(layer.in_features % 64 for layer in several_tiles)


def test_every_layer_stays_near_the_float_layer_it_stands_for(
    model: GoldenModel, toy_float: Parameters, picture: NDArray[np.uint8], with_twins: Callable[..., Any]
) -> None:
    compared, errors = with_twins(model, Parameters(toy_float.tensors, {}))
    compared.segment(picture, BOX)
    assert errors.keys() == model.parameters.quantized.keys()
    assert max(errors.values()) < 0.1


def test_two_runs_give_the_same_bits(model: GoldenModel, picture: NDArray[np.uint8]) -> None:
    first, second = model.segment(picture, BOX), model.segment(picture, BOX)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.predicted_iou == second.predicted_iou
    assert first.mask.shape == picture.shape[:2] and first.mask.dtype == np.bool_


def test_box_moves_the_mask(model: GoldenModel, picture: NDArray[np.uint8]) -> None:
    assert not np.array_equal(model.segment(picture, BOX).logits, model.segment(picture, (0.0, 0.0, 30.0, 30.0)).logits)


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        ("image_encoder.layers.0.blocks.0.conv1.c", (256, 256)),
        ("image_encoder.layers.2.blocks.0.attn.qkv", (25, 196)),
        ("image_encoder.layers.3.blocks.0.attn.proj", (100, 49)),
        ("image_encoder.neck.2", (64, 64)),
        ("mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj", (4096,)),
        ("mask_decoder.transformer.layers.0.mlp.lin1", (7,)),
    ],
)
def test_tap_returns_codes_and_results(
    model: GoldenModel, picture: NDArray[np.uint8], name: str, leading: tuple[int, ...]
) -> None:
    tap = layer_codes(model, picture, name)
    layer = model.parameters.quantized[name]
    assert tap.name == name
    assert tap.codes.shape == (*leading, layer.in_features) and tap.codes.dtype == np.uint8
    assert tap.wide.shape == (*leading, layer.out_features) and tap.wide.dtype == np.int16
    first = (0,) * len(leading)
    assert tap.wide[first].tolist() == wide_by_definition(tap.codes[first], layer)
    assert tap.codes.std() > 0


def test_tap_of_an_unknown_layer_names_the_nearest(model: GoldenModel, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"no quantized layer .*2\.block\.0.*image_encoder\.layers\.2\.blocks\.0"):
        layer_codes(model, picture, "image_encoder.layers.2.block.0.attn.qkv")


def test_other_input_shapes_are_refused(model: GoldenModel) -> None:
    with pytest.raises(ValueError, match=r"pixels must be \(1, 3, 256, 256\), found \(3, 256, 256\)"):
        model.encode_image(np.zeros((3, 256, 256), np.float32))


def test_missing_tensor_is_named(toy_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no tensor image_encoder\.nothing\.weight"):
        GoldenModel.from_folder(toy_folder).parameters.tensor("image_encoder.nothing.weight")


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda architecture: architecture.pop(key)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("stages"), "does not list the encoder's stages"),
        (drop("decoder"), "decoder: expected an object, found None"),
        (drop("input_side"), "input_side must be 256, found None"),
        (lambda a: a.update(input_side=512), "input_side must be 256, found 512"),
        (lambda a: a["stages"][2].update(window=15), r"attention_biases should be \(2, 225\), found \(2, 196\)"),
        (lambda a: a["stages"][1].update(heads=0), "stage 1: heads must be an integer from 1 to 64, found 0"),
        (lambda a: a["stages"][1].update(heads="2"), "heads must be an integer from 1 to 64, found '2'"),
        (lambda a: a["stages"][3].update(depth=2), r"layers\.3\.blocks\.1\.attn.* found nothing"),
        (lambda a: a["layer_norm_epsilon"].update(transformer=1e-6), "layer_norm_epsilon must be"),
        (lambda a: a["stages"].insert(0, 3), "stage 0: expected an object, found 3"),
    ],
)
def test_unsupported_architectures_are_refused(
    toy_folder: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    manifest = json.loads((toy_folder / "manifest.json").read_text())
    edit(manifest["architecture"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model.safetensors").symlink_to(toy_folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        GoldenModel.from_folder(tmp_path)
