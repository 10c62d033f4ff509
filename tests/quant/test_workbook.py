"""Finished work on disk: every bit comes back, damage counts as unfinished, nobody else's folder is touched."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.calibrate import Calibration
from quant.fake_quant import FakeQuant, FakeQuantAttention, FakeQuantLinear, OperandGrid
from quant.gptq import round_nearest
from quant.input_grid import InputGrid, store_offset, uniform_levels
from quant.layer_report import LayerReport, attention_histograms, dense_histograms
from quant.lnq import lnq_grid
from quant.workbook import SETTINGS_FILE, Workbook, pack, unpack
from sim.contract.errors import UserError

SETTINGS = {"seed": 1, "recipe": {"bits": 4, "byte_inputs": ("a", "b")}}


def _dense(bits: int) -> FakeQuantLinear:
    torch.manual_seed(bits)
    levels = (uniform_levels(bits),) * 2
    grid = InputGrid(torch.randperm(80), torch.rand(2), store_offset(torch.randn(80)), levels, bits)
    return FakeQuantLinear(grid, round_nearest(torch.randn(6, 80), torch.ones(80), bits), torch.randn(6))


def _attention() -> FakeQuantAttention:
    torch.manual_seed(3)
    q, k, v = (OperandGrid(torch.rand(2, 1, 8), torch.randn(2, 1, 8), -128, high) for high in (127, 119, 119))
    return FakeQuantAttention(q, k, v, lnq_grid(20.0, 0.6, 4))


def _report(name: str, operation: FakeQuant) -> LayerReport:
    dense = isinstance(operation, FakeQuantLinear)
    histograms = (
        dense_histograms(operation, torch.randn(50, 80))
        if isinstance(operation, FakeQuantLinear)
        else attention_histograms(operation, torch.rand(50, 9))
    )
    return LayerReport(
        name=name,
        kind="dense" if dense else "attention",
        input_bits=4,
        weight_bits=4 if dense else None,
        condition_before=1 / 3 if dense else None,
        condition_after=2.0 if dense else None,
        output_error=0.1234567,
        choice={"codes": "LNQ", "alpha": 1e-3},
        **histograms,
    )


@pytest.fixture
def found() -> Calibration:
    """What calibration may find of a block."""
    quantized: dict[str, FakeQuant] = {"block.qkv": _dense(4), "block.fc": _dense(8), "block.attend": _attention()}
    return Calibration(
        quantized=quantized,
        largest={"block.qkv": 1 / 3, "block.act": 1e-30},
        largest_input={"block.qkv": 7.1},
        factors={"block.qkv": torch.rand(80)},
        reports={name: _report(name, operation) for name, operation in quantized.items()},
    )


def _flat(value: Any) -> list[Any]:
    """Every number and tensor of a nest of dataclasses, dicts and tuples."""
    if isinstance(value, Tensor):
        return [value.dtype, value.shape, value.tolist()]
    if isinstance(value, dict):
        return [one for key in value for one in (key, *_flat(value[key]))]
    if isinstance(value, list | tuple):
        return [one for part in value for one in _flat(part)]
    return _flat(vars(value)) if hasattr(value, "__dataclass_fields__") else [value]


def test_packing_keeps_every_bit(found: Calibration) -> None:
    back = unpack(pack(found))
    for field in ("quantized", "largest", "largest_input", "factors"):
        assert _flat(getattr(back, field)) == _flat(getattr(found, field)), field
    assert {name: one.described() for name, one in back.reports.items()} == {
        name: one.described() for name, one in found.reports.items()
    }


def test_finished_units_come_back_by_their_names_alone(tmp_path: Path, found: Calibration) -> None:
    book = Workbook(tmp_path / "work", SETTINGS, resume=False)
    assert book.finished("block/0") is None and book.units() == 0
    book.finish("block/0", found)
    book.finish("block_0", found.part(["block.qkv"]))
    again = Workbook(tmp_path / "work", SETTINGS, resume=True)
    assert again.units() == 2
    first, second = again.finished("block/0"), again.finished("block_0")
    assert first is not None and list(first.quantized) == ["block.qkv", "block.fc", "block.attend"]
    assert second is not None and list(second.quantized) == ["block.qkv"]
    again.remove()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 3000, -1])
def test_a_truncated_unit_is_unfinished(tmp_path: Path, found: Calibration, kept: int) -> None:
    book = Workbook(tmp_path / "work", SETTINGS, resume=False)
    book.finish("block", found)
    (unit,) = (tmp_path / "work").glob("*.safetensors")
    unit.write_bytes(unit.read_bytes()[:kept])
    assert book.finished("block") is None


@pytest.mark.parametrize("text", ["", "{", "\udcff", "[1]", '{"seed": 2}'])
def test_settings_that_are_damaged_or_others_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    Workbook(tmp_path / "work", SETTINGS, resume=False)
    (tmp_path / "work" / SETTINGS_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"leave (--resume out|out)") as refusal:
        Workbook(tmp_path / "work", SETTINGS, resume=True)
    assert "\n" not in str(refusal.value)
    assert Workbook(tmp_path / "work", SETTINGS, resume=False).units() == 0


def test_without_resume_units_are_thrown_away(tmp_path: Path, found: Calibration) -> None:
    Workbook(tmp_path / "work", SETTINGS, resume=False).finish("block", found)
    assert Workbook(tmp_path / "work", SETTINGS, resume=False).finished("block") is None


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "photos.partial"
    folder.mkdir()
    (folder / "mine.jpg").write_text("mine")
    with pytest.raises(UserError, match="holds no work of this program"):
        Workbook(folder, SETTINGS, resume=resume)
    (tmp_path / "file.partial").write_text("mine")
    with pytest.raises(UserError, match="holds no work of this program"):
        Workbook(tmp_path / "file.partial", SETTINGS, resume=resume)
    assert (folder / "mine.jpg").read_text() == (tmp_path / "file.partial").read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_a_workbook_that_lost_its_settings_begins_anew(tmp_path: Path, found: Calibration, resume: bool) -> None:
    """Power failed while it was begun or thrown away: a unit is left, or a temporary folder of either file."""
    book = Workbook(tmp_path / "work", SETTINGS, resume=False)
    book.finish("block/0", found)
    (tmp_path / "work" / SETTINGS_FILE).unlink()
    for name in (f".{SETTINGS_FILE}.ab12", ".block_0.0123abcd.safetensors.xy"):
        (tmp_path / "work" / name).mkdir()
    again = Workbook(tmp_path / "work", SETTINGS, resume=resume)
    assert again.units() == 0 and [path.name for path in (tmp_path / "work").iterdir()] == [SETTINGS_FILE]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "settings.json.bak", ".hidden", "block.0123abcd.safetensors.txt"]
)
def test_another_file_among_units_without_settings_keeps_all_of_them(
    tmp_path: Path, found: Calibration, name: str
) -> None:
    book = Workbook(tmp_path / "work", SETTINGS, resume=False)
    book.finish("block/0", found)
    (tmp_path / "work" / SETTINGS_FILE).unlink()
    (tmp_path / "work" / name).write_text("mine")
    with pytest.raises(UserError, match="holds no work of this program"):
        Workbook(tmp_path / "work", SETTINGS, resume=False)
    assert (tmp_path / "work" / name).read_text() == "mine" and book.units() >= 1


def test_resuming_where_nothing_is_begins_anew(tmp_path: Path) -> None:
    assert Workbook(tmp_path / "work", SETTINGS, resume=True).units() == 0
    assert json.loads((tmp_path / "work" / SETTINGS_FILE).read_text())["seed"] == 1
