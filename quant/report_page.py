"""One self-contained HTML page about a model folder: a table, and the histograms and levels of every layer."""

import re
from html import escape
from pathlib import Path
from typing import Final

from quant.inspect import Inspection, OperationSummary, inspect_folder, read_reports, shown
from quant.layer_report import LayerReport, read_histogram
from quant.plot import histogram_svg
from sim.golden.architecture import ENCODER

_PAGE_STYLE: Final = """\
:root{color-scheme:light dark}body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{padding:.15rem .6rem;text-align:right;
border-bottom:1px solid #8884}td:first-child,th:first-child{text-align:left}details{margin:.4rem 0}
summary{cursor:pointer;font-family:ui-monospace,monospace}svg{max-width:100%;height:auto}"""

_PLOT_STYLE: Final = re.compile(r"<style>.*?</style>", re.DOTALL)

BLOCK_BEFORE: Final = "block_error_before"
BLOCK_AFTER: Final = "block_error_after"


def _row(cells: list[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _number(report: LayerReport, key: str) -> str:
    value = report.choice.get(key)
    return shown(float(value)) if isinstance(value, int | float) else "-"


def _table(inspection: Inspection) -> str:
    header = ["operation", "kind", "shape", "input bits", "weight bits", "passes", "codes", "condition before", "after"]
    header += ["output error", "KiB"]
    rows = [
        _row(
            [
                one.name,
                one.kind,
                one.shape,
                shown(one.input_bits, "d"),
                shown(one.weight_bits, "d"),
                str(one.passes or "-"),
                one.codes or "-",
                shown(one.condition_before),
                shown(one.condition_after),
                shown(one.output_error),
                f"{one.stored_bytes / 1024:.1f}",
            ]
        )
        for one in inspection.operations
    ]
    return f"<table><thead>{_row(header, 'th')}</thead><tbody>{''.join(rows)}</tbody></table>"


def _layer(one: OperationSummary, report: LayerReport) -> str:
    """A layer folded away: what was measured and chosen, then its histograms."""
    told = [
        f"condition number {shown(one.condition_before)} before, {shown(one.condition_after)} after reduction",
        f"relative output error {shown(one.output_error)}",
    ]
    if BLOCK_BEFORE in report.choice or BLOCK_AFTER in report.choice:
        told.append(
            f"error of its block {_number(report, BLOCK_BEFORE)} before, {_number(report, BLOCK_AFTER)} "
            "after reconstruction"
        )
    chosen = {key: value for key, value in report.choice.items() if key not in (BLOCK_BEFORE, BLOCK_AFTER)}
    told.append("chosen: " + (", ".join(f"{key} {value}" for key, value in chosen.items()) or "nothing"))
    inputs = "probabilities" if report.kind == "attention" else "inputs of the first K tile"
    levels = [float(level) for level in report.input_levels]
    plots = [histogram_svg(read_histogram(report.inputs), levels, inputs, log_y=True)]
    if report.weights is not None:
        weight_levels = [float(level) for level in report.weight_levels]
        plots.append(
            histogram_svg(read_histogram(report.weights), weight_levels, "weights, levels of the first output")
        )
    items = "".join(f"<li>{escape(line)}</li>" for line in told)
    drawn = "".join(_PLOT_STYLE.sub("", plot) for plot in plots)
    return f"<details><summary>{escape(one.name)}</summary><ul>{items}</ul>{drawn}</details>"


def _plot_style(report: LayerReport) -> str:
    """The style that every plot carries, for the page to carry once."""
    found = _PLOT_STYLE.search(histogram_svg(read_histogram(report.inputs), [], ""))
    return found.group() if found else ""


def report_html(folder: Path) -> str:
    """The page about a model folder, without external resources; it follows the reader's light or dark preference.

    Raises UserError when the folder or calibration's notes in it are damaged.
    """
    inspection = inspect_folder(folder)
    reports = read_reports(folder) or {}
    title = f"{inspection.model}, {inspection.bits} bits"
    encoder = f"{ENCODER}."
    lead = (
        f"{len(inspection.operations)} operations, {inspection.model_bytes:,} bytes. Image encoder: "
        f"{inspection.macs(encoder) / 1e9:.3f} GMAC a picture, "
        f"{inspection.array_macs(encoder) / 1e9:.3f} GMAC of 4 bits."
    )
    notes = "".join(f"<p><strong>{escape(note)}</strong></p>" for note in inspection.missing)
    layers = "".join(_layer(one, reports[one.name]) for one in inspection.operations if one.name in reports)
    style = _plot_style(next(iter(reports.values()))) if reports else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_PAGE_STYLE}</style>{style}</head><body><h1>{escape(title)}</h1><p>{escape(lead)}</p>{notes}"
        f"<h2>Layers</h2><p>Bars: values on calibration pictures. Lines: levels; of a byte every fourth is drawn.</p>"
        f"{layers}<h2>All operations</h2>{_table(inspection)}</body></html>\n"
    )
