"""Score grids: codes by thresholds, the sample on which they are compared, and uniform levels."""

import pytest
import torch

from quant.score_grid import ScoreGrid, ScoreSample, fit_uniform_scores, log2_thresholds


def softmax_data(shape: tuple[int, ...] = (3, 4, 50, 64)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    scores = (2.5 * torch.randn(shape)).softmax(dim=-1)
    return scores, torch.randn(*shape[:-2], shape[-1], 16)


def test_the_code_is_the_number_of_thresholds_below_the_score() -> None:
    grid = ScoreGrid(torch.tensor([0.125, 0.25, 0.5], dtype=torch.float64), torch.tensor([0, 3, 10, 255]), 1 / 255)
    p = torch.tensor([[0.0, 0.125, 0.126], [0.25, 0.5, 1.0]])
    assert grid.codes(p).tolist() == [[0, 0, 1], [1, 2, 3]]
    assert grid.quantize(p).flatten().tolist() == pytest.approx([0, 0, 3 / 255, 3 / 255, 10 / 255, 1])
    assert log2_thresholds(grid).tolist() == [3, 2, 1]


def test_grids_out_of_order_or_without_zero_are_refused() -> None:
    ascending = torch.tensor([0.1, 0.2], dtype=torch.float64)
    for thresholds, levels in (
        (ascending.flip(0), [0, 1, 2]),
        (ascending, [1, 2, 3]),
        (ascending, [0, 2, 2]),
        (ascending, [0, 1, 4096]),
        (ascending, [0, 1]),
    ):
        with pytest.raises(ValueError, match="levels"):
            ScoreGrid(thresholds, torch.tensor(levels), 1.0)


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_uniform_levels_take_the_nearest(bits: int) -> None:
    scores, values = softmax_data()
    grid, _ = fit_uniform_scores(scores, values, bits)
    assert grid.levels.tolist() == list(range(2**bits))
    levels = grid.levels * grid.scale
    nearest = (scores[..., None] - levels).abs().amin(dim=-1)
    assert torch.allclose((scores - grid.quantize(scores)).abs(), nearest, atol=1e-6)


def test_the_clip_is_better_than_the_whole_range_and_fits_repeat() -> None:
    scores, values = softmax_data()
    grid, error = fit_uniform_scores(scores, values, 4)
    sample = ScoreSample.of(scores, values)
    step = sample.peak / 15
    whole = ScoreGrid((torch.arange(15, dtype=torch.float64) + 0.5) * step, torch.arange(16), step)
    assert error == sample.error(grid) < sample.error(whole)
    again, _ = fit_uniform_scores(scores, values, 4)
    assert torch.equal(again.thresholds, grid.thresholds)


@pytest.mark.parametrize("shape", [(3, 4, 50, 64), (600, 9, 9), (2, 5, 4096), (7, 7)])
def test_samples_are_few_rows_with_their_own_values(shape: tuple[int, ...]) -> None:
    scores, values = softmax_data(shape)
    sample = ScoreSample.of(scores, values)
    assert sample.scores.shape[0] * sample.scores.shape[1] <= 256
    assert sample.scores.numel() <= 2**19
    rows = {row.tobytes() for row in (scores @ values).reshape(-1, 16).round(decimals=3).abs().numpy()}
    taken = [row.tobytes() for row in sample.product.reshape(-1, 16).round(decimals=3).abs().numpy()]
    assert len(set(taken)) == len(taken)
    assert sum(row in rows for row in taken) >= 0.9 * len(taken)
