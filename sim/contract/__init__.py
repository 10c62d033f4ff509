"""The integer semantics of nibblesam, stated once.

The exporter (`quant`), the numpy golden model (`sim.golden`) and the tests of the hardware
(`hdl`, `sim.bench`) import rounding, saturation, codebooks, the linear layer and the model folder from
here and define none of them again. The package needs numpy and safetensors, nothing else.
"""
