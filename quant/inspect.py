"""What is in a model folder: its operations, their codes and sizes, and what calibration noted of them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from quant.export import REPORT_FILE
from quant.layer_report import LayerReport
from sim.contract.attention import Attention, DecomposedBias
from sim.contract.constants import LEVEL_MAX, WEIGHT_MAX, WEIGHT_MIN
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.folder import ModelFolder, read_folder
from sim.contract.layer import QuantizedLayer, level_codebooks
from sim.contract.serialize import Operation, flatten
from sim.golden.architecture import ENCODER, Architecture
from sim.golden.mask_decoder import decode_mask
from sim.golden.parameters import Executed, Parameters
from sim.golden.prompt_encoder import encode_prompt
from sim.golden.rehearsal import Rehearsal, blank

NAME_WIDTH: Final = 52


@dataclass(frozen=True)
class OperationSummary:
    """One operation. Its fields that need calibration's notes are None where there are none.

    shape: outputs x inputs of a dense layer, heads x channels of an attention, else channels (0 where any will do).
    weight_bits: 4 or 8, as stored. passes: of the 4-bit array per product; of an attention q.k^T plus P.v; 0 where the
    array takes no part. codes: of the input, of an attention those of the probabilities. macs: products for one picture
    and one box. array_macs: the same times passes. stored_bytes: of its tensors, not packed.
    """

    name: str
    kind: str
    shape: str
    input_bits: int | None
    weight_bits: int | None
    passes: int
    codes: str | None
    condition_before: float | None
    condition_after: float | None
    output_error: float | None
    wide_exponent: int
    macs: int
    array_macs: int
    stored_bytes: int


@dataclass(frozen=True)
class Inspection:
    """A folder's operations in network order. missing: what could not be told, and why."""

    model: str
    bits: int
    source: dict[str, Any]
    model_bytes: int
    operations: tuple[OperationSummary, ...]
    missing: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Operations of each kind."""
        return dict(Counter(one.kind for one in self.operations))

    def macs(self, prefix: str = "") -> int:
        """Products of the operations whose names start with `prefix`, for one picture and one box."""
        return sum(one.macs for one in self.operations if one.name.startswith(prefix))

    def array_macs(self, prefix: str = "") -> int:
        """Products of the 4-bit array, every pass counted."""
        return sum(one.array_macs for one in self.operations if one.name.startswith(prefix))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {
            **asdict(self),
            "totals": {
                "operations": self.counts,
                "passes": sum(one.passes for one in self.operations),
                "encoder_macs": self.macs(f"{ENCODER}."),
                "encoder_array_macs": self.array_macs(f"{ENCODER}."),
                "macs": self.macs(),
                "array_macs": self.array_macs(),
            },
        }


def read_reports(folder: Path) -> dict[str, LayerReport] | None:
    """Calibration's notes by operation name, None where the folder has none. Raises UserError when they are damaged."""
    path = folder / REPORT_FILE
    if not path.is_file():
        return None
    try:
        layers = json.loads(path.read_text())["layers"]
        return {name: LayerReport.from_json(entry) for name, entry in layers.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); quantize the model again, or delete the file") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _stream_planes(encoder: Encoder) -> int:
    return max(len(level_codebooks(row)) for row in encoder.levels)


def _stationary_planes(encoder: Encoder) -> int:
    return 1 if int(encoder.levels.min()) >= WEIGHT_MIN and int(encoder.levels.max()) <= WEIGHT_MAX else 2


def attention_passes(operation: Attention) -> tuple[int, int]:
    """4-bit passes of q.k^T and of P.v: nibbles of the streamed operand times nibbles of the stationary one."""
    score_planes = 1 if int(operation.score_levels.max()) <= LEVEL_MAX else 2
    return _stream_planes(operation.q) * _stationary_planes(operation.k), score_planes * _stationary_planes(operation.v)


def products(executed: Executed) -> tuple[int, int]:
    """(products, products of the 4-bit array with every pass counted) of an operation on inputs of these shapes.

    Products of q with tables of relative positions count for an attention; they have 8-bit tables, two nibbles.
    """
    operation, shape = executed.operation, executed.inputs[0].values.shape
    if isinstance(operation, QuantizedLayer):
        macs = int(np.prod(shape)) * operation.outputs
        return macs, macs * operation.passes
    if isinstance(operation, Depthwise):
        return 9 * executed.output.values.size, 0
    if not isinstance(operation, Attention):
        return 0, 0
    windows, queries, channels = shape
    one = windows * queries * executed.inputs[1].values.shape[1] * channels
    logits, mix = attention_passes(operation)
    bias = operation.position
    rows = 2 * (bias.rows + bias.columns) - 2 if isinstance(bias, DecomposedBias) else 0
    positions = windows * queries * rows * channels
    return 2 * one + positions, (logits + mix) * one + 2 * _stream_planes(operation.q) * positions


