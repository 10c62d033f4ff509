"""What LayerNorm and softmax in integers cost on a real picture: their results against float64 of the same inputs.

The golden model runs a picture through encoder and decoder; every LayerNorm and every softmax is computed a second
time in float64 from the integers it was given. What the integers in front of it cost is therefore in no figure. The
units' RTL gives the golden model's bits (`sim/bench/`), so these are the figures of the hardware.

LayerNorm, in steps of its 16-bit result: mean and largest error, the root of the mean squared error over that of the
float result, and how many codes of the dense layer behind it are others than from the float result. Results at the
ends of 16 bits are counted and not compared.

Softmax, per probability: the error of a code's value against the float probability, beside the error that codes of the
float probabilities have; how many codes are others; and two figures per row (query of a head):

* argmax flips: the key of the largest unrounded logit is not among the keys with the largest code. Several keys
  may share that code; the row counts as flipped only where none of them is the right one.
* top set changes: the keys with the largest code are not exactly those that codes of float64 give it to.

A code's value is its level times one number per operation, chosen so that float codes fit their probabilities best: a
model folder holds that number only as a part of the scale behind P.v.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.agreement import float_levels, float_result
from sim.assets import RETINA_BOX, retina_picture
from sim.contract.arithmetic import signed_limits
from sim.contract.attention import Attention
from sim.contract.constants import WIDE_BITS
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.softmax import LOG_FRACTION_BITS, score_codes
from sim.contract.wide import Wide
from sim.golden import GoldenModel
from sim.golden.parameters import Executed
from sim.picture import Box, load_picture
from sim.progress import progress_bar
from sim.record import write_json

Real = NDArray[np.float64]

LOGITS_PER_CHUNK = 1 << 20
"""Logits handled at once: bounds memory, changes no figure but by the order of float sums."""


@dataclass
class NormTally:
    """Sums over the results of LayerNorms; errors in steps of the result."""

    results: int = 0
    saturated: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    squared: float = 0.0
    power: float = 0.0
    codes: int = 0
    codes_differ: int = 0

    def figures(self) -> dict[str, float | int | None]:
        """For the JSON file."""
        return {
            "results": self.results,
            "saturated": self.saturated,
            "mean_abs_error_steps": _ratio(self.absolute, self.results),
            "max_abs_error_steps": self.largest,
            "relative_error": float(np.sqrt(_ratio(self.squared, self.power) or 0.0)),
            "codes_behind": self.codes,
            "codes_behind_differ": _ratio(self.codes_differ, self.codes),
        }


@dataclass
class ScoreTally:
    """Sums over the probabilities and rows of softmaxes."""

    probabilities: int = 0
    rows: int = 0
    absolute: float = 0.0
    largest: float = 0.0
    float_absolute: float = 0.0
    float_largest: float = 0.0
    codes_differ: int = 0
    codes_differ_by_more: int = 0
    argmax_flips: int = 0
    top_set_changes: int = 0

    def figures(self) -> dict[str, float | int | None]:
        """For the JSON file."""
        return {
            "probabilities": self.probabilities,
            "rows": self.rows,
            "mean_abs_error": _ratio(self.absolute, self.probabilities),
            "max_abs_error": self.largest,
            "float_codes_mean_abs_error": _ratio(self.float_absolute, self.probabilities),
            "float_codes_max_abs_error": self.float_largest,
            "codes_differ": _ratio(self.codes_differ, self.probabilities),
            "codes_differ_by_more_than_one": _ratio(self.codes_differ_by_more, self.probabilities),
            "argmax_flips": _ratio(self.argmax_flips, self.rows),
            "top_set_changes": _ratio(self.top_set_changes, self.rows),
        }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _add(total: Any, part: Any) -> None:
    """Add one tally to another: largest errors by their maximum, all else by sums."""
    for one in fields(total):
        pair = getattr(total, one.name), getattr(part, one.name)
        setattr(total, one.name, max(pair) if "largest" in one.name else sum(pair))


def norm_tally(executed: Executed) -> tuple[NormTally, Real]:
    """Errors of a LayerNorm that ran, and its float64 result in steps."""
    expected = float_result(executed.operation, executed.inputs)
    found = executed.output.values
    low, high = signed_limits(WIDE_BITS)
    inside = (found > low) & (found < high)
    error = np.abs(found - expected)[inside]
    tally = NormTally(
        results=int(inside.sum()),
        saturated=int((~inside).sum()),
        absolute=float(error.sum()),
        largest=float(error.max(initial=0.0)),
        squared=float(np.square(error).sum()),
        power=float(np.square(expected[inside]).sum()),
    )
    return tally, expected


def codes_behind(encoder: Encoder, found: Wide, expected: Real) -> tuple[int, int]:
    """(codes, those that differ) of a layer's input by its integers and by real numbers of the same steps."""
    differ = encoder.level(encoder.encode(found)) != float_levels(encoder, expected)
    return differ.size, int(differ.sum())


