"""What the demo leaves behind: the overlay, the side-by-side picture and the report."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.pictures import data_uri, float_vs_int4
from demo.report import Row, Section, render
from quant.reference import checkpoint_bytes, float_mask
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.folder import read_folder
from sim.contract.layer import QuantizedLayer
from sim.contract.serialize import Operation
from sim.picture import intersection_over_union, load_picture, overlay, save_picture
from sim.record import write_json, write_whole

TITLE = "nibblesam: from a picture to an INT4 mask and a bitstream"


def _operation_rows(operations: Collection[Operation]) -> list[Row]:
    passes = Counter(one.passes for one in operations if isinstance(one, QuantizedLayer))
    spread = ", ".join(f"{layers} in {count} pass{'es' * (count > 1)}" for count, layers in sorted(passes.items()))
    return [
        (
            "integer operations",
            f"{len(operations)}",
            "the whole image encoder, and the projections and attention of the mask decoder",
        ),
        ("dense layers among them", f"{passes.total()}", f"{spread} of 4-bit codes and 4-bit weights"),
    ]


def _model_rows(model: Path, iou: float, segment: dict[str, Any]) -> list[Row]:
    folder = read_folder(model)
    before, after = checkpoint_bytes(), folder.size_bytes
    return [
        ("mask, INT4 against float32 (IoU)", f"{iou:.4f}", "python -m sim segment, python -m quant evaluate"),
        ("pixels of the INT4 mask", f"{segment['pixels']:,}", "golden integer model"),
        ("golden model, seconds for this picture", f"{segment['seconds']:.1f}", "numpy on this machine"),
        ("model before", f"{before / 1e6:.2f} MB", "float32 checkpoint"),
        ("model after", f"{after / 1e6:.2f} MB ({before / after:.1f}x smaller)", "model.safetensors + manifest.json"),
        *_operation_rows(folder.operations.values()),
    ]


def _rtl_rows(check: dict[str, Any]) -> list[Row]:
    geometry = check["geometry"]
    size = f"{check['tokens']} tokens, {check['inputs']} inputs, {check['outputs']} outputs"
    return [
        ("layer", size, check["layer"]),
        ("differing bits", f"{check['differing_bits']}", f"of {check['outputs_compared']:,} 16-bit results"),
        (
            "array simulated",
            f"{geometry['rows']} x {geometry['columns']}",
            f"{geometry['rows'] * geometry['columns']} multiply-accumulates per cycle",
        ),
        ("cycles", f"{check['cycles']:,}", f"the stated formulas give {check['cycles_predicted']:,}"),
        ("array busy", f"{check['utilisation']:.1%}", "multiply-accumulates over cycles x array size, loads included"),
    ]


def _bitstream_rows(bitstream: dict[str, Any]) -> list[Row]:
    geometry, used = bitstream["geometry"], bitstream["resources"]
    rows: list[Row] = [
        (
            "array on the chip",
            f"{geometry['rows']} x {geometry['columns']}",
            f"preset {bitstream['preset']}, LFE5U-{bitstream['device']}, with its UART host link",
        ),
        ("clock", f"{bitstream['reached_mhz']:.1f} MHz", f"target {bitstream['target_mhz']:g} MHz, by nextpnr"),
    ]
    rows += [(name.upper(), f"{count['used']:,}", f"of {count['available']:,}") for name, count in used.items()]
    return rows


def write_page(
    out: Path, model: Path, segment: dict[str, Any], check: dict[str, Any], bitstream: dict[str, Any]
) -> Path:
    """Write mask.png, float_vs_int4.png, report.html and demo.json into `out`; returns the report's path.

    `segment`, `check`, `bitstream` are the figures that the commands of the same names wrote as JSON.
    """
    picture = load_picture(retina_picture())
    int4 = np.asarray(Image.open(out / "int4_mask.png")) > 0
    reference = float_mask(picture, RETINA_BOX)
    iou = intersection_over_union(int4, reference)
    comparison = float_vs_int4(picture, RETINA_BOX, reference, int4)
    save_picture(overlay(picture, int4, RETINA_BOX), out / "mask.png")
    save_picture(comparison, out / "float_vs_int4.png")
    write_json(out / "demo.json", {"iou": iou, "segment": segment, "check": check, "bitstream": bitstream})
    sections = [
        Section(
            "A mask from 4-bit codes",
            _model_rows(model, iou, segment),
            data_uri(comparison),
            "The optic disc of a fundus photograph (scikit-image), prompted with the box.",
        ),
        Section("The hardware gives the same bits", _rtl_rows(check)),
        Section("It fits and meets its clock", _bitstream_rows(bitstream)),
    ]
    lead = (
        "LiteMedSAM quantized to 4-bit codes and weights (two of them where eight bits are needed), run by the golden "
        "integer model, one of its layers checked in the simulated hardware, and that hardware built for the ULX3S."
    )
    write_whole(out / "report.html", render(TITLE, lead, sections).encode())
    return out / "report.html"
