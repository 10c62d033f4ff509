"""The golden model: a network of the Segment Anything family executed from an exported folder with numpy alone.

The image encoder, TinyViT or ViT, is integers from the picture to the embedding: every operation is one of the
contract in `sim.contract`, bit for bit what the hardware computes, on 16-bit wide numbers. The prompt encoder is
float32; the mask decoder computes its projections and its attention in integers and the rest in float32.

Feature maps are channel-last, (rows, columns, channels), and there is no batch axis: one picture at a time.
"""

from sim.golden.model import GoldenModel, Segmentation

__all__ = ["GoldenModel", "Segmentation"]
