"""How a model is quantized: every part of the method with its switch."""

from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from quant.channel_groups import ChannelGrouping
from sim.contract.constants import TILE_CHANNELS

ScoreCodes = Literal["lnq", "agq", "uniform"]
WeightGroups = Literal["channel", "tile"]

BYTE_INPUTS: Final = (
    "image_encoder.layers.0.*",
    "image_encoder.layers.*.downsample.*",
    "image_encoder.*.attn.proj",
    "image_encoder.*.mlp.fc2",
    "image_encoder.*.mlp.lin2",
    "image_encoder.neck.*",
    "image_encoder.*.attend",
    "mask_decoder.*",
)
"""Operations that 16 input levels hurt most: all but the layers behind a LayerNorm in the encoder."""

PRECISE_WEIGHTS: Final = ("image_encoder.*", "mask_decoder.*")
"""All of them: no few layers make the difference (docs/quantization.md)."""

ALWAYS_BYTES: Final = ("image_encoder.patch_embed.*",)
"""Weights and inputs of 8 bits whatever the recipe: the paper leaves the patch embedding in float."""


@dataclass(frozen=True)
class Recipe:
    """Every part of the method.

    bits: of weights, inputs and attention operands. acnr: condition numbers reduced before rounding. hluq: hybrid
    log-uniform codes behind GELU and ReLU. cag: groups of input channels that share a scale: off, the paper's 4, or one
    per K tile; with `tile` each channel also has its own offset, and channels of a LayerNorm are equalised, which the
    hardware does for nothing. scores: codes of the attention probabilities. big: fold the signs of bimodal keys.
    weight_groups: one weight scale per output channel, or per K tile and output.

    compensate: error-compensating rounding, polishing and a fitted target; False rounds to nearest. ridge: how strongly
    that target is held to the original weight. damping: relative diagonal of the covariance in rounding. sweeps: rounds
    of polishing. recon_iters: steps of block reconstruction, 0 for none. max_tokens: calibration tokens per layer.

    byte_inputs: operations whose names match take 8-bit inputs, two planes of 4-bit codes, instead of `bits`.
    byte_scores: the same for the probabilities of attentions. byte_weights: dense layers whose names match have 8-bit
    weights, two planes of 4 bits.
    """

    bits: int = 4
    acnr: bool = False
    hluq: bool = True
    cag: ChannelGrouping = "tile"
    scores: ScoreCodes = "lnq"
    big: bool = True
    weight_groups: WeightGroups = "tile"
    compensate: bool = True
    ridge: float = 3.0
    damping: float = 0.01
    sweeps: int = 3
    recon_iters: int = 0
    max_tokens: int = 24576
    byte_inputs: tuple[str, ...] = BYTE_INPUTS
    byte_scores: tuple[str, ...] = ("mask_decoder.*",)
    byte_weights: tuple[str, ...] = ()

    def input_bits(self, name: str) -> int:
        """Bits of the inputs of operation `name`: of a dense layer's input, or of q, k and v of an attention."""
        return 8 if _matches(name, self.byte_inputs + ALWAYS_BYTES) else self.bits

    def score_bits(self, name: str) -> int:
        """Bits of the probabilities of attention `name`."""
        return 8 if _matches(name, self.byte_scores) else self.bits

    def weight_bits(self, name: str) -> int:
        """Bits of the weights of layer `name`."""
        return 8 if _matches(name, self.byte_weights + ALWAYS_BYTES) else self.bits

    def weight_group(self, inputs: int) -> int:
        """Input channels that share a weight scale."""
        return inputs if self.weight_groups == "channel" else TILE_CHANNELS

    @property
    def acnr_iterations(self) -> int:
        """Steps of condition number reduction: the paper's 200 for 4 and 5 bits, 20 above."""
        return 200 if self.bits <= 5 else 20

    def described(self) -> dict[str, Any]:
        """The recipe for a manifest."""
        return asdict(self)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


DEFAULT: Final = Recipe()

NONE: Final = Recipe(
    acnr=False,
    hluq=False,
    cag="off",
    scores="uniform",
    big=False,
    weight_groups="channel",
    compensate=False,
    byte_inputs=(),
    byte_scores=(),
)
"""Round to nearest, one scale per tensor and output channel: the baseline that every part has to improve."""


def strict(recipe: Recipe) -> Recipe:
    """The same recipe with `bits` bits for every input: no operation takes bytes but the patch embedding."""
    return replace(recipe, byte_inputs=(), byte_scores=())
