"""LiteMedSAM: TinyViT image encoder, and the prompt encoder and mask decoder of Segment Anything."""

from pathlib import Path

from torch import Tensor

from quant.models import checkpoint
from quant.models.layer_call import Steps
from quant.models.promptable import DECODER_DEPTH, DECODER_HEADS, DECODER_MLP, AttentionShape, PromptableModel
from quant.models.tiny_vit import TinyViT, WindowAttention
from sim.picture import LITE_MEDSAM

__all__ = ["DECODER_DEPTH", "DECODER_HEADS", "DECODER_MLP", "LiteMedSam", "build_from_state", "load_lite_medsam"]


class LiteMedSam(PromptableModel):
    """The whole float model. Batch norms are folded by `load_lite_medsam`."""

    image_encoder: TinyViT

    def __init__(self) -> None:
        super().__init__(TinyViT(), LITE_MEDSAM, embedding_side=LITE_MEDSAM.side // 4)

    def image_steps(self, x: Tensor) -> Steps[Tensor]:
        """(1, 256, 256, 3) within [0, 1] to (1, 64, 64, 256)."""
        return self.image_encoder.steps(x)

    def encoder_attention(self) -> list[AttentionShape]:
        """The window attentions of TinyViT."""
        return [
            AttentionShape(name, module.head_channels, module.window**2)
            for name, module in self.named_modules()
            if isinstance(module, WindowAttention)
        ]


def load_lite_medsam(path: Path | None = None) -> LiteMedSam:
    """The pretrained float model in evaluation mode, batch norms folded.

    `path`: a copy of the checkpoint; without it the one in the installed package is used. Either way its sha256
    is checked. Raises UserError when it is missing, altered, not finite or does not fit the model.
    """
    path = checkpoint.locate() if path is None else path
    checkpoint.verify(path, checkpoint.LITE_MEDSAM.sha256)
    return build_from_state(checkpoint.load_state(path), path)


def build_from_state(state: dict[str, Tensor], path: Path) -> LiteMedSam:
    """The model with the given weights, every name and shape matching (UserError otherwise); norms folded."""
    model = LiteMedSam()
    checkpoint.fit(model, state, path, "LiteMedSAM")
    model.image_encoder.fold_norms()
    return model.eval().requires_grad_(False)
