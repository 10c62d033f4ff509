"""cocotb benches: portable RTL under Verilator against the integer contract, with random back-pressure."""
