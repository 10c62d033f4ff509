"""The statistics that synthetic weights promise."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quant.models.layer_call import AttentionCall, weight_matrix
from quant.models.promptable import PromptableModel
from quant.models.registry import load_model
from quant.models.sam import SHAPES, SamVit
from quant.models.synthetic import synthetic_state
from sim.picture import VIT_TEST, preprocess
from tests.quant.models.calls import recorded


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    return load_model("vit_test", seed=0)


@pytest.fixture(scope="module")
def state(model: PromptableModel) -> dict[str, Tensor]:
    return dict(model.state_dict())


def test_equal_seeds_give_equal_weights_and_others_do_not(state: dict[str, Tensor]) -> None:
    again = synthetic_state(SamVit(SHAPES["vit_test"]), 0)
    other = synthetic_state(SamVit(SHAPES["vit_test"]), 1)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert not any(torch.equal(other[name], value) for name, value in state.items())


def test_a_few_channels_of_every_norm_are_10_to_50_times_the_rest(state: dict[str, Tensor]) -> None:
    for index in range(4):
        for norm in ("norm1", "norm2"):
            gain = state[f"image_encoder.blocks.{index}.{norm}.weight"]
            outliers = gain[gain > 5]
            assert len(outliers) == 4
            assert (outliers >= 10).all() and (outliers <= 50).all()
            assert 0.8 < gain.median() < 1.25


def test_dense_weights_are_ill_conditioned_with_a_dominant_part(model: PromptableModel) -> None:
    for name in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
        values = torch.linalg.svdvals(weight_matrix(model.get_submodule(f"image_encoder.blocks.2.{name}")))
        assert 190 < values[0] / values[-1] < 510
        energy = values.square().cumsum(0) / values.square().sum()
        assert energy[len(values) // 5] > 0.85


def test_weights_lean_away_from_outlier_channels(state: dict[str, Tensor]) -> None:
    gain = state["image_encoder.blocks.1.norm1.weight"]
    columns = state["image_encoder.blocks.1.attn.qkv.weight"].square().sum(dim=0).sqrt()
    assert columns[gain > 5].max() < 0.5 * columns[gain < 5].median()


def test_keys_have_two_peaks(model: PromptableModel) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    _, calls = recorded(model.encoder_steps(preprocess(picture, VIT_TEST)))
    attend = calls["image_encoder.blocks.1.attn.attend"]
    assert isinstance(attend, AttentionCall)
    channel_means = attend.k.mean(dim=2).flatten()
    assert (channel_means > 2).sum() > 32 and (channel_means < -2).sum() > 32
    assert (attend.k.abs() < 1).float().mean() < 0.1 < (attend.q.abs() < 1).float().mean()


def test_the_decoders_keys_have_biases_of_both_signs(state: dict[str, Tensor]) -> None:
    bias = state["mask_decoder.transformer.final_attn_token_to_image.k_proj.bias"]
    assert (bias > 3).sum() > 30 and (bias < -3).sum() > 30


def test_positions_are_not_zero(state: dict[str, Tensor]) -> None:
    assert state["image_encoder.pos_embed"].std() == pytest.approx(0.3, rel=0.1)
    for index in range(4):
        for axis in "hw":
            assert state[f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"].std() == pytest.approx(0.1, rel=0.2)


def test_the_network_stays_in_range(model: PromptableModel) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    embedding, calls = recorded(model.encoder_steps(preprocess(picture, VIT_TEST)))
    stream = calls["image_encoder.blocks.3.mlp.add"].compute()
    assert 0.5 < stream.std() < 20 and 0.3 < embedding.std() < 3
    for index in range(4):
        attend = calls[f"image_encoder.blocks.{index}.attn.attend"]
        assert isinstance(attend, AttentionCall)
        largest = attend.logits(0).softmax(dim=-1).amax(dim=-1).mean()
        keys = attend.k.shape[-2]
        assert 3 / keys < largest < 0.9
