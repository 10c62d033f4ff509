"""The parameters of a model by name: integer operations, float tensors, and who watches the former run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention
from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.contract.wide import Wide, to_wide
from sim.golden.normalization import LAYER_NORM_EPSILON, layer_norm

Codes: TypeAlias = NDArray[np.uint8] | dict[str, NDArray[np.uint8]] | None
"""uint8 (..., C) of a dense layer, in the order of its encoder; by "q", "k", "v" of an attention; None elsewhere."""

Kind = TypeVar("Kind", QuantizedLayer, LayerNorm, ActivationTable, Residual, Depthwise, Attention)


@dataclass(frozen=True)
class Executed:
    """One operation as it ran: what went in, the codes it was turned into, what came out."""

    name: str
    operation: Operation
    inputs: tuple[Wide, ...]
    codes: Codes
    output: Wide


Observer: TypeAlias = Callable[[str, Executed], None]
"""Called as observer(name, executed) after every integer operation."""


@dataclass(frozen=True)
class Parameters:
    """Everything a network function reads.

    tensors: float32 by state-dict name, of the parts that compute in float. operations: integer operations by name,
    for example `image_encoder.layers.2.blocks.0.attn.qkv`. observer: sees every operation as it finishes.

    Every method that takes an operation's name raises UserError when the model lacks it or has another kind under
    that name, and ValueError when an input has another width or exponent than the operation was made for.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    operations: Mapping[str, Operation]
    observer: Observer | None = None

    def observed_by(self, observer: Observer | None) -> "Parameters":
        """The same parameters with another observer."""
        return replace(self, observer=observer)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A float tensor. Raises UserError when the model lacks it."""
        if name not in self.tensors:
            raise UserError(f"the model has no tensor {name}; export it again with this version of quant")
        return self.tensors[name]

    def operation(self, name: str, kind: type[Kind]) -> Kind:
        """An operation of this kind."""
        found = self.operations.get(name)
        if found is None:
            raise UserError(f"the model has no operation {name}; export it again with this version of quant")
        if not isinstance(found, kind):
            raise UserError(f"{name} is a {type(found).__name__}, not a {kind.__name__}; export the model again")
        return found

    def linear(self, name: str, x: Wide) -> Wide:
        """Dense layer: (..., K) to (..., N)."""
        return self._run(name, self.operation(name, QuantizedLayer), x)

    def norm(self, name: str, x: Wide) -> Wide:
        """LayerNorm over the last axis of (..., C)."""
        return self._run(name, self.operation(name, LayerNorm), x)

    def gelu(self, name: str, x: Wide) -> Wide:
        """GELU by table, any shape."""
        return self._run(name, self.operation(name, ActivationTable), x)

    def add(self, name: str, a: Wide, b: Wide) -> Wide:
        """a + b of one shape."""
        operation = self.operation(name, Residual)
        if operation.positions is not None:
            raise UserError(f"{name} adds stored positions, the network needs a sum; export the model again")
        return self._run(name, operation, a, b)

    def add_positions(self, name: str, x: Wide) -> Wide:
        """The stored positions of every pixel added to a map (rows, columns, C)."""
        operation = self.operation(name, Residual)
        positions = operation.positions
        if positions is None:
            raise UserError(f"{name} lacks its positions; export the model again")
        if positions.code.shape != x.values.shape:
            raise UserError(
                f"{name} has positions for {positions.code.shape}, the network's map is {x.values.shape}; "
                "export the model again"
            )
        return self._run(name, operation, x, positions.at(operation.second_exponent))

    def depthwise(self, name: str, x: Wide, stride: int = 1) -> Wide:
        """Depthwise 3x3: (rows, columns, C) to (ceil(rows / stride), ceil(columns / stride), C)."""
        operation = self.operation(name, Depthwise)
        if operation.stride != stride:
            raise UserError(f"{name} has stride {operation.stride}, the network needs {stride}; export the model again")
        return self._run(name, operation, x)

    def attention(self, name: str, q: Wide, k: Wide, v: Wide, *, heads: int) -> Wide:
        """Attention of q (windows, queries, heads * D) to k and v (windows, keys, heads * D), heads outermost."""
        operation = self.operation(name, Attention)
        if operation.heads != heads:
            raise UserError(f"{name} has {operation.heads} heads, the network needs {heads}; export the model again")
        return self._run(name, operation, q, k, v)

    def entering(self, name: str, x: NDArray[np.float32]) -> Wide:
        """float32 values (..., K) of a float part as the input of dense layer `name`."""
        return to_wide(x, self.operation(name, QuantizedLayer).encoder.input_exponent)

    def float_linear(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dense layer between float parts: float32 (..., K) to (..., N), integers inside."""
        return self.linear(name, self.entering(name, x)).real()

    def float_norm(self, name: str, x: NDArray[np.float32], epsilon: float = LAYER_NORM_EPSILON) -> NDArray[np.float32]:
        """LayerNorm of float parts over the last axis of float32 (..., C)."""
        return layer_norm(x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), epsilon)

    def execute(self, operation: Operation, inputs: tuple[Wide, ...]) -> tuple[Codes, Wide]:
        """Codes and wide result of an operation."""
        if isinstance(operation, QuantizedLayer | Attention):
            return operation.run(*inputs)
        return None, operation.run(*inputs)

    def _run(self, name: str, operation: Operation, *inputs: Wide) -> Wide:
        codes, output = self.execute(operation, inputs)
        if self.observer is not None:
            self.observer(name, Executed(name, operation, inputs, codes, output))
        return output
