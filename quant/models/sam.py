"""Segment Anything with a ViT image encoder: ViT-B, ViT-L, ViT-H, and a small test model on the same code path."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from quant.models import checkpoint
from quant.models.layer_call import Steps
from quant.models.promptable import EMBEDDING_CHANNELS, AttentionShape, PromptableModel
from quant.models.sam_vit import vit_steps
from quant.models.segment_anything_parts import load_modeling
from quant.models.synthetic import synthetic_state
from sim.contract.errors import UserError
from sim.picture import SAM, VIT_TEST, InputFormat

SOURCE: Final = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
PATCH_SIDE: Final = 16
MLP_RATIO: Final = 4
NORM_EPSILON: Final = 1e-6


@dataclass(frozen=True)
class SamShape:
    """Sizes of one model. global_blocks: indices of blocks whose attention sees the whole map; the others see windows
    of `window` x `window` positions. file: name of the published checkpoint, empty where there is none.
    Source of the sizes: `build_sam` of the package segment-anything."""

    name: str
    channels: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    file: str
    window: int = 14
    input_format: InputFormat = SAM

    @property
    def embedding_side(self) -> int:
        """Side of the map of patches."""
        return self.input_format.side // PATCH_SIDE


SHAPES: Final = {
    shape.name: shape
    for shape in (
        SamShape("vit_b", 768, 12, 12, (2, 5, 8, 11), "sam_vit_b_01ec64.pth"),
        SamShape("vit_l", 1024, 24, 16, (5, 11, 17, 23), "sam_vit_l_0b3195.pth"),
        SamShape("vit_h", 1280, 32, 16, (7, 15, 23, 31), "sam_vit_h_4b8939.pth"),
        SamShape("vit_test", 128, 4, 2, (1, 3), "", window=7, input_format=VIT_TEST),
    )
}
"""vit_test: a map of 16 x 16 in windows of 7 (padded to 21), heads of 64 channels; it has random weights only."""


class SamVit(PromptableModel):
    """The whole float model of one shape, weights not set."""

    def __init__(self, shape: SamShape) -> None:
        encoder = load_modeling().ImageEncoderViT(
            img_size=shape.input_format.side,
            patch_size=PATCH_SIDE,
            embed_dim=shape.channels,
            depth=shape.depth,
            num_heads=shape.heads,
            mlp_ratio=MLP_RATIO,
            out_chans=EMBEDDING_CHANNELS,
            norm_layer=partial(nn.LayerNorm, eps=NORM_EPSILON),
            use_rel_pos=True,
            window_size=shape.window,
            global_attn_indexes=shape.global_blocks,
        )
        super().__init__(encoder, shape.input_format, shape.embedding_side)
        self.shape = shape

    def image_steps(self, x: Tensor) -> Steps[Tensor]:
        """(1, side, side, 3) to (1, side / 16, side / 16, 256)."""
        return vit_steps(self.image_encoder, x)

    def encoder_attention(self) -> list[AttentionShape]:
        """One attention per block: keys of the whole map, or of a window."""
        shape = self.shape
        sides = [shape.embedding_side if index in shape.global_blocks else shape.window for index in range(shape.depth)]
        return [
            AttentionShape(f"image_encoder.blocks.{index}.attn", shape.channels // shape.heads, side**2)
            for index, side in enumerate(sides)
        ]


def _shape_of(state: dict[str, Tensor]) -> SamShape | None:
    """Which of the known models a state dict belongs to, by the width of its patches and its number of blocks."""
    weight = state.get("image_encoder.patch_embed.proj.weight")
    blocks = {name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")}
    return next(
        (s for s in SHAPES.values() if weight is not None and (s.channels, s.depth) == (len(weight), len(blocks))),
        None,
    )


def load_sam(shape: SamShape, path: Path) -> SamVit:
    """The float model with the weights of a checkpoint, in evaluation mode.

    Raises UserError when the file is missing, not a state dict, not finite, or belongs to another model.
    """
    expected = f"{shape.file} from {SOURCE}" if shape.file else f"a state dict of {shape.name}"
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; give the path of {expected}")
    state = checkpoint.load_state(path, remedy=f"give {expected}")
    found = _shape_of(state)
    if found is not None and found is not shape:
        raise UserError(f"checkpoint {path} holds {found.name}, not {shape.name}; give --model {found.name}")
    model = SamVit(shape)
    checkpoint.fit(model, state, path, f"{shape.name} of Segment Anything")
    return model.eval().requires_grad_(False)


def synthetic_sam(shape: SamShape, seed: int) -> SamVit:
    """The model with seeded random weights (see `synthetic_state`), in evaluation mode."""
    model = SamVit(shape)
    model.load_state_dict(synthetic_state(model, seed), strict=True)
    return model.eval().requires_grad_(False)