def float_scores(logits: NDArray[np.int32], thresholds: NDArray[np.int32]) -> tuple[Real, NDArray[np.int64]]:
    """Probabilities (..., keys) of logits in float64, and their codes.

    Thresholds are stored rounded down to whole steps of 2**-9, where the unit compares integers; so a real number of
    steps below the next whole one is within its threshold, as in `quant.agreement`.
    """
    below = np.ldexp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64), -LOG_FRACTION_BITS)
    probability = np.exp2(below)
    total = probability.sum(axis=-1, keepdims=True)
    halvings = (np.log2(total) - below) * (1 << LOG_FRACTION_BITS)
    ascending = np.sort(thresholds) + 1.0
    return probability / total, thresholds.size - np.searchsorted(ascending, halvings, side="left")


@dataclass(frozen=True)
class ScoreChunk:
    """Queries of windows: unrounded logits, and by rounded ones the unit's codes, probabilities and float64's codes."""

    unrounded: Real
    codes: NDArray[np.int64]
    probability: Real
    float_codes: NDArray[np.int64]


def _chunks(attention: Attention, inputs: tuple[Wide, ...]) -> Iterator[ScoreChunk]:
    """All rows of an attention, some queries of one window at a time."""

    def split(encoder: Encoder, x: Wide) -> NDArray[np.float32]:
        levels = encoder.level(encoder.encode(x)).astype(np.float32)
        return levels.reshape(*levels.shape[:2], attention.heads, -1).swapaxes(1, 2)

    q, k = split(attention.q, inputs[0]), split(attention.k, inputs[1])
    scale = np.ldexp(attention.logit_scale.astype(np.float64), -attention.logit_shift)[:, None, None]
    count = max(1, LOGITS_PER_CHUNK // (attention.heads * k.shape[-2]))
    for window in range(len(q)):
        keys = k[window : window + 1]
        for first in range(0, q.shape[-2], count):
            queries = q[window : window + 1, :, first : first + count]
            logits = attention.logits(queries, keys, first)
            unrounded = (queries @ keys.swapaxes(-1, -2)).astype(np.float64) * scale
            if attention.position is not None:
                unrounded += attention.position.of(queries, first)
            probability, float_codes = float_scores(logits, attention.thresholds)
            codes = score_codes(logits, attention.thresholds).astype(np.int64)
            yield ScoreChunk(unrounded, codes, probability, float_codes)


def score_tally(executed: Executed) -> ScoreTally:
    """Errors of the softmax of an attention that ran."""
    attention = executed.operation
    assert isinstance(attention, Attention)
    levels = attention.score_levels.astype(np.float64)
    product = square = 0.0
    for chunk in _chunks(attention, executed.inputs):
        value = levels[chunk.float_codes]
        product += float((value * chunk.probability).sum())
        square += float(np.square(value).sum())
    unit = product / square if square else 0.0
    tally = ScoreTally()
    for chunk in _chunks(attention, executed.inputs):
        error = np.abs(levels[chunk.codes] * unit - chunk.probability)
        float_error = np.abs(levels[chunk.float_codes] * unit - chunk.probability)
        away = np.abs(chunk.codes - chunk.float_codes)
        top = chunk.codes == chunk.codes.max(axis=-1, keepdims=True)
        float_top = chunk.float_codes == chunk.float_codes.max(axis=-1, keepdims=True)
        right = chunk.unrounded.argmax(axis=-1)[..., None]
        part = ScoreTally(
            probabilities=error.size,
            rows=right.size,
            absolute=float(error.sum()),
            largest=float(error.max()),
            float_absolute=float(float_error.sum()),
            float_largest=float(float_error.max()),
            codes_differ=int((away > 0).sum()),
            codes_differ_by_more=int((away > 1).sum()),
            argmax_flips=int((~np.take_along_axis(top, right, axis=-1)).sum()),
            top_set_changes=int((top != float_top).any(axis=-1).sum()),
        )
        _add(tally, part)
    return tally


@dataclass
class Observed:
    """Tallies by the name of the operation, filled while the network runs."""

    progress: Callable[[str], None]
    norms: dict[str, NormTally] = field(default_factory=dict)
    scores: dict[str, ScoreTally] = field(default_factory=dict)
    _last: tuple[NormTally, Wide, Real] | None = None

    def observe(self, name: str, executed: Executed) -> None:
        """Called after every operation; a dense layer that takes a LayerNorm's result as it is adds its codes."""
        if isinstance(executed.operation, LayerNorm):
            tally, expected = norm_tally(executed)
            self.norms[name] = tally
            self._last = tally, executed.output, expected
            self.progress(name)
        elif isinstance(executed.operation, Attention):
            self.scores[name] = score_tally(executed)
            self.progress(name)
        elif isinstance(executed.operation, QuantizedLayer) and self._last is not None:
            tally, output, expected = self._last
            if executed.inputs[0] is output:
                codes, differ = codes_behind(executed.operation.encoder, output, expected)
                tally.codes += codes
                tally.codes_differ += differ
            self._last = None


def measure(
    golden: GoldenModel, picture: NDArray[np.uint8], box: Box, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Figures of all LayerNorms and softmaxes of a picture uint8 (height, width, 3) and a box; per operation, and all.

    `progress` is told the name of every such operation. Raises UserError for a box outside the picture.
    """
    seen = Observed(progress)
    golden.segment(picture, box, seen.observe)
    figures: dict[str, Any] = {}
    tallies: tuple[tuple[str, dict[str, Any], Any], ...] = (
        ("layer_norm", seen.norms, NormTally()),
        ("softmax", seen.scores, ScoreTally()),
    )
    for kind, found, total in tallies:
        for tally in found.values():
            _add(total, tally)
        each = [{"name": name, **tally.figures()} for name, tally in found.items()]
        figures[kind] = {"all": total.figures(), "operations": each}
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures of all operations together, as text."""
    norm, softmax = figures["layer_norm"]["all"], figures["softmax"]["all"]
    lines = [f"LayerNorm, {len(figures['layer_norm']['operations'])} operations"]
    lines += [f"  {key:32} {value:.6g}" for key, value in norm.items() if value is not None]
    lines += [f"softmax, {len(figures['softmax']['operations'])} operations"]
    lines += [f"  {key:32} {value:.6g}" for key, value in softmax.items() if value is not None]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unit_quality",
        description="LayerNorm and softmax in integers against float64, on the tensors of a picture.",
        epilog="example: python -m benchmarks.unit_quality out/demo/model --json out/unit_quality.json  (a minute)",
    )
    parser.add_argument("model", metavar="DIR", type=Path, help="model folder that `python -m quant quantize` wrote")
    parser.add_argument(
        "--picture", metavar="FILE", type=Path, help="PNG, JPEG, ... (default: the retina picture, box on the disc)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, required=True, help="write the figures here")
    arguments = parser.parse_args(argv)
    try:
        golden = GoldenModel.from_folder(arguments.model)
        pixels = load_picture(arguments.picture or retina_picture())
        height, width = pixels.shape[:2]
        box: Box = (0, 0, width, height) if arguments.picture else RETINA_BOX
        names = [name for name, one in golden.parameters.operations.items() if isinstance(one, LayerNorm | Attention)]
        with progress_bar(len(names), "operation") as progress:
            figures = measure(golden, pixels, box, progress)
        picture = "retina" if arguments.picture is None else arguments.picture.name
        write_json(arguments.json, {"picture": picture, "box": list(box), **figures})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
