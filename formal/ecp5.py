"""What a proof about ECP5 cells needs: their simulation models, and nothing assumed of a pin that is left open."""

from typing import Final

CELL_MODELS: Final = ("read_verilog -D NO_INCLUDES +/lattice/cells_sim_ecp5.v",)
"""Yosys lines before the statement: the models that come with yosys."""

OPEN_PINS: Final = ("hierarchy -top top", "proc", "flatten", "setundef -undriven -anyseq")
"""Yosys lines after it: an open pin, such as the carry into a chain, may have any value in any cycle."""
