"""A small quantized model looked at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quant.calibration_pictures import builtin_calibration
from quant.export import REPORT_FILE
from quant.inspect import inspect_folder, tables
from quant.layer_report import LayerReport, read_histogram, stored_histogram
from quant.quantize import quantize_to_folder
from quant.recipe import NONE
from sim.contract.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspect") / "model"
    picture = builtin_calibration(0, 1)[0]
    pictures = [replace(picture, boxes=picture.boxes[:1])]
    recipe = replace(NONE, max_tokens=256)
    quantize_to_folder(out, pictures, 0, lambda _: None, model_name="vit_test", synthetic=True, recipe=recipe)
    return out


def copy_with_report(folder: Path, place: Path, report: str | None) -> Path:
    place.mkdir()
    for name in ("manifest.json", "model.safetensors"):
        (place / name).write_bytes((folder / name).read_bytes())
    if report is not None:
        (place / REPORT_FILE).write_text(report)
    return place


def test_products_are_those_of_the_shapes(folder: Path) -> None:
    found = {one.name: one for one in inspect_folder(folder).operations}
    # 16x16 map in windows of 7: 9 windows of 49 tokens; tables of 13 rows and 13 columns.
    qkv, attend = found["image_encoder.blocks.0.attn.qkv"], found["image_encoder.blocks.0.attn.attend"]
    assert (qkv.macs, qkv.array_macs, qkv.passes) == (441 * 384 * 128, 441 * 384 * 128, 1)
    assert attend.macs == 2 * 441 * 49 * 128 + 441 * 26 * 128
    patch = found["image_encoder.patch_embed.proj"]
    assert patch.array_macs == 4 * patch.macs == 4 * 256 * 128 * 768
    assert (patch.input_bits, patch.weight_bits, patch.kind, patch.shape) == (8, 8, "dense", "128x768")


def test_totals_add_up_and_the_table_fits_a_terminal(folder: Path) -> None:
    inspection = inspect_folder(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [one.name for one in inspection.operations] == list(manifest["operations"])
    totals = json.loads(json.dumps(inspection.to_json()))["totals"]
    assert sum(totals["operations"].values()) == len(inspection.operations)
    assert 0 < totals["encoder_macs"] < totals["macs"] <= totals["array_macs"]
    lines = tables(inspection).splitlines()
    assert max(map(len, lines)) < 120
    assert len({len(line) for line in lines[2 : 3 + len(inspection.operations)]}) == 1


def test_a_folder_without_a_report_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    inspection = inspect_folder(copy_with_report(folder, tmp_path / "m", None))
    assert all(one.output_error is None for one in inspection.operations)
    assert f"note: no {REPORT_FILE}" in tables(inspection)


@pytest.mark.parametrize(
    "change", ["{", "[]", '{"layers": {"a": {}}}', "first", "counts", "input_levels", "output_error"]
)
def test_a_damaged_report_is_the_users_to_mend(folder: Path, tmp_path: Path, change: str) -> None:
    text = change
    if change[0] not in "{[":
        document = json.loads((folder / REPORT_FILE).read_text())
        entry = next(iter(document["layers"].values()))
        (entry["inputs"] if change in entry["inputs"] else entry)[change] = ["x"]
        text = json.dumps(document)
    with pytest.raises(UserError, match=f"{REPORT_FILE} is damaged"):
        inspect_folder(copy_with_report(folder, tmp_path / "m", text))


def test_a_report_is_small_and_reads_back(folder: Path) -> None:
    document = json.loads((folder / REPORT_FILE).read_text())
    for entry in document["layers"].values():
        assert len(entry["input_levels"]) <= 65
        assert LayerReport.from_json(entry).described() == entry
    assert (folder / REPORT_FILE).stat().st_size < 2600 * len(document["layers"])


def test_a_stored_histogram_keeps_its_counts_and_edges() -> None:
    histogram = read_histogram(stored_histogram([0.0, 1.0, 2.0, 48.0]))
    assert histogram.edges[:3] == pytest.approx((0, 1, 2))
    assert (histogram.total, histogram.counts[:3], histogram.edges[-1]) == (4, (1, 1, 1), 48)
