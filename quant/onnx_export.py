"""The quantized image encoder as an ONNX graph for viewers such as Netron: one node per integer operation.

Nodes are of the domain `nibblesam`, whose meaning is the integer contract (docs/contract.md); no ONNX runtime knows
them. Tensors between nodes are int16 wide numbers. Edges come from running the golden network functions on blanks that
remember which operation made them, so they cannot come apart from the model; where the network moves values without
changing them (windows, neighbourhoods, heads) a `Rearrange` node stands. Prompt encoder and mask decoder compute in
float between their operations and are not in the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sim.contract.attention import Attention
from sim.contract.errors import UserError
from sim.contract.folder import CONTRACT, read_folder
from sim.contract.layer import QuantizedLayer
from sim.contract.nibbles import pack_nibbles
from sim.contract.serialize import Operation, flatten
from sim.contract.wide import Wide
from sim.golden.architecture import Architecture
from sim.golden.parameters import Codes
from sim.golden.rehearsal import Rehearsal, blank
from sim.record import write_whole

DOMAIN: Final = "nibblesam"
DOMAIN_VERSION: Final = 1
OPSET: Final = 21
IR_VERSION: Final = 10
"""The first opset and intermediate representation with 4-bit integers."""

PICTURE: Final = "picture"
SCOPE: Final = "image encoder; prompt encoder and mask decoder are not in the graph"

NODE_TYPES: Final = {
    "dense": "Linear",
    "layer_norm": "LayerNorm",
    "activation": "Gelu",
    "residual": "Add",
    "depthwise": "DepthwiseConv",
    "attention": "Attention",
}


@dataclass(frozen=True)
class Traced(Wide):
    """Blank wide numbers that remember the graph's value (and its shape) that they are or, if moved, come from."""

    value: str
    shape: tuple[int, ...]
    moved: bool = False

    def with_values(self, values: NDArray[np.int16]) -> "Traced":
        """Rearranged values of the same origin."""
        return Traced(values, self.exponent, self.value, self.shape, moved=True)


@dataclass
class Graph:
    """What a trace collects. rearranged: value by (origin, shape, operand), so that shared ones are made once."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    values: list[onnx.ValueInfoProto] = field(default_factory=list)
    rearranged: dict[tuple[str, tuple[int, ...], str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tracer(Rehearsal):
    """Parameters that note every operation as a node. Results are blanks."""

    graph: Graph = field(default_factory=Graph)

    def execute(self, operation: Operation, inputs: tuple[Wide, ...]) -> tuple[Codes, Wide]:
        """No codes, and a traced blank. Raises UserError when the inputs do not fit."""
        codes, result = super().execute(operation, inputs)
        roles = ("q", "k", "v") if isinstance(operation, Attention) else ("x", "y")
        sources = [self._source(operation.name, role, x) for role, x in zip(roles, inputs, strict=False)]
        _add_node(self.graph, operation, sources, list(roles[: len(inputs)]))
        shape = result.values.shape
        self.graph.values.append(helper.make_tensor_value_info(operation.name, TensorProto.INT16, shape))
        return codes, Traced(result.values, result.exponent, operation.name, shape)

    def _source(self, name: str, role: str, x: Wide) -> str:
        """The graph's value of an input: an operation's result, a stored tensor or a rearrangement."""
        if not isinstance(x, Traced):
            stored = f"{name}.{role}"
            self.graph.initializers.append(numpy_helper.from_array(np.ascontiguousarray(x.values), stored))
            return stored
        shape = x.values.shape
        operand = role if role in ("q", "k", "v") else ""
        if not x.moved:
            return x.value
        key = (x.value, shape, operand)
        if key not in self.graph.rearranged:
            self.graph.rearranged[key] = output = f"{name}.{role}.rearranged"
            self.graph.nodes.append(
                helper.make_node(
                    "Rearrange",
                    [x.value],
                    [output],
                    name=output,
                    domain=DOMAIN,
                    movement=self._movement(x, operand),
                    shape=list(shape),
                )
            )
            self.graph.values.append(helper.make_tensor_value_info(output, TensorProto.INT16, shape))
        return self.graph.rearranged[key]

    def _movement(self, x: Traced, operand: str) -> str:
        """What a rearrangement does, told from where it stands and its shapes: the golden encoders have these five."""
        before, after = x.shape, x.values.shape
        if operand:
            return f"{operand} of qkv"
        if isinstance(self.operations.get(x.value), Attention):
            return "windows to map"
        if after == (*before[:2], 9 * before[2]):
            return "3x3 neighbourhoods, zeros outside"
        return "patches" if x.value == PICTURE else "map to windows, zeros outside"


def _tensor(key: str, value: NDArray[Any], operation: Operation) -> onnx.TensorProto:
    """An initializer; packed weights as ONNX INT4, in the matrix's own shape."""
    if isinstance(operation, QuantizedLayer) and key == f"{operation.name}.weight4":
        packed = pack_nibbles(operation.weight.reshape(1, -1)).tobytes()
        return helper.make_tensor(
            f"{operation.name}.weight", TensorProto.INT4, operation.weight.shape, packed, raw=True
        )
    return numpy_helper.from_array(np.ascontiguousarray(value), key)


