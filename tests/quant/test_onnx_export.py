"""The graph of a small quantized model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from quant.calibration_pictures import builtin_calibration
from quant.onnx_export import DOMAIN, export_onnx
from quant.quantize import quantize_to_folder
from quant.recipe import NONE
from sim.contract.folder import read_folder
from sim.contract.layer import QuantizedLayer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "model"
    picture = builtin_calibration(0, 1)[0]
    pictures = [replace(picture, boxes=picture.boxes[:1])]
    recipe = replace(NONE, max_tokens=256)
    quantize_to_folder(out, pictures, 0, lambda _: None, model_name="vit_test", synthetic=True, recipe=recipe)
    return out


@pytest.fixture(scope="module")
def graph(folder: Path) -> onnx.GraphProto:
    export_onnx(folder, folder.parent / "graph.onnx")
    model = onnx.load(folder.parent / "graph.onnx")
    onnx.checker.check_model(model)
    assert {one.domain for one in model.opset_import} == {"", DOMAIN}
    return model.graph


def test_every_encoder_operation_is_a_node_in_order(folder: Path, graph: onnx.GraphProto) -> None:
    operations = json.loads((folder / "manifest.json").read_text())["operations"]
    wanted = [name for name in operations if name.startswith("image_encoder.")]
    assert [node.name for node in graph.node if node.op_type != "Rearrange"] == wanted


def test_edges_are_those_of_the_network(graph: onnx.GraphProto) -> None:
    by_name = {node.name: node for node in graph.node}
    block = "image_encoder.blocks.1"
    assert list(by_name[f"{block}.attn.add"].input) == ["image_encoder.blocks.0.mlp.add", f"{block}.attn.proj"]
    assert list(by_name[f"{block}.mlp.add"].input) == [f"{block}.attn.add", f"{block}.mlp.lin2"]
    operands = [by_name[name] for name in by_name[f"{block}.attn.attend"].input[:3]]
    assert [node.input[0] for node in operands] == [f"{block}.attn.qkv"] * 3
    movements = [
        attribute.s.decode() for node in operands for attribute in node.attribute if attribute.name == "movement"
    ]
    assert movements == ["q of qkv", "k of qkv", "v of qkv"]
    used = {name for node in graph.node for name in node.input}
    assert {one.name for one in graph.initializer} <= used
    assert [one.name for one in graph.output] == ["image_encoder.neck.3"]


def test_four_bit_weights_are_stored_in_four_bits_and_read_back(folder: Path, graph: onnx.GraphProto) -> None:
    tensors = {one.name: one for one in graph.initializer}
    for name, operation in read_folder(folder).operations.items():
        if isinstance(operation, QuantizedLayer) and name.startswith("image_encoder."):
            stored = tensors[f"{name}.weight"]
            kind = onnx.TensorProto.INT4 if operation.weight_planes == 1 else onnx.TensorProto.INT8
            assert stored.data_type == kind
            assert np.array_equal(onnx.numpy_helper.to_array(stored).astype(np.int8), operation.weight)


def test_every_value_has_a_shape(graph: onnx.GraphProto) -> None:
    shapes = {
        one.name: [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*graph.value_info, *graph.input, *graph.output)
    }
    assert {name for node in graph.node for name in node.output} | {"picture"} == set(shapes)
    assert shapes["image_encoder.blocks.0.attn.qkv"] == [9, 49, 384]
    assert shapes["image_encoder.blocks.0.attn.proj"] == [16, 16, 128]
