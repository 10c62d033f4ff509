"""BIG on a whole model: find decoder attentions with bimodal keys and fold their signs into the projections."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quant.bimodal import fold_signs, mostly_bimodal
from quant.models.layer_call import AttentionCall, Call, run
from quant.models.promptable import PromptableModel
from quant.pictures import PromptedPicture
from sim.contract.errors import UserError
from sim.picture import Preprocessed


def fold_bimodal_keys(
    model: PromptableModel, pictures: Sequence[PromptedPicture], prepared: Sequence[Preprocessed]
) -> list[str]:
    """Fold the signs of bimodal keys of the mask decoder's attentions from tokens to the picture, in place.

    Decided over all pictures (PTQ4SAM, section on bimodal integration). Returns the names of the folded attentions.
    Raises UserError when the network gives keys that are not finite: finite weights can be too large for float32.
    """
    keys: dict[str, list[Tensor]] = {}

    def note(call: Call) -> Tensor:
        if isinstance(call, AttentionCall) and "token_to_image" in call.name:
            seen = call.k.movedim(-3, -2).flatten(-2)
            if not bool(torch.isfinite(seen).all()):
                raise UserError(
                    f"the float model overflows in front of {call.name} on {picture.name}: its weights are damaged; "
                    "use an intact checkpoint"
                )
            keys.setdefault(call.name, []).append(seen)
        return call.compute()

    for picture, one in zip(pictures, prepared, strict=True):
        embedding = run(model.encoder_steps(one))
        run(model.prompt_steps(embedding, one, list(picture.boxes[:1])), note)
    folded = []
    for name, seen in keys.items():
        if not mostly_bimodal(seen):
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        q, k = owner.get_submodule("q_proj"), owner.get_submodule("k_proj")
        assert isinstance(q, nn.Linear) and isinstance(k, nn.Linear)
        mean = sum(one.flatten(0, -2).mean(dim=0) for one in seen) / len(seen)
        assert isinstance(mean, Tensor)
        parts = fold_signs(q.weight, q.bias, k.weight, k.bias, mean)
        q.weight.data, q.bias.data = parts.q_weight, parts.q_bias
        k.weight.data, k.bias.data = parts.k_weight, parts.k_bias
        folded.append(name)
    return folded