def _attributes(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers of an operation and its parts, names joined by underscores."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            found |= _attributes(value, f"{prefix}{key}_")
        elif value is not None and not (key == "kind" and not prefix):
            found[f"{prefix}{key}"] = value
    return found


def _add_node(graph: Graph, operation: Operation, sources: list[str], roles: list[str]) -> None:
    entry, tensors = flatten(operation.name, operation)
    initializers = [_tensor(key, value, operation) for key, value in tensors.items()]
    attributes = _attributes(entry)
    if isinstance(operation, QuantizedLayer):
        weight_bits = 4 * operation.weight_planes
        attributes |= {"input_bits": operation.encoder.bits, "weight_bits": weight_bits, "passes": operation.passes}
    elif isinstance(operation, Attention):
        attributes |= {"input_bits": operation.q.bits, "score_bits": operation.score_bits}
    # Some tensors are optional, so every input says what it is.
    attributes["input_roles"] = roles + [one.name[len(operation.name) + 1 :] for one in initializers]
    node = helper.make_node(
        NODE_TYPES[entry["kind"]],
        [*sources, *(one.name for one in initializers)],
        [operation.name],
        name=operation.name,
        domain=DOMAIN,
        **attributes,
    )
    graph.nodes.append(node)
    graph.initializers += initializers


def onnx_model(folder: Path) -> onnx.ModelProto:
    """The graph of a model folder. Raises UserError when the folder is damaged."""
    contents = read_folder(folder)
    architecture = Architecture.from_manifest(contents.manifest)
    graph, side = Graph(), architecture.input_format.side
    tracer = Tracer(contents.tensors, contents.operations, graph=graph)
    picture = blank((side, side, 3), architecture.input_exponent)
    shape = picture.values.shape
    result = architecture.encode(Traced(picture.values, picture.exponent, PICTURE, shape), tracer)
    assert isinstance(result, Traced)
    inputs = [helper.make_tensor_value_info(PICTURE, TensorProto.INT16, shape)]
    outputs = [one for one in graph.values if one.name == result.value]
    inner = [one for one in graph.values if one.name != result.value]
    made = helper.make_graph(
        graph.nodes, str(contents.manifest["model"]), inputs, outputs, graph.initializers, value_info=inner
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(
        made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="nibblesam", doc_string=SCOPE
    )
    metadata = {
        "scope": SCOPE,
        "model": contents.manifest["model"],
        "bits": contents.manifest["bits"],
        "source": contents.manifest["source"],
        "contract": CONTRACT,
        "input_exponent": architecture.input_exponent,
        "output_exponent": result.exponent,
    }
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    return model


def export_onnx(folder: Path, out: Path) -> None:
    """Write the graph of a model folder to `out`, whole or not at all.

    Raises UserError when the folder is damaged, the graph is over the 2 GiB that a protobuf file holds, or `out` cannot
    be written.
    """
    model = onnx_model(folder)
    try:
        onnx.checker.check_model(model)
        content = model.SerializeToString()
    except ValueError as error:
        raise UserError(f"{folder}: the graph is over the 2 GiB of an ONNX file; export a smaller model") from error
    write_whole(out, content)
