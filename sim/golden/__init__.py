"""The golden model: LiteMedSAM's network executed from an exported folder with numpy alone.

Inside every quantized layer the arithmetic is the integer contract of `sim.contract`, bit for bit what
the hardware computes. In this version everything between those layers (LayerNorm, softmax, GELU, the two
products of attention, depthwise convolutions, residual additions, the prompt encoder, the mask decoder's
upscaling and heads) runs in float32.

Feature maps are channel-last, (rows, columns, channels), and there is no batch axis: one picture at a time.
"""

from sim.golden.model import GoldenModel, Segmentation

__all__ = ["GoldenModel", "Segmentation"]
