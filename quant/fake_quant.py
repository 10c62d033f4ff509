"""A quantized layer in torch: float arithmetic on dequantized operands, for calibration and agreement checks only.

Its outputs differ from the integer layer's by what only the latter does: 16-bit scale mantissas, biases on a
grid of 1/256 of a wide step, and wide outputs rounded to 16 bits. No figure of the integer model comes from here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from quant.activation import ActivationGrid
from quant.byte_grid import ByteGrid
from quant.channel_groups import tile_of_position
from quant.gptq import RoundedWeight
from quant.models.layer_call import LayerCall, call_layer


@dataclass(frozen=True)
class FakeQuantLinear:
    """A quantized linear layer of K inputs and N outputs.

    grid: codes of the inputs. weight: integers and scales, columns in permuted order. bias: float32 (N,), the
    real bias, no offset folded in.
    """

    grid: ActivationGrid | ByteGrid
    weight: RoundedWeight
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x float32 (..., K) in channel order to (..., N)."""
        quantized = self.grid.quantize(x.reshape(-1, x.shape[-1]))
        output = functional.linear(quantized, self.weight.dequantized(), self.bias)
        return output.view(*x.shape[:-1], -1)

    def folded_bias(self) -> Tensor:
        """The bias with all channel offsets folded in, float64 (N,): what an accumulator starts from."""
        tile = tile_of_position(self.grid.offset.numel())
        constant_input = self.grid.offset.double() * self.grid.scale.double()[tile]
        return self.bias.double() + self.weight.dequantized().double() @ constant_input


def fake_quant_runner(layers: dict[str, FakeQuantLinear]) -> Callable[[LayerCall], Tensor]:
    """A layer function for `run`: quantized where `layers` has the name, float elsewhere."""

    def layer(call: LayerCall) -> Tensor:
        quantized = layers.get(call.name)
        return call_layer(call) if quantized is None else quantized(call.x)

    return layer
