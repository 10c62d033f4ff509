"""The neck of Segment Anything: a 1x1 convolution, LayerNorm, a 3x3 convolution, LayerNorm, over channels."""

from torch import Tensor, nn

from quant.models.layer_call import LayerCall, NormCall, Steps, im2col


def neck_steps(neck: nn.Sequential, name: str, x: Tensor) -> Steps[Tensor]:
    """(B, H, W, C) to (B, H, W, neck channels). Both convolutions are without bias, the second pads with zeros."""
    pointwise, first_norm, spatial, last_norm = neck
    x = yield NormCall(f"{name}.1", first_norm, (yield LayerCall(f"{name}.0", pointwise, x)))
    return (yield NormCall(f"{name}.3", last_norm, (yield LayerCall(f"{name}.2", spatial, im2col(x)))))
