"""Quality of LayerNorm and softmax in integers: figures of a toy model, and that faults show in them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import unit_quality
from benchmarks.unit_quality import float_scores, main, measure
from sim.contract.attention import Attention
from sim.contract.layer_norm import LayerNorm
from sim.contract.softmax import log_thresholds, score_codes
from sim.contract.wide import Wide
from sim.golden import GoldenModel
from tests.quant.conftest import QUICK, name_toy, toy_pictures

BOX = (8, 8, 50, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "model"
    with pytest.MonkeyPatch.context() as patch:
        name_toy(patch).quantize(path, QUICK)
    return path


@pytest.fixture(scope="module")
def golden(folder: Path) -> GoldenModel:
    return GoldenModel.from_folder(folder)


def figures_of(golden: GoldenModel) -> dict[str, Any]:
    return measure(golden, toy_pictures(1)[0].pixels, BOX, lambda _: None)


def test_figures_of_every_operation_and_of_all(golden: GoldenModel) -> None:
    figures = figures_of(golden)
    for kind, of_kind, counted in (("layer_norm", LayerNorm, "results"), ("softmax", Attention, "probabilities")):
        operations = figures[kind]["operations"]
        names = {name for name, one in golden.parameters.operations.items() if isinstance(one, of_kind)}
        assert {one["name"] for one in operations} == names
        assert figures[kind]["all"][counted] == sum(one[counted] for one in operations) > 0
    norm, softmax = figures["layer_norm"], figures["softmax"]
    assert 0 < norm["all"]["mean_abs_error_steps"] < norm["all"]["max_abs_error_steps"] < 50
    assert norm["all"]["max_abs_error_steps"] == max(one["max_abs_error_steps"] for one in norm["operations"])
    assert 0 < norm["all"]["relative_error"] < 1e-2
    # fc1 takes the second LayerNorm's result as it is; windows are cut out of the first one's.
    assert {one["name"].split(".")[-1] for one in norm["operations"] if one["codes_behind"]} == {"norm2"}
    assert norm["all"]["codes_behind_differ"] < 0.05
    assert 0 < softmax["all"]["codes_differ"] < 0.05
    assert softmax["all"]["argmax_flips"] == 0
    assert softmax["all"]["mean_abs_error"] == pytest.approx(softmax["all"]["float_codes_mean_abs_error"], rel=0.02)


def test_wrong_codes_show(golden: GoldenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax that gives the largest code to the smallest probability."""
    before = figures_of(golden)["softmax"]["all"]
    monkeypatch.setattr(unit_quality, "score_codes", lambda z, limits: limits.size - score_codes(z, limits))
    after = figures_of(golden)["softmax"]["all"]
    assert after["codes_differ"] > 0.5 > before["codes_differ"]
    assert after["argmax_flips"] > 0.5
    assert after["top_set_changes"] > 0.5
    assert after["mean_abs_error"] > 3 * before["mean_abs_error"]
    assert after["float_codes_mean_abs_error"] == before["float_codes_mean_abs_error"]


def test_a_wrong_layer_norm_shows(golden: GoldenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest error is that of a single result that is a hundred steps off, which no right one comes near."""
    before = figures_of(golden)["layer_norm"]["all"]
    run = LayerNorm.run

    def off(self: LayerNorm, x: Wide) -> Wide:
        result = run(self, x)
        result.values.flat[3] -= 100 if result.values.flat[3] > 0 else -100
        return result

    monkeypatch.setattr(LayerNorm, "run", off)
    after = figures_of(golden)["layer_norm"]["all"]
    assert after["max_abs_error_steps"] > 50 > before["max_abs_error_steps"]


def test_float_scores_by_hand() -> None:
    """Logits two halvings apart: probabilities of 4/9, 4/9 and 1/9."""
    logits = np.array([[700, 700, 700 - 2 * 512]], np.int32)
    probability, codes = float_scores(logits, log_thresholds(np.array([0.1, 0.4, 0.45])))
    np.testing.assert_allclose(probability, np.array([[4, 4, 1]]) / 9, rtol=1e-12)
    assert codes.tolist() == [[2, 2, 1]]


def test_float_codes_differ_next_to_thresholds_alone() -> None:
    """Against the contract on random rows: where codes differ, the probability is within 0.6 % of a threshold."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1500, (200, 196)).astype(np.int32)
    edges = np.linspace(0.002, 0.3, 15)
    thresholds = log_thresholds(edges)
    probability, codes = float_scores(logits, thresholds)
    differ = codes != score_codes(logits, thresholds)
    assert differ.mean() < 0.01
    assert (np.abs(probability[differ][:, None] / edges - 1).min(axis=1) < 0.006).all()


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, out = tmp_path / "toy.png", tmp_path / "figures.json"
    Image.fromarray(toy_pictures(1)[0].pixels).save(picture)
    assert main([str(folder), "--picture", str(picture), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["box"] == [0, 0, 64, 64]
    assert figures["softmax"]["all"]["rows"] > 0
    assert "argmax_flips" in capsys.readouterr().out


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--json", str(tmp_path / "figures.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
