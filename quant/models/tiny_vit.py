"""TinyViT image encoder as LiteMedSAM uses it: 256x256 picture to a 64x64 embedding of 256 channels.

Structure after "TinyViT: Fast Pretraining Distillation for Small Vision Transformers" (Wu et al., 2022),
with the changes of LiteMedSAM: a patch embedding of two 1x1 convolutions at full resolution, a last
downsampling of stride 1, and the neck of Segment Anything. Activations are (B, H, W, C) throughout, so that
a 1x1 convolution is a linear layer over pixels. Module names match the public checkpoint.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from quant.models.layer_call import (
    ActivationCall,
    AddCall,
    AttentionCall,
    BlockCall,
    DepthwiseCall,
    LayerCall,
    NormCall,
    StaticBias,
    Steps,
    run,
)
from quant.models.neck import neck_steps


@dataclass(frozen=True)
class StageShape:
    """Width, depth and attention of one stage. `heads` and `window` are unused in the convolutional stage 0."""

    channels: int
    depth: int
    heads: int
    window: int
    downsample_stride: int


LITE_MEDSAM_STAGES = (
    StageShape(channels=64, depth=2, heads=2, window=7, downsample_stride=2),
    StageShape(channels=128, depth=2, heads=4, window=7, downsample_stride=2),
    StageShape(channels=160, depth=6, heads=5, window=14, downsample_stride=1),
    StageShape(channels=320, depth=2, heads=10, window=7, downsample_stride=0),
)
"""Stages of LiteMedSAM; stride 0 means no downsampling behind the stage."""

EXPANSION = 4
NECK_CHANNELS = 256


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm; `fold` turns the pair into a convolution with bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)

    def fold(self) -> None:
        """Multiply the batch norm of evaluation into the weight; a second call changes nothing."""
        if not isinstance(self.bn, nn.BatchNorm2d):
            return
        norm = self.bn
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.c.weight = nn.Parameter((self.c.weight * gain[:, None, None, None]).detach())
        self.c.bias = nn.Parameter((norm.bias - norm.running_mean * gain).detach())
        self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, inputs) to (B, H', W', outputs)."""
        y: Tensor = self.bn(self.c(x.permute(0, 3, 1, 2)))
        return y.permute(0, 2, 3, 1)

    def steps(
        self, name: str, x: Tensor, residual: Tensor | None = None, activation: Literal["gelu"] | None = None
    ) -> Steps[Tensor]:
        """The same as `forward`, as a call: a pointwise convolution is a dense layer, a depthwise one is itself."""
        if isinstance(self.bn, nn.BatchNorm2d):
            raise RuntimeError(f"{name}: fold the batch norms before running the network step by step")
        if self.c.groups > 1:
            return (yield DepthwiseCall(f"{name}.c", self.c, x))
        return (yield LayerCall(f"{name}.c", self.c, x, residual, activation=activation))


class PatchEmbed(nn.Module):
    """Two pointwise convolutions from RGB."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, channels // 2), nn.GELU(), ConvNorm(channels // 2, channels))

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, 3) to (B, H, W, channels)."""
        first, _, last = self.seq
        assert isinstance(first, ConvNorm) and isinstance(last, ConvNorm)
        hidden = yield ActivationCall(f"{name}.seq.1", (yield from first.steps(f"{name}.seq.0", x)))
        return (yield from last.steps(f"{name}.seq.2", hidden, activation="gelu"))


