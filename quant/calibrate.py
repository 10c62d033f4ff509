"""Operation by operation calibration in network order.

Every calibration picture runs twice, in step: once in float and once behind the operations quantized so far. In front
of each operation all pictures stop; it is quantized so that, fed with its own quantized inputs, it gives what the float
path asks for; then both paths go on. An error made early is thus seen by every later layer and, as far as a linear
layer can, repaired. The operations of a block are first quantized one by one, then reconstructed together
(`quant.reconstruct`), and the finished block is recorded, so that interrupted work goes on behind it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from torch import Tensor

from quant.fake_quant import FakeQuant, fake_quant_runner
from quant.layer_report import LayerReport, attention_histograms, dense_histograms, relative_error
from quant.models.layer_call import AttentionCall, BlockCall, Call, LayerCall, NormCall, Result, Steps, run
from quant.quantize_attention import quantize_attention
from quant.quantize_layer import apply_factor, equalising_factor, quantize_dense
from quant.recipe import Recipe
from quant.reconstruct import Crop, ReconstructionSettings, reconstruct_block

CROP_SIDE: Final = 32
"""Side of the squares of a map on which blocks are reconstructed, about, in pixels."""


@dataclass
class Calibration:
    """What calibration found, by operation name.

    quantized: dense layers and attentions. largest: largest magnitude of each operation's result. largest_input: of the
    inputs of dense layers. factors: by what the channels behind the LayerNorm of a dense layer were divided.
    reports: for the reader.
    """

    quantized: dict[str, FakeQuant] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    largest_input: dict[str, float] = field(default_factory=dict)
    factors: dict[str, Tensor] = field(default_factory=dict)
    reports: dict[str, LayerReport] = field(default_factory=dict)

    def part(self, names: Sequence[str]) -> "Calibration":
        """What was found of the given operations."""
        part = Calibration()
        for field_name, found in vars(self).items():
            getattr(part, field_name).update({name: found[name] for name in names if name in found})
        return part

    def take_over(self, part: "Calibration") -> None:
        """Believe what an earlier run found over what is found now."""
        for field_name, found in vars(part).items():
            getattr(self, field_name).update(found)


class Record(Protocol):
    """Where finished work is kept."""

    def finished(self, unit: str) -> Calibration | None:
        """What an earlier run found of a block or single operation, or None."""

    def finish(self, unit: str, part: Calibration) -> None:
        """Keep what was found."""


class NoRecord:
    """Keeps nothing."""

    def finished(self, unit: str) -> Calibration | None:
        """Nothing."""

    def finish(self, unit: str, part: Calibration) -> None:
        """Forgets it."""


class Calibrator:
    """Quantizes every operation that the given passes meet, by one recipe.

    `found` collects the results, `attentions` an empty call of every attention. `progress` is told each quantized
    operation's name as it is finished. `record` keeps finished units. seed: of reconstruction.
    """

    def __init__(self, recipe: Recipe, progress: Callable[[str], None], record: Record | None = None, seed: int = 0):
        self.recipe, self.progress, self.seed = recipe, progress, seed
        self.record: Record = record or NoRecord()
        self.found = Calibration()
        self.attentions: dict[str, AttentionCall] = {}
        self._norm_names: dict[int, str] = {}
        self._names: list[str] = []
        self._known: Calibration | None = None

    def run(self, float_steps: list[Steps[Result]], steps: list[Steps[Result]]) -> tuple[list[Result], list[Result]]:
        """Drive both passes over the same pictures, in the same order, to their ends.

        Returns the float results and the results behind quantized operations.
        """
        finished: tuple[list[Result], list[Result]] = ([], [])
        float_calls, calls = [next(one) for one in float_steps], [next(one) for one in steps]
        while calls:
            float_outputs, outputs = self._unit(float_calls, calls)
            float_calls = _advance(float_steps, float_outputs, finished[0])
            calls = _advance(steps, outputs, finished[1])
        return finished

    def _unit(self, float_calls: list[Call], calls: list[Call]) -> tuple[list[Tensor], list[Tensor]]:
        """A block, or an operation outside of blocks: taken from the record or quantized and recorded."""
        if self._known is not None or self._names:
            return self._operation(float_calls, calls)
        name = calls[0].name
        self._known = self.record.finished(name) or Calibration()
        outputs = self._block(float_calls, calls) if isinstance(calls[0], BlockCall) else None
        outputs = outputs or self._operation(float_calls, calls)
        if self._known.largest:
            # The first run also saw magnitudes and errors from before the block was reconstructed.
            self.found.take_over(self._known)
        else:
            self.record.finish(name, self.found.part(self._names))
        self._known, self._names = None, []
        return outputs

    def _block(self, float_calls: list[Call], calls: list[Call]) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [call.x for call in calls if isinstance(call, BlockCall)]
        float_inputs = [call.x for call in float_calls if isinstance(call, BlockCall)]
        block = calls[0]
        assert isinstance(block, BlockCall) and self._known is not None
        targets, outputs = self.run([block.steps(x) for x in float_inputs], [block.steps(x) for x in inputs])
        if self.recipe.recon_iters and not self._known.largest:
            self._reconstruct(block, inputs, float_inputs, targets)
            outputs = [self._rerun(block, x) for x in inputs]
        return targets, outputs

    def _reconstruct(
        self, block: BlockCall, inputs: list[Tensor], float_inputs: list[Tensor], targets: list[Tensor]
    ) -> None:
        quantized = {name: self.found.quantized[name] for name in self._names if name in self.found.quantized}
        before = relative_error([self._rerun(block, x) for x in inputs], targets)
        settings = ReconstructionSettings(iterations=self.recipe.recon_iters, seed=self.seed)
        result = reconstruct_block(
            block.steps,
            quantized,
            quantized_inputs=inputs,
            float_inputs=float_inputs,
            targets=targets,
            settings=settings,
            crop=_crop(block),
        )
        self.found.quantized |= result.quantized
        after = relative_error([self._rerun(block, x) for x in inputs], targets)
        for name in quantized:
            report = self.found.reports[name]
            choice = {**report.choice, "block_error_before": before, "block_error_after": after, "kept": result.kept}
            self.found.reports[name] = replace(report, choice=choice)

    def _rerun(self, block: BlockCall, x: Tensor) -> Tensor:
        """The block's output with its quantized operations; magnitudes are noted again."""
        quantized = fake_quant_runner(self.found.quantized)

        def handler(call: Call) -> Tensor:
            output = quantized(call)
            self._note(call.name, [output])
            return output

        return run(block.steps(x), handler)

    def _note(self, name: str, outputs: list[Tensor]) -> None:
        largest = max(float(output.abs().max()) for output in outputs)
        self.found.largest[name] = max(largest, self.found.largest.get(name, 0.0))

    def _operation(self, float_calls: list[Call], calls: list[Call]) -> tuple[list[Tensor], list[Tensor]]:
        name = calls[0].name
        self._names.append(name)
        if isinstance(calls[0], NormCall):
            self._norm_names[id(calls[0].module)] = name
        dense = [call for call in calls if isinstance(call, LayerCall)]
        float_dense = [call for call in float_calls if isinstance(call, LayerCall)]
        attention = [call for call in calls if isinstance(call, AttentionCall)]
        if dense:
            dense, float_dense = self._equalise(dense, float_dense)
            calls, float_calls = list(dense), list(float_dense)
            self.found.largest_input[name] = max(float(call.x.abs().max()) for call in dense)
        float_outputs = [call.compute() for call in float_calls]
        for call in attention[:1]:
            # Only scale and bias are needed later.
            self.attentions[name] = replace(call, q=call.q[:0], k=call.k[:0], v=call.v[:0])
        known = self._known.quantized.get(name) if self._known is not None else None
        if known is not None and self._known is not None:
            self.found.quantized[name], self.found.reports[name] = known, self._known.reports[name]
        elif dense:
            self._quantize_dense(float_dense, dense)
        elif attention:
            self._quantize_attention(attention)
        outputs = [fake_quant_runner(self.found.quantized)(call) for call in calls]
        self._note(name, outputs)
        if name in self.found.quantized:
            error = relative_error(outputs, float_outputs)
            self.found.reports[name] = replace(self.found.reports[name], output_error=error)
            self.progress(name)
        return float_outputs, outputs

    def _equalise(
        self, calls: list[LayerCall], float_calls: list[LayerCall]
    ) -> tuple[list[LayerCall], list[LayerCall]]:
        """Equalise the channels of a LayerNorm that feeds this layer alone; returns the calls with scaled inputs."""
        name = calls[0].name
        norm = calls[0].norm
        if self.recipe.cag != "tile" or norm is None or id(norm) not in self._norm_names:
            return calls, float_calls
        known = self._known.factors.get(name) if self._known is not None else None
        factor = equalising_factor(calls) if known is None else known
        self.found.factors[name] = factor
        apply_factor(calls[0], factor)
        scaled = [replace(call, x=call.x / factor) for call in calls]
        norm_name = self._norm_names[id(norm)]
        self.found.largest[norm_name] = max(float(call.x.abs().max()) for call in scaled)
        return scaled, [replace(call, x=call.x / factor) for call in float_calls]

    def _quantize_dense(self, float_calls: list[LayerCall], calls: list[LayerCall]) -> None:
        name = calls[0].name
        result = quantize_dense(float_calls, calls, self.recipe)
        self.found.quantized[name] = result.layer
        conditioned = result.conditioned
        self.found.reports[name] = LayerReport(
            name=name,
            kind="dense",
            input_bits=result.layer.grid.bits,
            weight_bits=result.layer.weight.bits,
            condition_before=None if conditioned is None else conditioned.before,
            condition_after=None if conditioned is None else conditioned.after,
            output_error=0.0,
            choice=result.choice,
            **dense_histograms(result.layer, result.inputs),
        )

    def _quantize_attention(self, calls: list[AttentionCall]) -> None:
        name = calls[0].name
        attention, choice, scores = quantize_attention(calls, self.recipe)
        self.found.quantized[name] = attention
        self.found.reports[name] = LayerReport(
            name=name,
            kind="attention",
            input_bits=self.recipe.input_bits(name),
            weight_bits=None,
            condition_before=None,
            condition_after=None,
            output_error=0.0,
            choice=choice,
            **attention_histograms(attention, scores),
        )


def _crop(block: BlockCall) -> Crop | None:
    """Squares of about CROP_SIDE pixels of whole windows, or None where the block needs the map or it is no larger."""
    window = block.window
    if not window or window > CROP_SIDE:
        return None
    crop = Crop(CROP_SIDE // window * window, window)
    return crop if crop.side < min(block.x.shape[1:3]) else None


def _advance(steps: list[Steps[Result]], outputs: Iterable[Tensor], finished: list[Result]) -> list[Call]:
    """Send every pass the result of its operation; returns the next calls, or nothing once the passes have ended."""
    following = []
    for one, output in zip(steps, outputs, strict=True):
        try:
            following.append(one.send(output))
        except StopIteration as stop:
            finished.append(stop.value)
    return following
