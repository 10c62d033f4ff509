"""The integer operations of a network, built by running the golden network over shapes.

Which operation feeds which, and so the exponent of every input, is written once: in the network functions of the golden
model. Here they run on blanks (`sim.golden.rehearsal`); each operation is built when it is first asked for, from what
calibration found and the exponent of what arrives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from quant import integers
from quant.calibrate import Calibration
from quant.fake_quant import FakeQuantAttention, FakeQuantLinear
from quant.integer_attention import integer_attention
from quant.models.layer_call import AttentionCall
from sim.contract.positions import Positions, round_positions
from sim.contract.serialize import Operation
from sim.contract.wide import Wide
from sim.golden.rehearsal import Rehearsal


def stored_positions(name: str, tensor: NDArray[np.float32]) -> tuple[Positions, int]:
    """The integers of absolute positions float32 (1, rows, columns, C), and the exponent of their steps.

    Of positions that have been rounded to such integers, the integers they were rounded to.
    """
    exponent = integers.exponent_for(float(np.abs(tensor).max()))
    return round_positions(f"{name}.positions", tensor[0], exponent), exponent


@dataclass(frozen=True)
class Assembly(Rehearsal):
    """Parameters that build their operations.

    operations: filled in network order. model: the float model, for norms and depthwise convolutions. found: what
    calibration found. attentions: a call of every attention, for its scale and bias.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    model: nn.Module = field(kw_only=True)
    found: Calibration = field(kw_only=True)
    attentions: Mapping[str, AttentionCall] = field(kw_only=True)

    def linear(self, name: str, x: Wide) -> Wide:
        """Dense layer."""
        self._build_dense(name, x.exponent)
        return super().linear(name, x)

    def norm(self, name: str, x: Wide) -> Wide:
        """LayerNorm."""
        module: Any = self.model.get_submodule(name)
        largest = self.found.largest[name]
        self.operations[name] = integers.layer_norm(name, module, x.exponent, largest)
        return super().norm(name, x)

    def gelu(self, name: str, x: Wide) -> Wide:
        """GELU."""
        self.operations[name] = integers.gelu(name, x.exponent, self.found.largest[name])
        return super().gelu(name, x)

    def add(self, name: str, a: Wide, b: Wide) -> Wide:
        """Residual addition."""
        self.operations[name] = integers.residual(name, a.exponent, b.exponent, self.found.largest[name])
        return super().add(name, a, b)

    def add_positions(self, name: str, x: Wide) -> Wide:
        """Addition of absolute positions."""
        positions, exponent = stored_positions(name, self.tensor(name))
        addition = integers.residual(name, x.exponent, exponent, self.found.largest[name])
        self.operations[name] = replace(addition, positions=positions)
        return super().add_positions(name, x)

    def depthwise(self, name: str, x: Wide, stride: int = 1) -> Wide:
        """Depthwise 3x3 convolution."""
        module = self.model.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        self.operations[name] = integers.depthwise(name, module, x.exponent, self.found.largest[name])
        return super().depthwise(name, x, stride)

    def attention(self, name: str, q: Wide, k: Wide, v: Wide, *, heads: int) -> Wide:
        """Attention."""
        quantized = self.found.quantized[name]
        assert isinstance(quantized, FakeQuantAttention)
        exponents = (q.exponent, k.exponent, v.exponent)
        largest = self.found.largest[name]
        self.operations[name] = integer_attention(quantized, self.attentions[name], exponents, largest)
        return super().attention(name, q, k, v, heads=heads)

    def entering(self, name: str, x: NDArray[np.float32]) -> Wide:
        """Input of a dense layer behind a float part."""
        self._build_dense(name, integers.exponent_for(self.found.largest_input[name]))
        return super().entering(name, x)

    def _build_dense(self, name: str, exponent: int) -> None:
        if name not in self.operations:
            layer = self.found.quantized[name]
            assert isinstance(layer, FakeQuantLinear)
            self.operations[name] = integers.dense(name, layer, exponent, self.found.largest[name])
