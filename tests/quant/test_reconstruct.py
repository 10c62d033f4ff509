"""Reconstruction of a small block: it helps, never harms, hardens everything and repeats bit for bit."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from quant import reconstruct
from quant.fake_quant import FakeQuant, FakeQuantLinear
from quant.gptq import round_columns
from quant.input_grid import InputGrid, uniform_levels
from quant.models.layer_call import ActivationCall, LayerCall, Steps, run
from quant.reconstruct import Crop, ReconstructionSettings, hard_loss, reconstruct_block
from quant.soft_quant import QuantDrop, Rounding, SoftQuant

SETTINGS = ReconstructionSettings(iterations=150, rounding_rate=3e-2, rounding_weight=0.1, keep=1.0)


class _Block:
    """Two dense layers with GELU between, 32 to 64 to 32 channels, their inputs in bytes: weights alone are coarse."""

    def __init__(self) -> None:
        torch.manual_seed(11)
        self.first, self.last = nn.Linear(32, 64).requires_grad_(False), nn.Linear(64, 32).requires_grad_(False)
        self.inputs = [torch.randn(1, 8, 8, 32) @ torch.randn(32, 32) / 6 for _ in range(4)]
        self.targets: list[Tensor] = [run(self.steps(x)) for x in self.inputs]
        hidden = torch.cat([nn.functional.gelu(self.first(x)).flatten(0, 2) for x in self.inputs])
        entering = torch.cat([x.flatten(0, 2) for x in self.inputs])
        self.quantized: dict[str, FakeQuant] = {
            "first": self._quantize(self.first, entering),
            "last": self._quantize(self.last, hidden),
        }

    def steps(self, x: Tensor) -> Steps[Tensor]:
        hidden = yield ActivationCall("act", (yield LayerCall("first", self.first, x)))
        return (yield LayerCall("last", self.last, hidden))

    def two_outputs(self, x: Tensor) -> Steps[tuple[Tensor, ...]]:
        out = yield from self.steps(x)
        return out, 2 * out

    @staticmethod
    def _quantize(module: nn.Linear, x: Tensor) -> FakeQuantLinear:
        channels = x.shape[1]
        scale = x.abs().amax().mul(1 / 120).view(1)
        grid = InputGrid(torch.arange(channels), scale, torch.zeros(channels), (uniform_levels(8),), 8)
        return FakeQuantLinear(grid, round_columns(module.weight, x.T @ x / len(x), 0.01), module.bias)

    def reconstruct(
        self, settings: ReconstructionSettings, crop: Crop | None = None
    ) -> reconstruct.ReconstructionResult:
        return reconstruct_block(
            self.steps,
            self.quantized,
            quantized_inputs=self.inputs,
            float_inputs=self.inputs,
            targets=self.targets,
            settings=settings,
            crop=crop,
        )


@pytest.fixture
def block() -> Iterator[_Block]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _Block()
    torch.set_num_threads(threads)


def _integers(quantized: dict[str, FakeQuant]) -> list[Tensor]:
    return [one.weight.integers for one in quantized.values() if isinstance(one, FakeQuantLinear)]


def test_the_hard_loss_falls_below_that_of_compensated_rounding(block: _Block) -> None:
    result = block.reconstruct(SETTINGS)
    assert result.kept
    assert result.loss_after < 0.66 * result.loss_before
    assert hard_loss(block.steps, result.quantized, block.inputs, block.targets) == result.loss_after


def test_every_layer_is_hardened_to_other_whole_integers_within_limits(block: _Block) -> None:
    hardened = block.reconstruct(SETTINGS).quantized
    for before, after in zip(_integers(block.quantized), _integers(hardened), strict=True):
        assert torch.equal(after, after.round())
        assert after.min() >= -8 and after.max() <= 7
        assert not torch.equal(after, before)


def test_hardening_what_is_hard_leaves_no_gap(block: _Block) -> None:
    again = ReconstructionSettings(iterations=0)
    hardened = block.reconstruct(SETTINGS).quantized
    block.quantized = hardened
    result = block.reconstruct(again)
    assert (result.soft_to_hard_gap.weight, result.soft_to_hard_gap.output) == (0, 0)
    assert result.loss_after == result.loss_before


def test_the_gap_of_moves_that_are_not_whole_is_reported(block: _Block) -> None:
    free = ReconstructionSettings(iterations=5, rounding_weight=0.0)
    gap = block.reconstruct(free).soft_to_hard_gap
    assert 0 < gap.weight <= 0.5
    assert gap.output > 0


def test_a_block_that_training_makes_worse_stays_as_it_was(block: _Block) -> None:
    ruinous = ReconstructionSettings(iterations=3, scale_rate=2.0, rounding_rate=0.0)
    result = block.reconstruct(ruinous)
    assert not result.kept
    assert result.loss_after > result.loss_before
    assert all(result.quantized[name] is one for name, one in block.quantized.items())


def test_elements_are_dropped_in_training_and_in_no_measurement(block: _Block, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    mix = QuantDrop.mix

    def counted(drop: QuantDrop, quantized: Tensor, real: Tensor) -> Tensor:
        drawn.append(1)
        return mix(drop, quantized, real)

    monkeypatch.setattr(QuantDrop, "mix", counted)
    block.reconstruct(ReconstructionSettings(iterations=7, keep=0.5))
    assert len(drawn) == 7 * 3  # the block's input and the inputs of two layers


def test_the_penalty_counts_once_per_step_whatever_the_outputs_and_the_batch(
    block: _Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    betas: list[float] = []
    penalty = Rounding.penalty

    def counted(rounding: Rounding, beta: float) -> Tensor:
        betas.append(beta)
        return penalty(rounding, beta)

    monkeypatch.setattr(Rounding, "penalty", counted)
    result = reconstruct_block(
        block.two_outputs,
        block.quantized,
        quantized_inputs=block.inputs,
        float_inputs=block.inputs,
        targets=[(target, 2 * target) for target in block.targets],
        settings=ReconstructionSettings(iterations=10, batch=2),
    )
    assert len(betas) == 8 * 2  # eight steps behind the warm-up, two weights
    assert betas[0] == 20 and betas[-1] == 2
    assert all(later <= earlier for earlier, later in pairwise(betas))
    one_output = hard_loss(block.steps, block.quantized, block.inputs, block.targets)
    assert result.loss_before == pytest.approx(5 * one_output)


def test_one_seed_gives_the_same_bits_and_another_seed_others(block: _Block) -> None:
    short = ReconstructionSettings(iterations=20, keep=0.5)
    first, second = block.reconstruct(short), block.reconstruct(short)
    assert first.loss_after == second.loss_after
    assert first.soft_to_hard_gap == second.soft_to_hard_gap
    other = block.reconstruct(ReconstructionSettings(iterations=20, keep=0.5, seed=1))
    assert other.soft_to_hard_gap != first.soft_to_hard_gap


def test_one_optimizer_trains_to_the_end_and_what_it_trains_is_hardened(
    block: _Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels keep their groups. The public code groups them anew four times and starts the optimizer again."""
    made: list[list[Tensor]] = []
    twins: dict[str, SoftQuant] = {}
    soften = reconstruct.soften

    class Counted(Adam):
        def __init__(self, groups: list[dict[str, Any]]) -> None:
            made.append([one for group in groups for one in group["params"]])
            super().__init__(groups)

    def noted(operation: FakeQuant, device: torch.device) -> SoftQuant:
        twin = soften(operation, device)
        twins[f"twin {len(twins)}"] = twin
        return twin

    monkeypatch.setattr(reconstruct, "Adam", Counted)
    monkeypatch.setattr(reconstruct, "soften", noted)
    hardened = block.reconstruct(SETTINGS).quantized
    (trained,) = made
    held = [one for twin in twins.values() for one in twin.parameters()[0]]
    held += [rounding.move for twin in twins.values() for rounding in twin.roundings()]
    assert len(trained) == len(held) == 6 and {id(one) for one in trained} == {id(one) for one in held}
    assert all(bool(one.ne(0).any()) for one in trained)
    for before, after in zip(block.quantized.values(), hardened.values(), strict=True):
        assert isinstance(before, FakeQuantLinear) and isinstance(after, FakeQuantLinear)
        assert torch.equal(before.grid.permutation, after.grid.permutation)
        assert before.grid.scale.shape == after.grid.scale.shape


def test_the_float_network_gets_no_gradients(block: _Block) -> None:
    block.first.requires_grad_(True)
    block.reconstruct(ReconstructionSettings(iterations=2))
    assert block.first.weight.grad is None


def test_crops_lie_on_windows_and_reach_the_far_end() -> None:
    assert list(Crop(28, 14).corners(64)) == [0, 14, 28, 42]
    assert list(Crop(28, 14).corners(28)) == [0]
    assert list(Crop(28, 14).corners(20)) == [0]
    with pytest.raises(ValueError, match="windows of 14"):
        Crop(30, 14)


def test_training_on_crops_lowers_the_loss_of_whole_maps(block: _Block) -> None:
    result = block.reconstruct(SETTINGS, Crop(4, 2))
    assert result.kept and result.loss_after < result.loss_before


def test_inputs_without_targets_are_refused(block: _Block) -> None:
    block.targets.pop()
    with pytest.raises(ValueError, match="4 and 4 inputs for 3 targets"):
        block.reconstruct(SETTINGS)
