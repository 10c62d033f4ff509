"""Block-wise reconstruction: train what rounding decided in a block until the block's output is like the float one's.

Layer by layer rounding sees one layer at a time. Here a whole block is run with trainable twins (`quant.soft_quant`) in
place of its quantized operations, and integers of weights and scales of inputs move to lower the error of the block's
output (BRECQ, Li et al., 2021; with QDrop, Wei et al., 2022; AHCQ-SAM section on reconstruction). Inputs come from the
network in front as quantized so far, mixed element by element with those of the float network.

Whatever is trained is hardened, every layer of it, and only then measured: the result is kept where the hard block
comes closer to the float one over the whole cache, and otherwise the block stays as it was.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.optim import Adam

from quant.fake_quant import FakeQuant, fake_quant_runner
from quant.models.layer_call import AttentionCall, Call, LayerCall, Steps, run
from quant.soft_quant import QuantDrop, SoftAttention, SoftLinear, SoftQuant, soften

Value: TypeAlias = Tensor | tuple[Tensor, ...]
"""What enters or leaves a block: float32 (..., C), or a tuple of such."""

BlockSteps: TypeAlias = Callable[[Any], Steps[Any]]
"""Makes a fresh pass of the block over a value."""

SMALLEST_LOSS: Final = 1e-12
"""Least unit of the loss, for a block whose hard output is exact."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How a block is trained.

    iterations: training steps. batch: values (or crops of them) per step. rounding_rate: rate of Adam on moves of
    integers, in steps of the integer. scale_rate: on logarithms of scales. offset_rate: on offsets, in levels; 0
    leaves them. Rates of scales and offsets fall to 0 along a cosine; that of moves stays, or the penalty could not
    finish its work. rounding_weight: factor of the penalty on moves that are not whole, beside the loss in units of
    the loss at the start. warm_up: share of steps without penalty. beta: exponent of the penalty, at the end of the
    warm-up and of the training. keep: probability that an element stays quantized, and that an element of the input
    comes from the quantized network. seed: of all draws, with the names of the block's operations.
    """

    iterations: int = 300
    batch: int = 1
    rounding_rate: float = 3e-2
    scale_rate: float = 3e-4
    offset_rate: float = 0.0
    rounding_weight: float = 0.01
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    keep: float = 1.0
    seed: int = 0

    def beta_at(self, iteration: int) -> float | None:
        """Exponent of the penalty in a step; None during the warm-up."""
        first = self.warm_up * self.iterations
        if iteration < first:
            return None
        start, end = self.beta
        return start + (end - start) * (iteration - first) / max(1.0, self.iterations - 1 - first)

    def decay_at(self, iteration: int) -> float:
        """Factor of the rates of scales and offsets in a step: half a cosine from 1 to 0."""
        return (1 + math.cos(math.pi * iteration / self.iterations)) / 2


@dataclass(frozen=True)
class SoftToHardGap:
    """What hardening changed. weight: the most that a weight moved, in steps of its integer. output: the largest
    change of an output of the block over the first value of the cache."""

    weight: float
    output: float


@dataclass(frozen=True)
class ReconstructionResult:
    """quantized: the block's operations, reconstructed where `kept`, else as they were. loss_before, loss_after: of
    the hard block over the whole cache, after also where it was not kept."""

    quantized: dict[str, FakeQuant]
    loss_before: float
    loss_after: float
    soft_to_hard_gap: SoftToHardGap
    kept: bool


def _parts(value: Value) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _each(function: Callable[..., Tensor], *values: Value) -> Value:
    """`function` of the parts of values that are alike."""
    if isinstance(values[0], Tensor):
        return function(*values)
    return tuple(function(*parts) for parts in zip(*map(_parts, values), strict=True))


def output_loss(output: Value, target: Value) -> Tensor:
    """Squared error summed over channels, the last axis, and averaged over all others; summed over the outputs."""
    pairs = zip(_parts(output), _parts(target), strict=True)
    return torch.stack([(ours - theirs).square().sum(dim=-1).mean() for ours, theirs in pairs]).sum()


def soft_runner(soft: Mapping[str, SoftQuant], drop: QuantDrop | None = None) -> Callable[[Call], Tensor]:
    """A handler for `run`: twins where `soft` has the name, float elsewhere. Nothing is dropped without `drop`."""

    def handler(call: Call) -> Tensor:
        twin = soft.get(call.name)
        if isinstance(twin, SoftLinear) and isinstance(call, LayerCall):
            return twin(call.x, drop)
        if isinstance(twin, SoftAttention) and isinstance(call, AttentionCall):
            return twin(call, drop)
        return call.compute()

    return handler


def rounding_penalty(soft: Mapping[str, SoftQuant], beta: float) -> Tensor:
    """Penalty of all moves of a block, each counted once: a term of a training step, not of an output."""
    return torch.stack([rounding.penalty(beta) for twin in soft.values() for rounding in twin.roundings()]).sum()


@torch.no_grad()
def hard_loss(
    steps: BlockSteps, quantized: Mapping[str, FakeQuant], inputs: Sequence[Value], targets: Sequence[Value]
) -> float:
    """Mean over a cache of `output_loss` of the block with quantized operations."""
    handler = fake_quant_runner(quantized)
    losses = [
        float(output_loss(run(steps(value), handler), target)) for value, target in zip(inputs, targets, strict=True)
    ]
    return sum(losses) / len(losses)


@dataclass(frozen=True)
class Crop:
    """Squares of maps (B, H, W, C) with corners on the grid of attention windows, so that a block partitions a crop
    as it does the map.

    side: multiple of the window, in positions; crops at the far ends stop where the map does. window: side of the
    window.
    """

    side: int
    window: int

    def __post_init__(self) -> None:
        if self.side <= 0 or self.window <= 0 or self.side % self.window:
            raise ValueError(f"a crop of {self.side} positions does not consist of windows of {self.window}")

    def corners(self, extent: int) -> range:
        """Places along an axis of `extent` positions at which a crop may begin."""
        last = max(0, -(-(extent - self.side) // self.window)) * self.window
        return range(0, last + 1, self.window)


class _Cache:
    """Endless random training pairs. Targets of crops are those of the float block on the float crop, as what lies
    outside is missing there too."""

    def __init__(
        self,
        steps: BlockSteps,
        *,
        quantized_inputs: Sequence[Value],
        float_inputs: Sequence[Value],
        targets: Sequence[Value],
        crop: Crop | None,
        generator: torch.Generator,
    ) -> None:
        self.steps, self.crop, self.generator = steps, crop, generator
        self.quantized_inputs, self.float_inputs, self.targets = quantized_inputs, float_inputs, targets
        self.crop_targets: dict[tuple[int, int, int], Value] = {}

    def _below(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator, device=self.generator.device))

    def draw(self) -> tuple[Value, Value, Value]:
        """Quantized input, float input and target."""
        index = self._below(len(self.targets))
        ours, theirs, target = self.quantized_inputs[index], self.float_inputs[index], self.targets[index]
        if self.crop is None:
            return ours, theirs, target
        if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or ours.dim() != 4:
            raise ValueError("only a block from one map (B, H, W, C) can be trained on crops")
        rows, columns = self.crop.corners(ours.shape[1]), self.crop.corners(ours.shape[2])
        row, column = rows[self._below(len(rows))], columns[self._below(len(columns))]
        square = (slice(None), slice(row, row + self.crop.side), slice(column, column + self.crop.side))
        key = (index, row, column)
        if key not in self.crop_targets:
            with torch.no_grad():
                self.crop_targets[key] = run(self.steps(theirs[square]))
        return ours[square], theirs[square], self.crop_targets[key]


def _rate_groups(soft: Mapping[str, SoftQuant], settings: ReconstructionSettings) -> list[dict[str, Any]]:
    """Parameter groups of Adam: moves of integers, scales, and offsets, where they are trained."""
    moves = [rounding.move for twin in soft.values() for rounding in twin.roundings()]
    pairs = [twin.parameters() for twin in soft.values()]
    scales, shifts = ([one for pair in pairs for one in pair[which]] for which in (0, 1))
    groups = [
        {"params": moves, "lr": settings.rounding_rate, "decays": False},
        {"params": scales, "lr": settings.scale_rate, "decays": True},
        {"params": shifts, "lr": settings.offset_rate, "decays": True},
    ]
    return [{**group, "start": group["lr"]} for group in groups if group["params"] and group["lr"]]


@torch.enable_grad()
def _train(
    soft: Mapping[str, SoftQuant],
    cache: _Cache,
    settings: ReconstructionSettings,
    unit: float,
    progress: Callable[[int, float], None],
) -> None:
    groups = _rate_groups(soft, settings)
    if not groups or not settings.iterations:
        return
    optimizer = Adam(groups)
    trained = [one.requires_grad_() for group in groups for one in group["params"]]
    roundings = [rounding for twin in soft.values() for rounding in twin.roundings()]
    drop = QuantDrop(settings.keep, cache.generator)
    handler = soft_runner(soft, drop)
    for iteration in range(settings.iterations):
        for group in optimizer.param_groups:
            if group["decays"]:
                group["lr"] = group["start"] * settings.decay_at(iteration)
        loss = torch.zeros((), device=trained[0].device)
        for _ in range(settings.batch):
            ours, theirs, target = cache.draw()
            output = run(cache.steps(_each(drop.mix, ours, theirs)), handler)
            loss = loss + output_loss(output, target) / (unit * settings.batch)
        progress(iteration, float(loss.detach()))
        beta = settings.beta_at(iteration)
        if beta is not None and roundings:
            loss = loss + settings.rounding_weight * rounding_penalty(soft, beta)
        # Not loss.backward(): that would also leave gradients in the parameters of the float network.
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        for one, gradient in zip(trained, gradients, strict=True):
            one.grad = gradient
        optimizer.step()
        for rounding in roundings:
            rounding.confine()


@torch.no_grad()
def _gap(
    steps: BlockSteps, soft: Mapping[str, SoftQuant], hardened: Mapping[str, FakeQuant], value: Value
) -> SoftToHardGap:
    moved = [rounding.gap() for twin in soft.values() for rounding in twin.roundings()]
    outputs = run(steps(value), soft_runner(soft)), run(steps(value), fake_quant_runner(hardened))
    changes = [float((a - b).abs().max()) for a, b in zip(*map(_parts, outputs), strict=True)]
    return SoftToHardGap(max(moved, default=0.0), max(changes))


def _ignore(iteration: int, loss: float) -> None:
    """Progress of whom nobody watches."""


def reconstruct_block(
    steps: BlockSteps,
    quantized: Mapping[str, FakeQuant],
    *,
    quantized_inputs: Sequence[Value],
    float_inputs: Sequence[Value],
    targets: Sequence[Value],
    settings: ReconstructionSettings,
    progress: Callable[[int, float], None] = _ignore,
    crop: Crop | None = None,
) -> ReconstructionResult:
    """Train the quantized operations of one block.

    steps: makes a fresh pass over the block, in float. quantized: its operations by name of their call; calls of other
    names stay float. quantized_inputs, float_inputs, targets: per calibration picture the block's input behind what is
    quantized so far and in the float network, and the float output; all on the device to train on. progress: receives
    each iteration and its loss in units of the loss at the start, dropped elements included, without penalty. crop:
    train on squares of the maps. One seed gives the same bits on one machine with one number of threads.

    Raises ValueError for inputs and targets that are not as many, or for crops of anything but one map.
    """
    if not len(quantized_inputs) == len(float_inputs) == len(targets) or not targets:
        raise ValueError(f"{len(quantized_inputs)} and {len(float_inputs)} inputs for {len(targets)} targets")
    device = _parts(targets[0])[0].device
    generator = torch.Generator(device).manual_seed(settings.seed + zlib.crc32("\n".join(sorted(quantized)).encode()))
    before = hard_loss(steps, quantized, quantized_inputs, targets)
    soft = {name: soften(operation, device) for name, operation in quantized.items()}
    cache = _Cache(
        steps,
        quantized_inputs=quantized_inputs,
        float_inputs=float_inputs,
        targets=targets,
        crop=crop,
        generator=generator,
    )
    _train(soft, cache, settings, max(before, SMALLEST_LOSS), progress)
    hardened = {name: twin.harden() for name, twin in soft.items()}
    after = hard_loss(steps, hardened, quantized_inputs, targets)
    gap = _gap(steps, soft, hardened, quantized_inputs[0])
    kept = after < before
    return ReconstructionResult(hardened if kept else dict(quantized), before, after, gap, kept)
