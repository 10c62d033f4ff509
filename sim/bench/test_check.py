"""`python -m sim check` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest

from hdl.array.geometry import PRESETS
from sim.__main__ import main
from sim.bench import check
from sim.bench.check import choose_tokens, geometry_of
from sim.contract.errors import UserError
from sim.golden.tap import LayerTap

EARLY_LAYER = "image_encoder.layers.0.blocks.0.conv1.c"
"""Reached quickly by the golden model: a 1x1 convolution of 64 channels to 256 with 8-bit inputs, so in two passes."""

PIXELS_LAYER = "image_encoder.patch_embed.seq.0.c"
"""The first layer: 3 channels to 32, 8-bit inputs and 8-bit weights, so in four passes."""


@pytest.mark.parametrize("case", [(PIXELS_LAYER, 3, 4), (EARLY_LAYER, 64, 2)], ids=["4-passes", "2-passes"])
def test_a_layer_passes_and_its_figures_are_written(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, int, int]
) -> None:
    layer, channels, passes = case
    figures_file = tmp_path / "figures.json"
    command = ["check", str(exported_model), "--layer", layer, "--tokens", "12", "--json", str(figures_file)]
    assert main([*command, "--back-pressure", "0.2", "--seed", "3"]) == 0
    stalled = json.loads(figures_file.read_text())
    assert main(command) == 0
    flowing = json.loads(figures_file.read_text())
    output = capsys.readouterr().out.splitlines()
    outputs = flowing["outputs"] * 12
    assert output[2] == f"{layer} on 32 x 8: 0 bits of {outputs} outputs differ"
    assert (flowing["differing_bits"], flowing["outputs_compared"]) == (0, outputs)
    assert flowing["cycles"] == flowing["cycles_predicted"] == stalled["cycles_predicted"] < stalled["cycles"]
    assert (flowing["layer"], flowing["inputs"], flowing["passes"]) == (layer, channels * passes, passes)
    multiply_accumulates = 12 * flowing["inputs"] * flowing["outputs"]
    assert flowing["utilisation"] == pytest.approx(multiply_accumulates / (256 * flowing["cycles"]))
    assert (flowing["geometry"]["rows"], flowing["geometry"]["columns"]) == (32, 8)
    assert (stalled["seed"], stalled["back_pressure"]) == (3, 0.2)


def test_one_wrong_bit_is_reported_and_ends_with_status_1(
    exported_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def off_by_one_bit(tap: LayerTap, count: int) -> tuple[np.ndarray, np.ndarray]:
        codes, wide = choose_tokens(tap, count)
        wide = wide.copy()
        wide[2, 5] ^= 8
        return codes, wide

    monkeypatch.setattr(check, "choose_tokens", off_by_one_bit)
    figures = tmp_path / "figures.json"
    command = ["check", str(exported_model), "--layer", EARLY_LAYER, "--tokens", "4", "--json", str(figures)]
    assert main(command) == 1
    assert "1 bits of" in (output := capsys.readouterr().out)
    assert "differ: token 2 column 5" in output
    assert json.loads(figures.read_text())["differing_bits"] == 1


def test_the_wrong_number_of_cycles_ends_with_status_1(exported_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdl.matmul.run_cycles", lambda tokens: max(tokens, 3) + 2)
    assert main(["check", str(exported_model), "--layer", EARLY_LAYER, "--tokens", "4"]) == 1


def test_faults_in_what_was_given_are_one_line(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(exported_model)
    for arguments, words in [
        (["check", str(tmp_path / "nowhere")], "nowhere"),
        (["check", model, "--layer", "image_encoder.layers.2.blocks.0.attn.kqv"], "nearest names are"),
        (["check", model, "--rows", "48"], "rows=48 must be one of (16, 32, 64); nearest valid value"),
        (["check", model, "--columns", "9"], "columns=9 must be in 4..32"),
        (["check", model, "--back-pressure", "2"], "--back-pressure: gap = 2.0 is not a probability"),
        (["check", model, "--image", str(tmp_path / "none.png")], "none.png"),
        (["check", model, "--layer", EARLY_LAYER, "--tokens", "0"], "--tokens 0: at least one"),
    ]:
        assert main(arguments) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert words in errors[0]


def test_bad_use_ends_with_status_2(exported_model: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", str(exported_model), "--preset", "huge"])
    assert ended.value.code == 2


def test_geometry_keeps_the_preset_where_nothing_else_is_asked() -> None:
    assert geometry_of("full", None, None) == PRESETS["full"]
    changed = geometry_of("full", 32, 16)
    assert (changed.rows, changed.columns, changed.loader_rows) == (32, 16, PRESETS["full"].loader_rows)
    with pytest.raises(UserError, match="--preset tiny"):
        geometry_of("tiny", None, 32)


def test_tokens_come_from_the_middle() -> None:
    order = np.arange(5 * 49, dtype=np.int16).reshape(5, 49, 1)
    attention = LayerTap("layers.1.attn.qkv", order.astype(np.uint8), order)
    assert choose_tokens(attention, 49)[1].ravel().tolist() == list(range(98, 147))
    assert choose_tokens(attention, 1000)[1].size == 245
    whole_map = LayerTap("blocks.2.attn.qkv", order.reshape(1, 245, 1).astype(np.uint8), order.reshape(1, 245, 1))
    assert choose_tokens(whole_map, 5)[1].ravel().tolist() == list(range(120, 125))
    elsewhere = LayerTap("neck.0", order.astype(np.uint8), order)
    assert choose_tokens(elsewhere, 5)[1].ravel().tolist() == list(range(120, 125))
