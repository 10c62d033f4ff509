import numpy as np

from demo.page import _bitstream_rows, _operation_rows, _rtl_rows
from sim.bench.cases import random_byte_layer
from sim.contract.residual import Residual


def test_rows_tell_the_figures_that_the_commands_wrote() -> None:
    geometry = {"rows": 32, "columns": 8}
    check = {
        "geometry": geometry,
        "layer": "qkv",
        "tokens": 196,
        "inputs": 160,
        "outputs": 480,
        "differing_bits": 0,
        "outputs_compared": 94080,
        "cycles": 77400,
        "cycles_predicted": 77400,
        "utilisation": 0.76,
    }
    assert ("differing bits", "0", "of 94,080 16-bit results") in _rtl_rows(check)
    bitstream = {
        "geometry": geometry,
        "preset": "tiny",
        "device": "85F",
        "reached_mhz": 124.49,
        "target_mhz": 100.0,
        "resources": {"comb": {"used": 4072, "available": 83640}},
    }
    rows = _bitstream_rows(bitstream)
    assert ("clock", "124.5 MHz", "target 100 MHz, by nextpnr") in rows
    assert ("COMB", "4,072", "of 83,640") in rows


def test_rows_tell_what_the_model_consists_of() -> None:
    generator = np.random.default_rng(0)
    layers = [random_byte_layer(generator, 3, 2, weight_planes=planes) for planes in (2, 1, 1)]
    count, dense = _operation_rows([*layers, Residual("add", 0, 0, 0)])
    assert count[:2] == ("integer operations", "4")
    assert dense == ("dense layers among them", "3", "2 in 2 passes, 1 in 4 passes of 4-bit codes and 4-bit weights")
