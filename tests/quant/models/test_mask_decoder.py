"""Which operations the mask decoder hands out."""

import torch

from quant.models.layer_call import AttentionCall, LayerCall
from quant.models.registry import load_model
from sim.picture import Preprocessed
from tests.quant.models.calls import recorded


def test_projections_and_attentions_are_yielded_and_nothing_else() -> None:
    model = load_model("vit_test")
    side = model.input_format.side
    prepared = Preprocessed(torch.zeros(1, 3, side, side).numpy(), (side, side), (side, side))
    embedding = torch.randn(1, 16, 16, 256, generator=torch.Generator().manual_seed(0))
    _, calls = recorded(model.prompt_steps(embedding, prepared, [(5, 5, 90, 80)]))
    parts = ["q_proj", "k_proj", "v_proj", "attend", "out_proj"]
    block = [f"{name}.{part}" for name in ("self_attn", "cross_attn_token_to_image") for part in parts]
    block += ["mlp.lin1", "mlp.lin2", *(f"cross_attn_image_to_token.{part}" for part in parts)]
    heads = ("output_hypernetworks_mlps.0", "iou_prediction_head")
    assert list(calls) == [
        *(f"mask_decoder.transformer.layers.{index}.{one}" for index in (0, 1) for one in block),
        *(f"mask_decoder.transformer.final_attn_token_to_image.{part}" for part in parts),
        *(f"mask_decoder.{head}.layers.{index}" for head in heads for index in (0, 1)),
    ]
    assert all(isinstance(call, AttentionCall) == name.endswith(".attend") for name, call in calls.items())
    activations = {name: call.activation for name, call in calls.items() if isinstance(call, LayerCall)}
    assert [name for name, one in activations.items() if one == "relu"] == [
        "mask_decoder.transformer.layers.0.mlp.lin2",
        "mask_decoder.transformer.layers.1.mlp.lin2",
        *(f"mask_decoder.{head}.layers.1" for head in heads),
    ]
    attend = calls["mask_decoder.transformer.layers.0.cross_attn_token_to_image.attend"]
    assert isinstance(attend, AttentionCall)
    assert attend.q.shape == (1, 8, 7, 16) and attend.k.shape == (1, 8, 256, 16) and attend.bias is None
