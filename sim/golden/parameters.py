"""The parameters of a model, by state-dict name: float tensors, quantized layers, and who watches the latter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, linear
from sim.golden.normalization import LAYER_NORM_EPSILON, layer_norm

LayerObserver: TypeAlias = Callable[[str, NDArray[np.uint8], NDArray[np.int16]], None]
"""Called as observer(name, codes uint8 (..., K) permuted, wide int16 (..., N)) after a quantized layer."""


@dataclass(frozen=True)
class Parameters:
    """Everything a network function reads.

    tensors: float32 by parameter name, for example `image_encoder.neck.1.weight`. quantized: integer layers
    by module name, for example `image_encoder.layers.2.blocks.0.attn.qkv`. observer: sees the codes and wide
    results of each quantized layer as it runs.

    A module absent from `quantized` runs in float32 from its `weight` and `bias` tensors, so the same
    network functions execute a model of any mixture, down to the entirely float one.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    quantized: Mapping[str, QuantizedLinear]
    observer: LayerObserver | None = None

    def observed_by(self, observer: LayerObserver | None) -> "Parameters":
        """The same parameters with another observer."""
        return replace(self, observer=observer)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A float tensor. Raises UserError when the model lacks it."""
        if name not in self.tensors:
            raise UserError(f"the model has no tensor {name}; export it again with this version of quant")
        return self.tensors[name]

    def linear(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run module `name` on float32 (..., K) in channel order; returns float32 (..., N).

        A quantized module encodes, runs the integer layer and returns `wide * 2**wide_exponent`. A float
        convolution counts as a linear over its kernel in (ky, kx, c) order, as `im2col_3x3` lays it out.
        """
        tokens = x.reshape(-1, x.shape[-1])
        layer = self.quantized.get(name)
        if layer is None:
            result = tokens @ self._matrix(name).T
            bias = self.tensors.get(f"{name}.bias")
            if bias is not None:
                result += bias
            return result.reshape(*x.shape[:-1], -1)
        codes = layer.encode(tokens)
        wide = linear(codes, layer).reshape(*x.shape[:-1], -1)
        if self.observer is not None:
            self.observer(name, codes.reshape(*x.shape[:-1], -1), wide)
        return layer.decode(wide)

    def norm(self, name: str, x: NDArray[np.float32], epsilon: float = LAYER_NORM_EPSILON) -> NDArray[np.float32]:
        """LayerNorm `name` over the last axis of float32 (..., C)."""
        return layer_norm(x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), epsilon)

    def _matrix(self, name: str) -> NDArray[np.float32]:
        """Weight of a float module as (N, K)."""
        weight = self.tensor(f"{name}.weight")
        return weight if weight.ndim == 2 else weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)
