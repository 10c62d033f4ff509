"""Finished work of a quantization, kept on disk so that an interrupted run goes on where it stopped.

A workbook is a folder beside the result, `DIR.partial`: one file per finished block (or operation outside of blocks),
each written whole or not at all, and the settings that all of them were made with. It is removed when the model is
written.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quant.calibrate import Calibration
from quant.fake_quant import FakeQuant, FakeQuantAttention, FakeQuantLinear, OperandGrid
from quant.gptq import RoundedWeight
from quant.input_grid import InputGrid
from quant.layer_report import LayerReport
from quant.score_grid import ScoreGrid
from sim.contract.errors import UserError
from sim.record import write_json, write_whole

SETTINGS_FILE: Final = "settings.json"

_OWN_NAME: Final = re.compile(rf".+\.[0-9a-f]{{8}}\.safetensors|\.{re.escape(SETTINGS_FILE)}\..+|\..+\.safetensors\..+")
"""Files of a workbook, and the temporary folders that stay where power fails while one is written."""


def _pack_dense(name: str, layer: FakeQuantLinear) -> tuple[dict[str, Any], dict[str, Tensor]]:
    grid, weight = layer.grid, layer.weight
    tensors = {
        "permutation": grid.permutation,
        "scale": grid.scale,
        "offset": grid.offset,
        "levels": torch.stack(grid.levels),
        "integers": weight.integers.to(torch.int16),
        "weight_scale": weight.scale,
        "bias": layer.bias,
    }
    entry = {"kind": "dense", "bits": grid.bits, "weight_bits": weight.bits, "group": weight.group}
    return entry, {f"{name}/{key}": value for key, value in tensors.items()}


def _pack_attention(name: str, attention: FakeQuantAttention) -> tuple[dict[str, Any], dict[str, Tensor]]:
    entry: dict[str, Any] = {"kind": "attention", "score_scale": attention.scores.scale}
    tensors = {f"{name}/thresholds": attention.scores.thresholds, f"{name}/levels": attention.scores.levels}
    for part in ("q", "k", "v"):
        grid: OperandGrid = getattr(attention, part)
        entry[part] = [grid.low, grid.high]
        tensors |= {f"{name}/{part}.scale": grid.scale, f"{name}/{part}.offset": grid.offset}
    return entry, tensors


def _unpack(name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FakeQuant:
    parts = {key.partition("/")[2]: value for key, value in tensors.items() if key.partition("/")[0] == name}
    if entry["kind"] == "dense":
        levels = tuple(parts["levels"].unbind())
        grid = InputGrid(parts["permutation"], parts["scale"], parts["offset"], levels, entry["bits"])
        integers = parts["integers"].to(torch.float32)
        weight = RoundedWeight(integers, parts["weight_scale"], entry["weight_bits"], entry["group"])
        return FakeQuantLinear(grid, weight, parts["bias"])
    q, k, v = (OperandGrid(parts[f"{part}.scale"], parts[f"{part}.offset"], *entry[part]) for part in ("q", "k", "v"))
    return FakeQuantAttention(q, k, v, ScoreGrid(parts["thresholds"], parts["levels"], entry["score_scale"]))


def pack(found: Calibration) -> bytes:
    """A part of a calibration as one safetensors blob; floats keep every bit."""
    entries: dict[str, Any] = {}
    tensors = {f"factors/{name}": factor for name, factor in found.factors.items()}
    for name, operation in found.quantized.items():
        if isinstance(operation, FakeQuantLinear):
            entries[name], parts = _pack_dense(name, operation)
        else:
            entries[name], parts = _pack_attention(name, operation)
        tensors |= parts
    head = {
        "quantized": entries,
        "largest": found.largest,
        "largest_input": found.largest_input,
        "reports": {name: report.described() for name, report in found.reports.items()},
    }
    return save({key: value.contiguous() for key, value in tensors.items()}, {"head": json.dumps(head)})


def unpack(blob: bytes) -> Calibration:
    """The inverse of `pack`. Raises SafetensorError, KeyError or ValueError when the blob is not one."""
    size = int.from_bytes(blob[:8], "little")
    head = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["head"])
    tensors = load(blob)
    return Calibration(
        quantized={name: _unpack(name, entry, tensors) for name, entry in head["quantized"].items()},
        largest=head["largest"],
        largest_input=head["largest_input"],
        factors={key.partition("/")[2]: value for key, value in tensors.items() if key.startswith("factors/")},
        reports={name: LayerReport(**report) for name, report in head["reports"].items()},
    )


def _is_workbook(folder: Path) -> bool:
    """Whether a folder has settings, or nothing but files of a workbook that lost them: they are the first to be
    written and may be the first to be removed, and power may fail in between."""
    if (folder / SETTINGS_FILE).is_file():
        return True
    return folder.is_dir() and all(_OWN_NAME.fullmatch(entry.name) for entry in folder.iterdir())


class Workbook:
    """Finished units in a folder. settings: everything that decides the result, as JSON.

    `resume` goes on with what is there; without it what is there is thrown away. Raises UserError when the work there
    was made with other settings, or the folder is not one of finished work.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.folder = folder
        written = json.loads(json.dumps(settings))
        path = folder / SETTINGS_FILE
        if resume and path.is_file():
            found = self._settings(path)
            if found != written:
                differing = sorted(key for key in {*found, *written} if found.get(key) != written.get(key))
                raise UserError(
                    f"{folder} holds work done with other settings ({', '.join(differing)}); repeat those settings, or "
                    "leave --resume out to begin anew"
                )
            return
        if folder.exists() and not _is_workbook(folder):
            raise UserError(f"{folder} exists and holds no work of this program; move it away or name another --out")
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, written)

    @staticmethod
    def _settings(path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); leave --resume out to begin anew") from error
        return found if isinstance(found, dict) else {}

    def _path(self, unit: str) -> Path:
        # Distinct units have distinct names; the digest keeps them apart whatever characters they hold.
        digest = hashlib.sha256(unit.encode()).hexdigest()[:8]
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.]', '_', unit)}.{digest}.safetensors"

    def finished(self, unit: str) -> Calibration | None:
        """What an earlier run found of a unit, or None. A damaged file counts as not finished."""
        path = self._path(unit)
        if not path.is_file():
            return None
        try:
            return unpack(path.read_bytes())
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def finish(self, unit: str, part: Calibration) -> None:
        """Keep what was found of a unit. Raises UserError when the place cannot be written."""
        write_whole(self._path(unit), pack(part))

    def units(self) -> int:
        """Units that are finished."""
        return len(list(self.folder.glob("*.safetensors")))

    def remove(self) -> None:
        """Throw the folder away: the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
