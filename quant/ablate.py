"""What every part of the method buys: each alone on top of plain rounding, and all, at several widths and seeds."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from quant.calibration_pictures import builtin_calibration
from quant.evaluate import MaskAgreement
from quant.pictures import PromptedPicture, builtin_evaluation
from quant.plot import LinePoint, line_plot_svg
from quant.quantize import quantize_to_folder
from quant.recipe import DEFAULT, NONE, Recipe
from sim.contract.errors import UserError
from sim.record import write_json, write_whole

RECON_ITERS: Final = 200

ABLATION: Final[tuple[tuple[str, Callable[[Recipe], Recipe]], ...]] = (
    ("none", lambda base: base),
    ("+ACNR", lambda base: replace(base, acnr=True)),
    ("+HLUQ", lambda base: replace(base, hluq=True)),
    ("+CAG", lambda base: replace(base, cag="tile")),
    ("+LNQ", lambda base: replace(base, scores="lnq")),
    ("+compensation", lambda base: replace(base, compensate=True)),
    ("+reconstruction", lambda base: replace(base, recon_iters=RECON_ITERS)),
    (
        "all",
        lambda base: replace(
            DEFAULT, bits=base.bits, acnr=True, byte_inputs=(), byte_scores=(), recon_iters=RECON_ITERS
        ),
    ),
)
"""Label, and what it makes of the baseline. `all` has every part, whatever the default recipe leaves out, and keeps
every input at the baseline's bits, as the others do."""

TABLE_FILE: Final = "ablation.json"
PLOT_FILE: Final = "ablation.svg"
CELL_FILE: Final = "cell.json"
METRIC: Final = "mean_iou_to_float"
KEPT_FIGURES: Final = (METRIC, "min_iou_to_float", "mean_iou_to_truth", "n_prompts", "model_bytes")


@dataclass(frozen=True)
class Cell:
    """One quantization of the table."""

    label: str
    bits: int
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.label.lstrip('+').lower()}-w{self.bits}-s{self.seed}"


def cells_of(labels: Sequence[str] | None, bits: Sequence[int], seeds: Sequence[int], recon_iters: int) -> list[Cell]:
    """The cells of a table, seed by seed, so that an interrupted table is whole for the first seeds.

    Raises UserError for an unknown label, for bits that there are not, and where one of the three is empty.
    """
    known = dict(ABLATION)
    chosen = list(known) if labels is None else list(dict.fromkeys(labels))
    unknown = [label for label in chosen if label not in known]
    if unknown:
        raise UserError(f"unknown part {unknown[0]!r}; there is {', '.join(known)}")
    if not (chosen and bits and seeds) or any(width not in (4, 5, 6, 8) for width in bits):
        raise UserError(f"an ablation needs parts, bits of 4, 5, 6 or 8, and seeds; found bits {list(bits)}")
    cells = []
    for seed in dict.fromkeys(seeds):
        for width in dict.fromkeys(bits):
            for label in chosen:
                recipe = known[label](replace(NONE, bits=width))
                recipe = replace(recipe, recon_iters=recon_iters) if recipe.recon_iters else recipe
                cells.append(Cell(label, width, seed, recipe))
    return cells


def summarise(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, min and max over seeds of the metric of finished cells, by label and bits, in order of appearance."""
    groups: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        groups.setdefault((cell["label"], cell["bits"]), []).append(float(cell["figures"][METRIC]))
    return [
        {
            "label": label,
            "bits": bits,
            "seeds": len(found),
            "mean": sum(found) / len(found),
            "min": min(found),
            "max": max(found),
        }
        for (label, bits), found in groups.items()
    ]


def ablation_svg(model: str, summary: Sequence[Mapping[str, Any]]) -> str:
    """The metric over bits, one line per label with the range over seeds."""
    series: dict[str, list[LinePoint]] = {}
    for row in summary:
        # The mean of equal numbers may leave their range in its last bit.
        mean = min(max(row["mean"], row["min"]), row["max"])
        series.setdefault(row["label"], []).append((row["bits"], mean, row["min"], row["max"]))
    return line_plot_svg(series, f"{model}: masks of the integer model", "bits", "mean IoU to the float masks")


def _finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A cell done before with the same settings."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    same = isinstance(found, dict) and found.get("settings") == settings
    return found if same and METRIC in found.get("figures", {}) else None


def _names(pictures: Sequence[PromptedPicture] | int | None) -> list[str] | int | None:
    return pictures if pictures is None or isinstance(pictures, int) else [picture.name for picture in pictures]


def run_ablation(
    model_name: str,
    out: Path,
    *,
    bits: Sequence[int],
    seeds: Sequence[int],
    pictures: list[PromptedPicture] | int | None = None,
    evaluation: list[PromptedPicture] | None = None,
    recon_iters: int = RECON_ITERS,
    labels: Sequence[str] | None = None,
    progress: Callable[[str], None],
    quantize: Callable[..., Any] = quantize_to_folder,
    mask_agreement: Callable[[Path], Mapping[str, Any]] | None = None,
    announce: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> dict[str, Any]:
    """Quantize and evaluate every cell of the table; returns and writes the figures.

    Each cell is a model folder in `out`; one that was finished with the same settings is not made again. After every
    cell `out` holds the table so far as JSON and as a plot, and `progress` is told the cell's folder. pictures: to
    calibrate on; evaluation: to compare masks on; None for the built-in ones. quantize, mask_agreement: what makes a
    folder, and its figures, METRIC among them. announce: is told how long the rest will take, after the first cell
    made. Raises UserError for whatever the user can mend.
    """
    measure = mask_agreement or MaskAgreement(builtin_evaluation() if evaluation is None else evaluation)
    cells = cells_of(labels, bits, seeds, recon_iters)
    base = {"model": model_name, "pictures": _names(pictures), "evaluation": _names(evaluation)}
    table: dict[str, Any] = {}
    finished: list[dict[str, Any]] = []
    forecast = False
    for index, cell in enumerate(cells):
        folder = out / cell.folder
        # Through JSON, as a finished cell's settings come back.
        settings = json.loads(json.dumps({**base, "seed": cell.seed, "recipe": cell.recipe.described()}))
        entry = _finished(folder / CELL_FILE, settings)
        if entry is None:
            started = time.monotonic()
            (folder / CELL_FILE).unlink(missing_ok=True)
            chosen = builtin_calibration(cell.seed, pictures) if isinstance(pictures, int) else pictures
            quantize(folder, chosen, cell.seed, lambda _: None, model_name=model_name, recipe=cell.recipe)
            measured = measure(folder)
            figures = {key: measured[key] for key in KEPT_FIGURES if key in measured}
            seconds = time.monotonic() - started
            place = {"label": cell.label, "bits": cell.bits, "seed": cell.seed}
            entry = {**place, "settings": settings, "figures": figures, "seconds": seconds}
            write_json(folder / CELL_FILE, entry)
            if not forecast:
                rest = len(cells) - index - 1
                announce(
                    f"a cell took {seconds:.0f} s; at most {rest} more, about {rest * seconds / 60:.0f} minutes "
                    "(longer with +reconstruction and all)"
                )
                forecast = True
        finished.append(entry)
        summary = summarise(finished)
        table = {
            **base,
            "metric": METRIC,
            "recon_iters": recon_iters,
            "complete": index + 1 == len(cells),
            "summary": summary,
            "cells": finished,
        }
        write_json(out / TABLE_FILE, table)
        write_whole(out / PLOT_FILE, ablation_svg(model_name, summary).encode())
        progress(cell.folder)
    return table
