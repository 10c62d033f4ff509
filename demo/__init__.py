"""The whole line in one command: quantize, segment, check the RTL, build a bitstream, report."""
