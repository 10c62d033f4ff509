"""Models by name, and the limits of the hardware."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quant.models.lite_medsam import LiteMedSam
from quant.models.promptable import AttentionShape
from quant.models.registry import MODELS, check_hardware_limits, load_model, model_spec
from quant.models.sam import SHAPES, SamVit
from sim.contract.errors import UserError


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        UserError, match="unknown model 'vit_g'; the models are lite_medsam, vit_b, vit_l, vit_h, vit_t"
    ):
        load_model("vit_g")


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_sam_without_weights_names_the_file(name: str) -> None:
    with pytest.raises(UserError, match=rf"download sam_{name}_\w{{6}}\.pth from https.*--synthetic"):
        load_model(name)


def test_synthetic_and_a_checkpoint_exclude_each_other() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        load_model("vit_b", Path("some.pth"), synthetic=True)


def test_lite_medsam_has_its_own_weights_only() -> None:
    with pytest.raises(UserError, match="no synthetic weights"):
        load_model("lite_medsam", synthetic=True)
    assert isinstance(load_model("lite_medsam"), LiteMedSam)


def test_specs_say_side_licence_and_need() -> None:
    sides = {name: spec.input_side for name, spec in MODELS.items()}
    assert sides == {"lite_medsam": 256, "vit_b": 1024, "vit_l": 1024, "vit_h": 1024, "vit_test": 256}
    assert [name for name, spec in MODELS.items() if spec.needs_checkpoint] == ["vit_b", "vit_l", "vit_h"]
    assert {spec.license for spec in MODELS.values()} == {"Apache-2.0"}


def test_source_is_the_hash_of_the_file_or_the_seed(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"abc")
    source = model_spec("vit_b").source(tmp_path / "mine.pth", synthetic=False, seed=1)
    assert source["file"] == "mine.pth" and source["sha256"].startswith("ba7816bf8f01cfea")
    assert model_spec("vit_test").source(None, synthetic=False, seed=7)["origin"] == "synthetic weights, seed 7"
    assert model_spec("lite_medsam").source(None, synthetic=False, seed=0)["sha256"].startswith("79d8c9dc")


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_published_sizes_are_within_the_limits(name: str) -> None:
    with torch.device("meta"):
        model = SamVit(SHAPES[name])
    attentions = model.encoder_attention() + model.decoder_attention()
    assert len(attentions) == SHAPES[name].depth + 7
    check_hardware_limits(model)


def test_lite_medsam_is_within_the_limits(lite_medsam: LiteMedSam) -> None:
    first = AttentionShape("image_encoder.layers.1.blocks.0.attn", head_channels=32, keys=49)
    assert lite_medsam.encoder_attention()[0] == first and len(lite_medsam.encoder_attention()) == 10
    decoder = lite_medsam.decoder_attention()
    assert AttentionShape("mask_decoder.transformer.layers.0.self_attn", 32, 7) in decoder
    assert AttentionShape("mask_decoder.transformer.final_attn_token_to_image", 16, 4096) in decoder
    check_hardware_limits(lite_medsam)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 1, "channels": 136}, r"blocks\.0\.attn has heads of 136 channels.*up to 128"),
        ({"heads": 2, "channels": 24}, r"heads of 12 channels; the hardware takes multiples of 8"),
        (
            {"input_format": replace(SHAPES["vit_b"].input_format, side=1040)},
            r"blocks\.1\.attn has 4225 keys per row; .*4096",
        ),
    ],
)
def test_a_model_over_a_limit_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with torch.device("meta"):
        model = SamVit(replace(SHAPES["vit_test"], **changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        check_hardware_limits(model)