def _executions(contents: ModelFolder) -> dict[str, Executed]:
    """Every operation as it runs for one picture and one box, by name, on blanks."""
    seen: dict[str, Executed] = {}
    architecture = Architecture.from_manifest(contents.manifest)
    parameters: Parameters = Rehearsal(contents.tensors, contents.operations, seen.__setitem__)
    side = architecture.input_format.side
    embedding = architecture.encode(blank((side, side, 3), architecture.input_exponent), parameters)
    prompt = encode_prompt(np.zeros(4, np.float32), side, embedding.values.shape[:2], parameters)
    decode_mask(embedding.real(), prompt, architecture.decoder, parameters)
    return seen


def _shape(operation: Operation) -> str:
    if isinstance(operation, QuantizedLayer):
        return f"{operation.outputs}x{operation.encoder.channels}"
    if isinstance(operation, Attention):
        return f"{operation.heads}x{operation.q.channels // operation.heads}"
    channels = getattr(operation, "gain", getattr(operation, "multiplier", None))
    return "" if channels is None else str(channels.size)


def _codes(operation: Operation, report: LayerReport | None) -> str | None:
    """What calibration chose; without its notes, whether levels are evenly spaced."""
    if report is not None and isinstance(report.choice.get("codes"), str):
        chosen: str = report.choice["codes"]
        return "codebook" if chosen.startswith("codebook") else chosen
    if isinstance(operation, QuantizedLayer):
        levels = operation.encoder.levels.astype(np.int64)
    elif isinstance(operation, Attention):
        levels = operation.score_levels.astype(np.int64)[None]
    else:
        return None
    return "codebook" if np.ptp(np.diff(levels, axis=1), axis=1).any() else "uniform"


def _summary(name: str, executed: Executed, report: LayerReport | None) -> OperationSummary:
    operation = executed.operation
    entry, tensors = flatten(name, operation)
    input_bits, weight_bits, passes = None, None, 0
    if isinstance(operation, QuantizedLayer):
        input_bits, weight_bits, passes = operation.encoder.bits, 4 * operation.weight_planes, operation.passes
    elif isinstance(operation, Attention):
        input_bits, passes = operation.q.bits, sum(attention_passes(operation))
    macs, array_macs = products(executed)
    return OperationSummary(
        name=name,
        kind=str(entry["kind"]),
        shape=_shape(operation),
        input_bits=input_bits,
        weight_bits=weight_bits,
        passes=passes,
        codes=_codes(operation, report),
        condition_before=None if report is None else report.condition_before,
        condition_after=None if report is None else report.condition_after,
        output_error=None if report is None else report.output_error,
        wide_exponent=operation.wide_exponent,
        macs=macs,
        array_macs=array_macs,
        stored_bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )


def inspect_folder(folder: Path) -> Inspection:
    """Look at a model folder. Raises UserError when the folder or calibration's notes in it are damaged."""
    contents = read_folder(folder)
    reports = read_reports(folder)
    executions = _executions(contents)
    missing = () if reports is not None else (f"no {REPORT_FILE}: condition numbers and errors of layers are unknown",)
    return Inspection(
        model=str(contents.manifest["model"]),
        bits=int(contents.manifest["bits"]),
        source=dict(contents.manifest["source"]),
        model_bytes=contents.size_bytes,
        operations=tuple(_summary(name, one, (reports or {}).get(name)) for name, one in executions.items()),
        missing=missing,
    )


def aligned(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, two blanks between."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [header, *rows]
    ]


def shown(value: float | None, form: str = ".3g") -> str:
    """A number for a table, a dash where there is none."""
    return "-" if value is None else format(value, form)


def _short(name: str) -> str:
    name = name.replace("image_encoder.", "enc.").replace("mask_decoder.transformer.", "dec.")
    name = name.replace("mask_decoder.", "dec.").replace("cross_attn_", "cross_")
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 2]}.."


def tables(inspection: Inspection) -> str:
    """The inspection as text for a terminal of 120 columns; names shortened to `enc.` and `dec.`."""
    header = ("operation", "shape", "in", "w", "passes", "codes", "cond", "after", "error", "exp", "KiB")
    rows = [
        (
            _short(one.name),
            one.shape,
            shown(one.input_bits, "d"),
            shown(one.weight_bits, "d"),
            str(one.passes or "-"),
            one.codes or "-",
            shown(one.condition_before, ".2g"),
            shown(one.condition_after, ".2g"),
            shown(one.output_error, ".2g"),
            str(one.wide_exponent),
            f"{one.stored_bytes / 1024:.1f}",
        )
        for one in inspection.operations
    ]
    encoder = f"{ENCODER}."
    totals = [
        (kind, str(count), str(sum(one.passes for one in inspection.operations if one.kind == kind) or "-"))
        for kind, count in inspection.counts.items()
    ]
    lines = [f"{inspection.model}: {inspection.bits} bits, {inspection.model_bytes:,} bytes", ""]
    lines += [*aligned(header, rows), "", *aligned(("kind", "operations", "4-bit passes"), totals), ""]
    lines += [
        f"image encoder, one picture   {inspection.macs(encoder) / 1e9:8.3f} GMAC  "
        f"{inspection.array_macs(encoder) / 1e9:8.3f} GMAC of 4 bits (passes counted)",
        f"with mask decoder, one box   {inspection.macs() / 1e9:8.3f} GMAC  {inspection.array_macs() / 1e9:8.3f}",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in inspection.missing)])
