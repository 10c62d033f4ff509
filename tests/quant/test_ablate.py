"""The table of an ablation, with stand-ins for quantization and evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from quant.ablate import ABLATION, CELL_FILE, PLOT_FILE, TABLE_FILE, cells_of, run_ablation
from quant.calibration_pictures import builtin_calibration
from quant.recipe import NONE
from sim.contract.errors import UserError


class Stand:
    """Quantizes to an empty folder; the figure of a cell is told by its seed and bits."""

    def __init__(self, fail_at: int = -1) -> None:
        self.made: list[str] = []
        self.said: list[str] = []
        self.pictures: list[Any] = []
        self.fail_at = fail_at

    def quantize(self, folder: Path, pictures: Any, *_: Any, **options: Any) -> None:
        self.pictures.append(pictures)
        if len(self.made) == self.fail_at:
            raise KeyboardInterrupt
        self.made.append(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        assert options["model_name"] == "m"

    def measure(self, folder: Path) -> dict[str, Any]:
        seed, bits = int(folder.name[-1]), int(folder.name.split("-w")[1][0])
        return {"mean_iou_to_float": bits / 10 + seed / 100, "per_layer": "left out"}

    def run(self, out: Path, recon_iters: int = 7, **options: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"bits": [4, 5], "seeds": [0, 2], "labels": ["none", "+LNQ"]} | options
        return run_ablation(
            "m",
            out,
            recon_iters=recon_iters,
            progress=lambda _: None,
            quantize=self.quantize,
            mask_agreement=self.measure,
            announce=self.said.append,
            **settings,
        )


def test_the_table_has_mean_and_range_over_seeds(tmp_path: Path) -> None:
    stand = Stand()
    table = stand.run(tmp_path)
    row = next(row for row in table["summary"] if (row["label"], row["bits"]) == ("+LNQ", 5))
    assert (row["min"], row["max"], row["seeds"]) == (0.5, 0.52, 2)
    assert row["mean"] == pytest.approx(0.51)
    assert table["complete"] and len(table["cells"]) == 8
    assert json.loads((tmp_path / TABLE_FILE).read_text()) == table
    assert "per_layer" not in (tmp_path / "lnq-w5-s2" / CELL_FILE).read_text()
    assert "+LNQ" in (tmp_path / PLOT_FILE).read_text()
    assert len(stand.said) == 1 and "at most 7 more" in stand.said[0]


def test_built_in_pictures_are_drawn_with_the_seed_of_the_cell(tmp_path: Path) -> None:
    stand = Stand()
    table = stand.run(tmp_path, pictures=2, bits=[4], labels=["none"])
    assert [[picture.name for picture in pictures] for pictures in stand.pictures] == [
        [picture.name for picture in builtin_calibration(0, 2)]
    ] * 2
    first, other = (pictures[0].pixels for pictures in stand.pictures)
    assert first.shape != other.shape or (first != other).any()
    assert table["pictures"] == 2 and table["cells"][0]["settings"]["pictures"] == 2


def test_an_interrupted_table_goes_on_and_keeps_what_it_has(tmp_path: Path) -> None:
    first, second = Stand(fail_at=3), Stand()
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path)
    so_far = json.loads((tmp_path / TABLE_FILE).read_text())
    assert len(so_far["cells"]) == 3 and not so_far["complete"]
    second.run(tmp_path)
    assert len(second.made) == 5 and not set(first.made) & set(second.made)


def test_a_cell_of_other_settings_is_made_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": ["none", "+reconstruction"], "bits": [4], "seeds": [0]}
    Stand().run(tmp_path, **options)
    again = Stand()
    again.run(tmp_path, recon_iters=8, **options)
    assert again.made == ["reconstruction-w4-s0"]


def test_each_part_is_alone_and_all_keeps_the_bits_of_the_inputs() -> None:
    by_label = {cell.label: cell.recipe for cell in cells_of(None, [5], [0], 9)}
    assert list(by_label) == [label for label, _ in ABLATION]
    plain = NONE.described() | {"bits": 5}
    for label, recipe in by_label.items():
        changed = {key for key, value in recipe.described().items() if value != plain[key]}
        assert len(changed) == {"none": 0, "all": 8}.get(label, 1), (label, changed)
        assert recipe.bits == 5 and not recipe.byte_inputs
    assert by_label["all"].recon_iters == by_label["+reconstruction"].recon_iters == 9


@pytest.mark.parametrize("options", [{"labels": ["+GELU"]}, {"bits": [3]}, {"seeds": []}])
def test_what_there_is_not_is_refused_before_any_work(tmp_path: Path, options: dict[str, Any]) -> None:
    stand = Stand()
    with pytest.raises(UserError):
        stand.run(tmp_path, **options)
    assert not stand.made
