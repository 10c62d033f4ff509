"""SAM's neck behind an image encoder: 1x1, LayerNorm, 3x3, LayerNorm, all over channels."""

from sim.contract.wide import Wide
from sim.golden.convolution import im2col_3x3
from sim.golden.parameters import Parameters


def neck(name: str, x: Wide, parameters: Parameters) -> Wide:
    """(rows, columns, channels of the encoder) to (rows, columns, channels of the embedding)."""
    x = parameters.norm(f"{name}.1", parameters.linear(f"{name}.0", x))
    x = parameters.linear(f"{name}.2", x.with_values(im2col_3x3(x.values)))
    return parameters.norm(f"{name}.3", x)
