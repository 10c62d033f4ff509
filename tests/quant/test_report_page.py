"""The page about a small quantized model."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quant.calibration_pictures import builtin_calibration
from quant.export import REPORT_FILE
from quant.quantize import quantize_to_folder
from quant.recipe import NONE
from quant.report_page import report_html


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "model"
    picture = builtin_calibration(0, 1)[0]
    pictures = [replace(picture, boxes=picture.boxes[:1])]
    recipe = replace(NONE, max_tokens=256)
    quantize_to_folder(out, pictures, 0, lambda _: None, model_name="vit_test", synthetic=True, recipe=recipe)
    path = out / REPORT_FILE
    document = json.loads(path.read_text())
    first = next(iter(document["layers"].values()))
    first["choice"] |= {"block_error_before": 0.5, "block_error_after": 0.125, "kept": "<b>"}
    path.write_text(json.dumps(document))
    return out


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_every_layer_has_its_histograms_and_levels(folder: Path) -> None:
    tags = Tags()
    tags.feed(report_html(folder))
    layers = json.loads((folder / REPORT_FILE).read_text())["layers"].values()
    names = [tag for tag, _ in tags.seen]
    assert names.count("details") == len(layers)
    assert names.count("svg") == sum(1 if layer["weights"] is None else 2 for layer in layers)
    lines = sum("level" in str(attributes.get("class")).split() for _, attributes in tags.seen)
    assert lines == sum(len(layer["input_levels"]) + len(layer["weight_levels"]) for layer in layers)


def test_the_page_needs_nothing_from_elsewhere(folder: Path) -> None:
    page = report_html(folder)
    tags = Tags()
    tags.feed(page)
    assert not {"script", "link", "img"} & {tag for tag, _ in tags.seen}
    assert not any({"src", "href"} & set(attributes) for _, attributes in tags.seen)
    assert page.count("prefers-color-scheme:dark") == 1


def test_reconstruction_is_told_and_what_was_chosen_is_escaped(folder: Path) -> None:
    page = report_html(folder)
    assert "error of its block 0.5 before, 0.125 after reconstruction" in page
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_a_folder_without_a_report_gives_the_table_and_a_note(folder: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page = report_html(tmp_path)
    assert f"no {REPORT_FILE}" in page
    assert "image_encoder.blocks.0.attn.qkv" in page and "<details>" not in page
