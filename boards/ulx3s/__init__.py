"""ULX3S (Lattice ECP5): presets, bitstream build, report. ``python -m boards.ulx3s --help``."""
