from demo.page import _bitstream_rows, _rtl_rows


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
