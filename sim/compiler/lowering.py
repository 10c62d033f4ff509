"""One operation, or several that run as one, as commands: from regions of memory to a region of memory."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.compiler.attention import AttentionLowering
from sim.compiler.builder import Builder
from sim.compiler.dense import lower_dense
from sim.compiler.encode import Values
from sim.compiler.fuse import Fused
from sim.compiler.region import Region
from sim.compiler.results import Results
from sim.compiler.stripes import Rows, input_rows, rows_of
from sim.compiler.trace import Node
from sim.compiler.vector import (
    begin_norm,
    lower_activation,
    lower_depthwise,
    lower_norm,
    lower_residual,
    set_activation,
)
from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention
from sim.contract.depthwise import Depthwise
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.contract.serialize import Operation
from sim.machine.ports import Port


def _output(operation: Operation) -> Port:
    """Where the results of an operation leave the machine that an activation may stand behind."""
    if isinstance(operation, QuantizedLayer):
        return Port.RESULTS
    return Port.SUMS if isinstance(operation, Residual) else Port.CONVOLVED


@dataclass(frozen=True)
class Lowering:
    """Rows `rows` of results to the region `out`, inputs being in `regions` by the number of their tensor."""

    builder: Builder
    rows: Rows
    out: Region
    regions: dict[int, Region]

    def lower(self, fused: Fused) -> None:
        """The operations of `fused`. All routes are off before and after.

        Raises UserError for what the machine cannot hold.
        """
        builder, operation = self.builder, fused.main.operation
        port = source = _output(operation)
        if fused.activation is not None:
            assert isinstance(fused.activation.operation, ActivationTable)
            set_activation(builder, fused.activation.operation)
            builder.route(source)
            port = Port.ACTIVATED
        if isinstance(operation, QuantizedLayer):
            self._dense(fused, operation, port)
        elif isinstance(operation, Depthwise):
            self._depthwise(fused.main, operation, port)
        else:
            self._plain(fused.main, port)
        if fused.activation is not None:
            builder.unroute(source)

    def _tokens(self, node: Node) -> NDArray[np.int64]:
        """Numbers of the tokens of the rows of a result."""
        per_row = node.tokens // rows_of(node.shape)
        return np.arange(self.rows.start * per_row, self.rows.stop * per_row)

    def _results(self, node: Node, port: Port) -> Results:
        """Where a dense layer's results go."""
        return Results(int(self.out.at(self._tokens(node)[0])), self.out.pitch, port)

    def _dense(self, fused: Fused, layer: QuantizedLayer, port: Port) -> None:
        builder, view = self.builder, fused.first.inputs[0]
        addresses = self.regions[view.source].of_view(view, self._tokens(fused.main))
        results = self._results(fused.main, port)
        if fused.norm is None:
            lower_dense(builder, layer, Values(addresses), results)
            return
        norm = fused.norm.operation
        assert isinstance(norm, LayerNorm)
        begin_norm(builder, norm, len(addresses))
        builder.route(Port.NORMED, norm.gain.size // builder.preset.lanes)
        lower_dense(builder, layer, Values(addresses, normed=True), results)
        builder.unroute(Port.NORMED)

    def _depthwise(self, node: Node, depthwise: Depthwise, port: Port) -> None:
        view = node.inputs[0]
        if view.beats is not None:
            raise UserError(f"{node.name} convolves a map that lies in pieces; the compiler takes whole maps")
        height, columns, _ = view.shape
        needed = input_rows(node, self.rows, height)
        lower_depthwise(
            self.builder,
            depthwise,
            self.regions[view.source],
            self.out,
            columns=columns,
            rows=(needed.start, needed.stop),
            wanted=(self.rows.start, self.rows.stop),
            port=port,
        )

    def _plain(self, node: Node, port: Port) -> None:
        """Operations that nothing goes to but from memory. port: of an addition's results."""
        builder, operation, out = self.builder, node.operation, self.out
        tokens = self._tokens(node)
        values = [self.regions[view.source].of_view(view, tokens) for view in node.inputs]
        if isinstance(operation, Attention):
            part = replace(out, address=int(out.at(tokens[0])))
            windows = self.rows.stop - self.rows.start
            AttentionLowering(builder, operation, windows, node.shape[1], part).lower(*values)
        elif isinstance(operation, LayerNorm):
            lower_norm(builder, operation, values[0], out, tokens)
        elif isinstance(operation, ActivationTable):
            lower_activation(builder, operation, values[0], out, tokens)
        elif isinstance(operation, Residual):
            second = values[1] if operation.positions is None else self._positions(operation, tokens)
            lower_residual(builder, operation, (values[0], second), out, tokens, port=port)
        else:
            raise UserError(f"{node.name}: the compiler knows no {type(operation).__name__}")

    def _positions(self, operation: Residual, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses for these tokens of an operand that is no tensor: positions stored as wide values."""
        assert operation.positions is not None
        stored, out = operation.positions.values, self.out
        content = stored.reshape(-1, stored.shape[-1]).astype("<i2")
        padded = np.zeros((len(content), out.beats * out.beat // 2), "<i2")
        padded[:, : content.shape[1]] = content
        address = self.builder.constant(padded.tobytes())
        return Region(address, out.beats * out.beat, out.beats, out.beat, out.zeros).of_tokens(tokens)
