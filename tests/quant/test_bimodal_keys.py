"""Bimodal keys of a whole model: found over all pictures, folded in the decoder alone, the function unchanged."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quant import bimodal_keys
from quant.bimodal_keys import fold_bimodal_keys
from quant.models.layer_call import AttentionCall, Call, run
from quant.models.promptable import PromptableModel
from quant.models.registry import load_model
from quant.pictures import PromptedPicture
from sim.contract.errors import UserError
from sim.picture import Preprocessed, preprocess

TOWARDS_THE_PICTURE = [
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image.attend",
    "mask_decoder.transformer.layers.1.cross_attn_token_to_image.attend",
    "mask_decoder.transformer.final_attn_token_to_image.attend",
]


@cache
def toy_model() -> PromptableModel:
    """The toy model, made once: its name stands for another model outside of these tests."""
    return load_model("vit_test")


class Case:
    """The toy model, whose keys have biases of either sign, with its pictures."""

    def __init__(self, toys: Any) -> None:
        self.model = deepcopy(toy_model())
        self.pictures: list[PromptedPicture] = toys.pictures(3)
        self.prepared: list[Preprocessed] = [preprocess(one.pixels, self.model.input_format) for one in self.pictures]

    def fold(self) -> list[str]:
        with torch.no_grad():
            return fold_bimodal_keys(self.model, self.pictures, self.prepared)

    def logits(self) -> Tensor:
        """Masks of the boxes of the first picture."""
        with torch.no_grad():
            embedding = run(self.model.encoder_steps(self.prepared[0]))
            return run(self.model.prompt_steps(embedding, self.prepared[0], list(self.pictures[0].boxes)))[0]

    def keys(self) -> dict[str, Tensor]:
        """Keys of the first box by attention, (tokens, channels)."""
        found: dict[str, Tensor] = {}

        def note(call: Call) -> Tensor:
            if isinstance(call, AttentionCall):
                found[call.name] = call.k.movedim(-3, -2).flatten(-2)[0]
            return call.compute()

        with torch.no_grad():
            embedding = run(self.model.encoder_steps(self.prepared[0]))
            run(self.model.prompt_steps(embedding, self.prepared[0], list(self.pictures[0].boxes[:1])), note)
        return found

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def changed(self, before: dict[str, Tensor]) -> set[str]:
        return {name for name, value in self.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def case(toys: Any) -> Case:
    return Case(toys)


def test_keys_that_look_at_the_picture_are_folded_and_the_masks_stay(case: Case) -> None:
    before, logits = case.state(), case.logits()
    assert case.fold() == TOWARDS_THE_PICTURE
    owners = [name.rpartition(".")[0] for name in TOWARDS_THE_PICTURE]
    both = {
        f"{owner}.{part}.{kind}" for owner in owners for part in ("q_proj", "k_proj") for kind in ("weight", "bias")
    }
    assert case.changed(before) == both
    torch.testing.assert_close(case.logits(), logits, rtol=1e-4, atol=1e-3)


def test_folded_keys_have_positive_means_and_one_mode(case: Case) -> None:
    before = case.keys()
    case.fold()
    after = case.keys()
    for name in TOWARDS_THE_PICTURE:
        signs = torch.sign((before[name] * after[name]).sum(dim=0))
        assert set(signs.tolist()) == {-1.0, 1.0}
        torch.testing.assert_close(after[name], before[name] * signs, rtol=1e-4, atol=1e-3)
        assert float(after[name].mean()) > 2 * abs(float(before[name].mean()))
    assert case.fold() == []


def test_keys_without_two_modes_are_left_alone(case: Case) -> None:
    for name in TOWARDS_THE_PICTURE:
        case.model.get_parameter(f"{name.rpartition('.')[0]}.k_proj.bias").data.zero_()
    before = case.state()
    assert case.fold() == [] and case.changed(before) == set()


def test_all_pictures_are_asked_and_one_of_them_does_not_decide(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def minority(keys: list[Tensor]) -> bool:
        asked.append(len(keys))
        assert all(one.shape == keys[0].shape and one.shape[-1] == 128 for one in keys)
        return False

    monkeypatch.setattr(bimodal_keys, "mostly_bimodal", minority)
    before = case.state()
    assert case.fold() == [] and case.changed(before) == set()
    assert asked == [3, 3, 3]


def test_the_sign_is_that_of_the_mean_over_all_pictures(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code takes it from the first picture."""
    seen: list[Tensor] = []

    def every(keys: list[Tensor]) -> bool:
        seen.append(torch.stack(keys))
        return True

    monkeypatch.setattr(bimodal_keys, "mostly_bimodal", every)
    means: list[Tensor] = []
    fold = bimodal_keys.fold_signs

    def noted(*arguments: Tensor) -> Any:
        means.append(arguments[4])
        return fold(*arguments)

    monkeypatch.setattr(bimodal_keys, "fold_signs", noted)
    case.fold()
    for keys, mean in zip(seen, means, strict=True):
        torch.testing.assert_close(mean, keys.flatten(0, -2).mean(dim=0), rtol=1e-4, atol=1e-5)
        assert not np.allclose(mean.numpy(), keys[0].flatten(0, -2).mean(dim=0).numpy(), rtol=1e-3, atol=1e-4)


def test_pictures_and_prepared_ones_must_be_as_many(case: Case) -> None:
    case.prepared.pop()
    with pytest.raises(ValueError, match="shorter"):
        case.fold()


def test_weights_that_overflow_are_refused_with_the_picture(case: Case) -> None:
    case.model.get_parameter("image_encoder.blocks.0.mlp.lin2.weight").data.mul_(1e30)
    with pytest.raises(UserError, match=r"overflows in front of .*attend on toy 0: .*; use an intact checkpoint"):
        case.fold()
