"""LiteMedSAM: TinyViT image encoder, and the prompt encoder and mask decoder of Segment Anything."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quant.models import checkpoint
from quant.models.layer_call import Steps
from quant.models.mask_decoder import decoder_steps
from quant.models.segment_anything_parts import load_modeling
from quant.models.tiny_vit import NECK_CHANNELS, TinyViT
from sim.contract.errors import UserError
from sim.picture import INPUT_SIDE, Box, Preprocessed

EMBEDDING_SIDE = INPUT_SIDE // 4
DECODER_HEADS = 8
DECODER_DEPTH = 2
DECODER_MLP = 2048


class LiteMedSam(nn.Module):
    """The whole float model. Batch norms are folded by `load_lite_medsam`."""

    def __init__(self) -> None:
        super().__init__()
        modeling = load_modeling()
        self.image_encoder = TinyViT()
        self.prompt_encoder = modeling.PromptEncoder(
            embed_dim=NECK_CHANNELS,
            image_embedding_size=(EMBEDDING_SIDE, EMBEDDING_SIDE),
            input_image_size=(INPUT_SIDE, INPUT_SIDE),
            mask_in_chans=16,
        )
        self.mask_decoder = modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=DECODER_DEPTH, embedding_dim=NECK_CHANNELS, mlp_dim=DECODER_MLP, num_heads=DECODER_HEADS
            ),
            transformer_dim=NECK_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    def encoder_steps(self, prepared: Preprocessed) -> Steps[Tensor]:
        """Picture to embedding float32 (1, 64, 64, 256), stopping before every quantizable layer."""
        return self.image_encoder.steps(torch.from_numpy(prepared.pixels).permute(0, 2, 3, 1))

    def prompt_steps(
        self, embedding: Tensor, prepared: Preprocessed, boxes: list[Box], pixel_stride: int = 1
    ) -> Steps[tuple[Tensor, Tensor]]:
        """Embedding (1, 64, 64, 256) and B boxes to mask logits (B, 256, 256) and predicted IoU (B,).

        With a `pixel_stride` the decoder sees every so many rows and columns of the embedding: calibration takes
        the same statistics from fewer pixels. The logits are then smaller by that factor.
        """
        corners = torch.from_numpy(np.stack([prepared.scale_box(box) for box in boxes]))
        sparse, dense = self.prompt_encoder(points=None, boxes=corners, masks=None)
        position = self.prompt_encoder.get_dense_pe().permute(0, 2, 3, 1)
        pixels = embedding + dense[:, :, 0, 0][:, None, None, :]
        pixels, position = pixels[:, ::pixel_stride, ::pixel_stride], position[:, ::pixel_stride, ::pixel_stride]
        return decoder_steps(self.mask_decoder, pixels, position, sparse)


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
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"checkpoint {path} does not fit LiteMedSAM: {first}") from error
    model.image_encoder.fold_norms()
    return model.eval().requires_grad_(False)
