"""Boards: clocks, pins, bitstream builds and reports, and the host side of the link."""
