"""Small image encoders of invented operations, TinyViT and ViT: no meaning, but every kind of step."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract.activation_table import sample_function
from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.positions import Positions
from sim.contract.residual import Residual
from sim.contract.wide import Wide
from sim.golden.architecture import Architecture
from sim.golden.mask_decoder import MaskDecoderShape
from sim.golden.parameters import Parameters
from sim.golden.sam_vit import SamVitShape
from sim.golden.tinyvit import StageShape
from sim.picture import LITE_MEDSAM

EXPONENT = -8
SIDE = 24
WIDTH = 128
HEADS = 4

WIDTHS = {
    "patch_embed.seq.0.c": 16, "patch_embed.seq.2.c": 24, "blocks.0.conv1.c": 40, "blocks.0.conv3.c": 24,
    "downsample.conv1.c": WIDTH, "downsample.conv3.c": WIDTH, "qkv": 3 * WIDTH, "fc1": 96, "lin1": 96, "neck.0": 32,
    "neck.2": 32,
}  # fmt: skip
"""Outputs of dense layers by the end of their name; others have WIDTH."""


@dataclass(frozen=True)
class Invented(Parameters):
    """Parameters that invent an operation when it is first asked for, of values that neither vanish nor saturate."""

    seed: int = 0
    window: dict[str, int] = field(default_factory=dict)

    def _random(self) -> Any:
        return np.random.default_rng([self.seed, len(self.operations)])

    def _keep(self, name: str, operation: Any) -> Any:
        self.operations.setdefault(name, operation)  # type: ignore[attr-defined]
        return self.operations[name]

    def _encoder(self, name: str, channels: int, levels: NDArray[np.int8], *, ordered: bool = False) -> Encoder:
        random = self._random()
        order = np.arange(channels) if ordered else random.permutation(channels)
        tiles = -(-channels // 64)
        return Encoder(
            name,
            EXPONENT,
            order.astype(np.uint16),
            random.integers(600, 1400, channels).astype(np.int16),
            ((256 << 13) + random.integers(-9000, 9000, channels)).astype(np.int32),
            np.full(tiles, 13, np.uint8),
            levels,
        )

    def linear(self, name: str, x: Wide) -> Wide:
        random = self._random()
        channels = x.values.shape[-1]
        outputs = next((n for end, n in WIDTHS.items() if name.endswith(end)), WIDTH)
        tiles = -(-channels // 64)
        if name.endswith(("qkv", "fc1", "lin1")):
            planes = 1
            levels = np.stack([np.sort(random.choice(np.arange(-15, 16), 16, replace=False)) for _ in range(tiles)])
            size = 12.0
        elif name.endswith(("proj", "lin2")):
            planes = 2
            levels = np.sort(random.choice(np.arange(-120, 120), 16, replace=False))[None]
            size = 70 * 60.0
        else:
            planes = 2 if "patch" in name else 1
            levels = np.arange(-128, 128)[None]
            size = 40.0 * (60 if planes == 2 else 4)
        low, high = (-8, 8) if planes == 1 else (-128, 120)
        layer = QuantizedLayer(
            name,
            self._encoder(name, channels, levels.astype(np.int8)),
            random.integers(low, high, (outputs, channels)).astype(np.int8),
            (random.uniform(0.6, 1, (tiles, outputs)) * 1024 * 1500 / (size * np.sqrt(channels)) + 1).astype(np.uint16),
            random.integers(-90000, 90000, outputs).astype(np.int32),
            EXPONENT,
            planes,
        )
        self._keep(name, layer)
        return super().linear(name, x)

    def norm(self, name: str, x: Wide) -> Wide:
        random = self._random()
        channels = x.values.shape[-1]
        gain = random.integers(500, 1500, channels).astype(np.int16)
        bias = random.integers(-300000, 300000, channels).astype(np.int32)
        self._keep(name, LayerNorm(name, EXPONENT, EXPONENT, 1 + channels**2, gain, bias, 10))
        return super().norm(name, x)

    def gelu(self, name: str, x: Wide) -> Wide:
        self._keep(name, sample_function(name, lambda y: y / (1 + np.exp(-1.7 * y)), EXPONENT, EXPONENT))
        return super().gelu(name, x)

    def add(self, name: str, a: Wide, b: Wide) -> Wide:
        self._keep(name, Residual(name, EXPONENT, EXPONENT, EXPONENT))
        return super().add(name, a, b)

    def add_positions(self, name: str, x: Wide) -> Wide:
        random = self._random()
        code = random.integers(-127, 128, x.values.shape).astype(np.int8)
        shift = random.integers(0, 5, x.values.shape[-1]).astype(np.uint8)
        self._keep(name, Residual(name, EXPONENT, EXPONENT, EXPONENT, Positions(name, code, shift)))
        return super().add_positions(name, x)

    def depthwise(self, name: str, x: Wide, stride: int = 1) -> Wide:
        random = self._random()
        channels = x.values.shape[-1]
        weight = random.integers(-100, 101, (channels, 3, 3)).astype(np.int8)
        multiplier = random.integers(20000, 40000, channels).astype(np.uint16)
        bias = random.integers(-(1 << 28), 1 << 28, channels)
        self._keep(name, Depthwise(name, EXPONENT, EXPONENT, stride, weight, multiplier, bias, 22))
        return super().depthwise(name, x, stride)

    def attention(self, name: str, q: Wide, k: Wide, v: Wide, *, heads: int) -> Wide:
        random = self._random()
        channels = q.values.shape[-1]
        side = int(np.sqrt(q.values.shape[1]))
        width = channels // heads
        position: StaticBias | DecomposedBias
        if "layers" in name:
            position = StaticBias(random.integers(-800, 800, (heads, side**2)).astype(np.int16), side)
        else:
            tables = random.integers(-128, 120, (2, heads, 2 * side - 1, width)).astype(np.int8)
            scales = random.integers(20, 90, (2, heads)).astype(np.uint16)
            position = DecomposedBias(tables[0], tables[1], scales[0], scales[1], side, side)
        # Levels of P of three nibbles, as rows of thousands of keys have them, beside those of two.
        top, size = (256, 16) if isinstance(position, StaticBias) else (4096, 1)
        byte, stationary = np.arange(-128, 128, dtype=np.int8)[None], np.arange(-128, 120, dtype=np.int8)[None]
        attention = Attention(
            name,
            heads,
            self._encoder(name, channels, byte, ordered=True),
            self._encoder(name, channels, stationary, ordered=True),
            self._encoder(name, channels, stationary, ordered=True),
            random.integers(10, 40, heads).astype(np.uint16),
            np.sort(random.integers(200, 2500, 15))[::-1].astype(np.int32),
            np.concatenate([[0], np.sort(random.choice(np.arange(1, top), 15, replace=False))]).astype(np.uint16),
            random.integers(30 * size // 16, 60 * size // 16, channels).astype(np.uint16),
            random.integers(-90000, 90000, channels).astype(np.int32),
            EXPONENT,
            position,
        )
        self._keep(name, attention)
        return super().attention(name, q, k, v, heads=heads)


@dataclass(frozen=True)
class Toy:
    """Parameters, all of whose operations are there; a picture, and every result of the golden encoder."""

    parameters: Parameters
    architecture: Architecture
    picture: Wide
    results: dict[str, NDArray[np.int16]]
    embedding: NDArray[np.int16]


def invent(encoder: Any, side: int) -> Toy:
    input_format = LITE_MEDSAM.__class__(**(LITE_MEDSAM.__dict__ | {"side": side}))
    architecture = Architecture(input_format, EXPONENT, encoder, MaskDecoderShape(depth=1, heads=1))
    values = np.random.default_rng(3).integers(-2000, 2000, (side, side, 3)).astype(np.int16)
    picture = Wide(values, EXPONENT)
    operations: dict[str, Any] = {}
    architecture.encode(picture, Invented({}, operations))
    results: dict[str, NDArray[np.int16]] = {}
    parameters = Parameters({}, operations, lambda name, executed: results.update({name: executed.output.values}))
    embedding = architecture.encode(picture, parameters)
    return Toy(parameters.observed_by(None), architecture, picture, results, embedding.values)


def toy_tiny_vit() -> Toy:
    """A convolutional stage, a stage of attention in windows that do not divide the map, depthwise of both strides."""
    return invent((StageShape(1, 1, 1, 2), StageShape(1, HEADS, 5, 2), StageShape(1, HEADS, 3, 0)), SIDE)


def toy_sam_vit() -> Toy:
    """A block of windows and a global one on a map of 5 x 5 patches."""
    return invent(SamVitShape(depth=2, heads=2, window=3, global_blocks=(1,), patch=16), 80)