class InvertedBottleneck(nn.Module):
    """Expand, depthwise 3x3, project, add, GELU: the block of stage 0."""

    window = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * EXPANSION
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, C) to the same shape."""
        hidden = yield ActivationCall(f"{name}.act1", (yield from self.conv1.steps(f"{name}.conv1", x)))
        hidden = yield ActivationCall(f"{name}.act2", (yield from self.conv2.steps(f"{name}.conv2", hidden)))
        projected = yield from self.conv3.steps(f"{name}.conv3", hidden, residual=x, activation="gelu")
        return (yield ActivationCall(f"{name}.act3", (yield AddCall(f"{name}.add", x, projected))))


class Downsample(nn.Module):
    """Pointwise, depthwise 3x3 with the stride, pointwise."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.window = stride
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, kernel=3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, inputs) to (B, H / stride, W / stride, outputs)."""
        x = yield ActivationCall(f"{name}.act1", (yield from self.conv1.steps(f"{name}.conv1", x)))
        x = yield ActivationCall(f"{name}.act2", (yield from self.conv2.steps(f"{name}.conv2", x)))
        return (yield from self.conv3.steps(f"{name}.conv3", x, activation="gelu"))


class WindowAttention(nn.Module):
    """Attention inside windows, with one learned bias per head and |offset| between two positions."""

    bias_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.head_channels = channels // heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        row, column = row.flatten(), column.flatten()
        distance = (row[:, None] - row[None, :]).abs() * window + (column[:, None] - column[None, :]).abs()
        # The checkpoint numbers distances in the order in which a raster scan first meets them, which is this one.
        self.register_buffer("bias_index", distance, persistent=False)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(windows, positions, 3*C), ordered (head, q k or v, channel), to three of (windows, heads, positions, d)."""
        windows, positions, _ = qkv.shape
        q, k, v = qkv.reshape(windows, positions, self.heads, 3, self.head_channels).permute(3, 0, 2, 1, 4)
        return q, k, v

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, C) to the attention branch of the same shape; windows are padded with zeros before the norm."""
        batch, height, width, channels = x.shape
        side = self.window
        bottom, right = -height % side, -width % side
        padded = functional.pad(x, (0, 0, 0, right, 0, bottom))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        normed = yield NormCall(f"{name}.norm", self.norm, windows.reshape(-1, side * side, channels))
        q, k, v = self.split((yield LayerCall(f"{name}.qkv", self.qkv, normed, norm=self.norm)))
        bias = StaticBias(self.attention_biases[:, self.bias_index])
        attended = yield AttentionCall(f"{name}.attend", q, k, v, self.head_channels**-0.5, bias)
        attended = attended.transpose(1, 2).reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
        attended = attended.reshape(padded.shape)[:, :height, :width]
        return (yield LayerCall(f"{name}.proj", self.proj, attended, residual=x))


class Mlp(nn.Module):
    """LayerNorm, expand, GELU, project."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * EXPANSION)
        self.fc2 = nn.Linear(channels * EXPANSION, channels)

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, C) to the branch of the same shape."""
        normed = yield NormCall(f"{name}.norm", self.norm, x)
        hidden = yield LayerCall(f"{name}.fc1", self.fc1, normed, norm=self.norm)
        hidden = yield ActivationCall(f"{name}.act", hidden)
        return (yield LayerCall(f"{name}.fc2", self.fc2, hidden, residual=x, activation="gelu"))


class TransformerBlock(nn.Module):
    """Window attention, depthwise 3x3 without activation, MLP."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.mlp = Mlp(channels)

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        """(B, H, W, C) to the same shape."""
        x = yield AddCall(f"{name}.attn.add", x, (yield from self.attn.steps(f"{name}.attn", x)))
        x = yield from self.local_conv.steps(f"{name}.local_conv", x)
        return (yield AddCall(f"{name}.mlp.add", x, (yield from self.mlp.steps(f"{name}.mlp", x))))


class Stage(nn.Module):
    """Blocks of one width and the downsampling behind them (None after the last stage)."""

    def __init__(self, index: int, shape: StageShape, next_channels: int | None) -> None:
        super().__init__()
        blocks: list[nn.Module] = [
            InvertedBottleneck(shape.channels)
            if index == 0
            else TransformerBlock(shape.channels, shape.heads, shape.window)
            for _ in range(shape.depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.downsample = (
            None if next_channels is None else Downsample(shape.channels, next_channels, shape.downsample_stride)
        )

    def steps(self, name: str, x: Tensor) -> Steps[Tensor]:
        for index, block in enumerate(self.blocks):
            assert isinstance(block, InvertedBottleneck | TransformerBlock)
            path = f"{name}.blocks.{index}"
            x = yield BlockCall(path, partial(block.steps, path), x, block.window)
        if self.downsample is not None:
            path = f"{name}.downsample"
            x = yield BlockCall(path, partial(self.downsample.steps, path), x, self.downsample.window)
        return x


class ChannelNorm(nn.Module):
    """Parameters of a LayerNorm over the channels of a picture, as in the neck of Segment Anything."""

    eps = 1e-6

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class TinyViT(nn.Module):
    """The image encoder. `steps` takes a float32 picture (B, 256, 256, 3) within [0, 1]."""

    def __init__(self, stages: tuple[StageShape, ...] = LITE_MEDSAM_STAGES) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(stages[0].channels)
        self.layers = nn.ModuleList(
            [
                Stage(index, shape, stages[index + 1].channels if index + 1 < len(stages) else None)
                for index, shape in enumerate(stages)
            ]
        )
        self.neck = nn.Sequential(
            nn.Conv2d(stages[-1].channels, NECK_CHANNELS, 1, bias=False),
            ChannelNorm(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(NECK_CHANNELS),
        )

    def fold_norms(self) -> None:
        """Fold every batch norm into the convolution before it."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()

    def steps(self, x: Tensor, name: str = "image_encoder") -> Steps[Tensor]:
        """(B, H, W, 3) to (B, H/4, W/4, NECK_CHANNELS)."""
        x = yield from self.patch_embed.steps(f"{name}.patch_embed", x)
        for index, stage in enumerate(self.layers):
            assert isinstance(stage, Stage)
            x = yield from stage.steps(f"{name}.layers.{index}", x)
        path = f"{name}.neck"
        return (yield BlockCall(path, partial(neck_steps, self.neck, path), x, 1))

    def forward(self, x: Tensor) -> Tensor:
        """An ordinary forward pass over `steps`."""
        return run(self.steps(x))
