"""From the float model to a folder: what runs, what resumes, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quant.export import REPORT_FILE
from quant.layer_report import LayerReport
from quant.models.registry import load_model
from quant.quantize import CALIBRATION_PICTURES, ENCODER_GMAC, forecast_minutes
from quant.recipe import DEFAULT, NONE
from quant.workbook import SETTINGS_FILE
from sim.contract.errors import UserError
from sim.contract.folder import TENSOR_FILE, read_folder
from sim.golden import GoldenModel


class PowerLossError(Exception):
    """Stands for a lost power supply."""


def stop_after(count: int) -> Callable[[str], None]:
    """A progress that raises when `count` operations are finished."""
    seen: list[str] = []

    def progress(name: str) -> None:
        seen.append(name)
        if len(seen) == count:
            raise PowerLossError(name)

    return progress


def recon(toys: Any) -> Any:
    """A quick recipe that reconstructs blocks too."""
    return replace(toys.quick, recon_iters=4)


@pytest.fixture
def interrupted(toys: Any, tmp_path: Path) -> Path:
    """Where a model was to be, after an interruption behind the last block."""
    with pytest.raises(PowerLossError):
        toys.quantize(tmp_path / "model", recon(toys), progress=stop_after(13))
    return tmp_path / "model"


def partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def test_an_interruption_leaves_no_model_and_only_whole_files(interrupted: Path) -> None:
    assert [path.name for path in interrupted.parent.iterdir()] == ["model.partial"]
    names = sorted(path.name for path in partial(interrupted).iterdir())
    assert SETTINGS_FILE in names and len(names) >= 3
    assert all(name == SETTINGS_FILE or name.endswith(".safetensors") for name in names)


def test_resuming_gives_the_bytes_of_a_run_without_interruption(toys: Any, interrupted: Path) -> None:
    whole = interrupted.with_name("whole")
    toys.quantize(whole, recon(toys))
    kept = any(
        entry["choice"].get("kept") for entry in json.loads((whole / REPORT_FILE).read_text())["layers"].values()
    )
    assert kept, "a reconstruction that changes nothing would prove nothing"
    figures = toys.quantize(interrupted, recon(toys), resume=True)
    assert figures["resumed_units"] >= 2
    for file in sorted(path.name for path in whole.iterdir()):
        assert (interrupted / file).read_bytes() == (whole / file).read_bytes(), file
    assert not partial(interrupted).exists()


def test_a_truncated_unit_counts_as_unfinished(toys: Any, interrupted: Path) -> None:
    whole = interrupted.with_name("whole")
    toys.quantize(whole, recon(toys))
    units = sorted(partial(interrupted).glob("*.safetensors"))
    for unit, keep in zip(units, (0, 5, 200, -1), strict=False):
        unit.write_bytes(unit.read_bytes()[:keep])
    toys.quantize(interrupted, recon(toys), resume=True)
    assert (interrupted / TENSOR_FILE).read_bytes() == (whole / TENSOR_FILE).read_bytes()


@pytest.mark.parametrize(
    ("options", "differing"),
    [({"seed": 1}, "seed"), ({"recipe": {"recon_iters": 5}}, "recipe"), ({"pictures": 1}, "pict")],
)
def test_work_with_other_settings_is_refused(
    toys: Any, interrupted: Path, options: dict[str, Any], differing: str
) -> None:
    recipe = replace(recon(toys), **options.pop("recipe", {}))
    if "pictures" in options:
        options["pictures"] = toys.pictures(1)
    with pytest.raises(UserError, match=rf"other settings \(.*{differing}") as refusal:
        toys.quantize(interrupted, recipe, resume=True, **options)
    assert "\n" not in str(refusal.value)
    assert list(partial(interrupted).glob("*.safetensors")), "refused work is kept"


def test_without_resume_old_work_is_thrown_away(toys: Any, interrupted: Path) -> None:
    (partial(interrupted) / "old.safetensors").write_bytes(b"old")
    assert toys.quantize(interrupted, toys.quick)["resumed_units"] == 0
    assert not partial(interrupted).exists()


def test_a_damaged_settings_file_is_one_line(toys: Any, interrupted: Path) -> None:
    (partial(interrupted) / SETTINGS_FILE).write_text('{"model": ')
    with pytest.raises(UserError, match=r"settings\.json cannot be read .* leave --resume out") as refusal:
        toys.quantize(interrupted, recon(toys), resume=True)
    assert "\n" not in str(refusal.value)


def test_the_folder_runs_and_its_report_is_complete(toys: Any, tmp_path: Path) -> None:
    seen: list[str] = []
    figures = toys.quantize(tmp_path / "model", replace(toys.quick, acnr=True), progress=seen.append)
    contents = read_folder(tmp_path / "model")
    GoldenModel.from_contents(contents)
    assert figures["operations"] == len(contents.operations) and figures["layers"] == len(seen) == len(set(seen))
    assert figures["bytes"] == sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert contents.manifest["recipe"]["acnr"] is True and contents.manifest["bits"] == 4
    report = json.loads((tmp_path / "model" / REPORT_FILE).read_text())
    assert list(report["layers"]) == seen
    for name, entry in report["layers"].items():
        layer = LayerReport.from_json(entry)
        assert layer.name == name and layer.described() == entry
        assert (layer.kind == "dense") == (layer.condition_before is not None) == (layer.weight_bits is not None)


def test_few_and_alike_pictures_are_warned_of(toys: Any, tmp_path: Path) -> None:
    few = toys.quantize(tmp_path / "few", toys.quick, pictures=toys.pictures(1))["warnings"]
    assert len(few) == 1 and few[0].startswith("1 calibration picture;")
    (one,) = toys.pictures(1)
    brighter = replace(one, pixels=np.minimum(one.pixels, 254) + np.uint8(1))
    alike = toys.quantize(tmp_path / "alike", toys.quick, pictures=[one, brighter] * 2)["warnings"]
    assert len(alike) == 1 and "look alike" in alike[0]
    assert toys.quantize(tmp_path / "enough", toys.quick, pictures=toys.pictures(4))["warnings"] == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(toys: Any, tmp_path: Path, value: float) -> None:
    state = load_model("vit_test").state_dict()
    state["image_encoder.neck.0.weight"][3, 1] = value
    torch.save(state, tmp_path / "sick.pth")
    with pytest.raises(UserError, match=r"image_encoder\.neck\.0\.weight holds a value that is not finite"):
        toys.quantize(tmp_path / "model", toys.quick, checkpoint=tmp_path / "sick.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sick.pth"]


def test_a_checkpoint_of_another_size_is_refused_by_its_name(tmp_path: Path) -> None:
    from quant.quantize import quantize_to_folder

    state = {f"image_encoder.blocks.{index}.x": torch.zeros(1) for index in range(12)}
    torch.save({**state, "image_encoder.patch_embed.proj.weight": torch.zeros(768, 1)}, tmp_path / "sam_b.pth")
    with pytest.raises(UserError, match=r"holds vit_b, not vit_test; give --model vit_b"):
        quantize_to_folder(
            tmp_path / "m", [], 0, lambda _: None, model_name="vit_test", checkpoint=tmp_path / "sam_b.pth"
        )


def test_forecasts_exist_for_every_model_and_grow_with_the_work() -> None:
    for name in ENCODER_GMAC:
        minutes = forecast_minutes(name, DEFAULT, None)
        assert 0 < minutes < forecast_minutes(name, replace(DEFAULT, recon_iters=400), None)
        assert minutes < forecast_minutes(name, DEFAULT, 2 * CALIBRATION_PICTURES.get(name, 8))
    assert forecast_minutes("vit_test", NONE, 4) < 2
