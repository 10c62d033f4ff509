"""What every model of the Segment Anything family shares: an image encoder, prompts, a mask decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from quant.models.layer_call import Steps
from quant.models.mask_decoder import decoder_steps
from quant.models.segment_anything_parts import load_modeling
from sim.picture import Box, InputFormat, Preprocessed

EMBEDDING_CHANNELS: Final = 256
DECODER_HEADS: Final = 8
DECODER_DEPTH: Final = 2
DECODER_MLP: Final = 2048
TOKENS_OF_A_BOX: Final = 7
"""Tokens of the mask decoder with a box prompt: quality, four masks, two corners."""


@dataclass(frozen=True)
class AttentionShape:
    """One attention of a network. head_channels: of a query and key. keys: the length of a row of softmax."""

    name: str
    head_channels: int
    keys: int


class PromptableModel(nn.Module, ABC):
    """A picture and boxes to masks. Modules and parameters are named as in the public checkpoints."""

    def __init__(self, image_encoder: nn.Module, input_format: InputFormat, embedding_side: int) -> None:
        super().__init__()
        modeling = load_modeling()
        self.input_format = input_format
        self.embedding_side = embedding_side
        self.image_encoder = image_encoder
        self.prompt_encoder = modeling.PromptEncoder(
            embed_dim=EMBEDDING_CHANNELS,
            image_embedding_size=(embedding_side, embedding_side),
            input_image_size=(input_format.side, input_format.side),
            mask_in_chans=16,
        )
        self.mask_decoder = modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(
                depth=DECODER_DEPTH, embedding_dim=EMBEDDING_CHANNELS, mlp_dim=DECODER_MLP, num_heads=DECODER_HEADS
            ),
            transformer_dim=EMBEDDING_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    @abstractmethod
    def image_steps(self, x: Tensor) -> Steps[Tensor]:
        """A normalised picture (1, side, side, 3) to its embedding (1, embedding side, embedding side, 256)."""

    @abstractmethod
    def encoder_attention(self) -> list[AttentionShape]:
        """The attentions of the image encoder, in network order."""

    def encoder_steps(self, prepared: Preprocessed) -> Steps[Tensor]:
        """Picture to embedding float32 (1, embedding side, embedding side, 256), stopping before every operation.

        Raises ValueError when the picture was prepared for another side.
        """
        if prepared.side != self.input_format.side:
            raise ValueError(f"prepared for a side of {prepared.side}, the encoder takes {self.input_format.side}")
        return self.image_steps(torch.from_numpy(prepared.pixels).permute(0, 2, 3, 1))

    def prompt_steps(self, embedding: Tensor, prepared: Preprocessed, boxes: list[Box]) -> Steps[tuple[Tensor, Tensor]]:
        """Embedding (1, E, E, 256) and B boxes to mask logits (B, 4 * E, 4 * E) and predicted IoU (B,)."""
        corners = torch.from_numpy(np.stack([prepared.scale_box(box) for box in boxes]))
        sparse, dense = self.prompt_encoder(points=None, boxes=corners, masks=None)
        position = self.prompt_encoder.get_dense_pe().permute(0, 2, 3, 1)
        pixels = embedding + dense[:, :, 0, 0][:, None, None, :]
        return decoder_steps(self.mask_decoder, pixels, position, sparse)

    def decoder_attention(self) -> list[AttentionShape]:
        """The attentions of the mask decoder for one box, in network order."""
        pixels = self.embedding_side**2
        keys = {"self_attn": TOKENS_OF_A_BOX, "cross_attn_token_to_image": pixels}
        keys |= {"cross_attn_image_to_token": TOKENS_OF_A_BOX, "final_attn_token_to_image": pixels}
        attentions = [
            (name, module)
            for name, module in self.named_modules()
            if name.startswith("mask_decoder.") and name.rpartition(".")[2] in keys
        ]
        return [
            AttentionShape(name, module.internal_dim // module.num_heads, keys[name.rpartition(".")[2]])
            for name, module in attentions
        ]
