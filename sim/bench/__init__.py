"""cocotb benches: portable RTL under Verilator against the integer contract, with random back-pressure.

`verilator` compiles any Amaranth component, `player` sends recorded transfers through its streams and brings
back what it sent, `matmul_bench` does that for whole layers of a model; `python -m sim check` is the command.

The checked bench uses the `small` array, 32 x 8. Compilation is what costs: processor time is about 25 s for
`tiny` (16 x 4), 40 s for `small` and 100 s for `full` (64 x 32), half of the smaller figures being Verilator's own
run-time library. A qkv layer of stage 2 on one window then takes 3 s on each of them (70,200 cycles on
`small`, 12,060 on `full`), so the smallest array that cuts a K tile into passes and a layer into many column
tiles with several column groups is the one that the tests compile.
"""
