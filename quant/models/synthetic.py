"""Seeded random weights that are as hard to quantize as trained ones.

They let every part of the tool chain run without a checkpoint. Nothing about mask quality can be learnt from
them. What is imitated of a trained Segment Anything:

* LayerNorm gains: near 1, but 3 % of the channels (at least three) 10 to 50 times as large. The weights behind
  lean away from those channels, so that the function does not rest on them alone.
* Dense weights: singular values fall geometrically, the condition number is 200 to 500, and a fifth of the singular
  directions holds nine tenths of the energy.
* Keys: a bias per channel of either sign and 3 to 5 standard deviations, so that the values of a key tensor have two
  peaks. Softmax does not see it: it adds the same to all logits of a row.
* Tables of relative positions and absolute positions are not zero; the inputs of GELU are shifted below zero.
"""

import hashlib
import math
from typing import Final

import torch
from torch import Tensor, nn

from quant.models.layer_call import weight_matrix

OUTLIER_SHARE: Final = 0.03
OUTLIER_GAIN: Final = (10.0, 50.0)
CONDITION: Final = (200.0, 500.0)
KEY_BIAS: Final = (3.0, 5.0)
QUERY_SPREAD: Final = 1.3
"""Standard deviation of queries and keys at 64 channels per head: logits of a spread near 2, a row of softmax that
is neither flat nor a single one."""
BRANCH_SPREAD: Final = 0.4
"""Standard deviation of what a block adds to the stream."""
POSITION_SPREAD: Final = {"pos_embed": 0.3, "rel_pos_h": 0.1, "rel_pos_w": 0.1}
GELU_SHIFT: Final = -0.5


def _generator(seed: int, name: str) -> torch.Generator:
    """A generator of its own for each tensor, so that weights do not depend on the order they are drawn in."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _between(limits: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers within the limits, evenly distributed on a logarithmic scale."""
    low, high = map(math.log, limits)
    return torch.exp(low + (high - low) * torch.rand(count, generator=generator))


def outlier_gain(channels: int, generator: torch.Generator) -> Tensor:
    """Gain of a LayerNorm float32 (channels,): near 1, a few channels 10 to 50 times as large."""
    gain = torch.exp(0.2 * torch.randn(channels, generator=generator))
    count = max(3, round(OUTLIER_SHARE * channels))
    place = torch.randperm(channels, generator=generator)[:count]
    gain[place] = _between(OUTLIER_GAIN, count, generator)
    return gain


def spectral_matrix(outputs: int, gain: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Weight float32 (outputs, inputs) with geometric singular values and a condition number within CONDITION.

    gain: float32 (inputs,), standard deviation of the inputs. The outputs get a root mean square of `spread`. The
    first right singular vectors are drawn small where the gain is large; what is left for the last, small singular
    values are the outlier channels.
    """
    inputs = gain.numel()
    rank = min(outputs, inputs)
    left = torch.linalg.qr(torch.randn(outputs, rank, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(inputs, rank, generator=generator) / gain[:, None]).Q
    condition = float(_between(CONDITION, 1, generator))
    values = condition ** -(torch.arange(rank) / max(rank - 1, 1))
    weight = (left * values) @ right.T
    return weight * (spread / (weight * gain).square().sum(dim=1).mean().sqrt())


def _bimodal(channels: int, spread: float, generator: torch.Generator) -> Tensor:
    """Bias of keys float32 (channels,), either sign, 3 to 5 times `spread`."""
    sign = 1.0 - 2.0 * torch.randint(2, (channels,), generator=generator)
    return sign * spread * _between(KEY_BIAS, channels, generator)


def _spread_of(name: str) -> float:
    """Standard deviation wanted of the outputs of the layer `name`."""
    last = name.rpartition(".")[2]
    if last in ("qkv", "q_proj", "k_proj"):
        return QUERY_SPREAD
    return BRANCH_SPREAD if last in ("proj", "out_proj", "lin2") and "patch_embed" not in name else 1.0


def _dense(name: str, module: nn.Linear | nn.Conv2d, gain: Tensor, seed: int) -> dict[str, Tensor]:
    """Weight and bias of a dense layer. gain: float32 (K,), standard deviation of its inputs."""
    generator = _generator(seed, name)
    outputs, spread = module.weight.shape[0], _spread_of(name)
    matrix = spectral_matrix(outputs, gain, spread, generator)
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        matrix = matrix.view(outputs, height, width, -1).permute(0, 3, 1, 2).contiguous()
    state = {f"{name}.weight": matrix}
    if module.bias is not None:
        bias = 0.2 * spread * torch.randn(outputs, generator=generator)
        if name.endswith(".qkv"):
            third = outputs // 3
            bias[third : 2 * third] = _bimodal(third, spread, generator)
        elif name.endswith(".k_proj"):
            bias = _bimodal(outputs, spread, generator)
        elif name.endswith(".lin1"):
            bias += GELU_SHIFT
        state[f"{name}.bias"] = bias
    return state


def synthetic_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A whole state dict float32 for a Segment Anything model with a ViT encoder; equal seeds give equal weights."""
    state: dict[str, Tensor] = {}
    gains: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(weight, Tensor) and weight.ndim == 1:  # LayerNorm, LayerNorm2d
            generator, channels = _generator(seed, name), weight.numel()
            in_block = name.startswith("image_encoder.blocks.")
            gains[name] = (
                outlier_gain(channels, generator)
                if in_block
                else torch.exp(0.2 * torch.randn(channels, generator=generator))
            )
            state[f"{name}.weight"] = gains[name]
            state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)
        elif isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            block = name.rpartition(".")[0].rpartition(".")[0]
            norm = {"qkv": f"{block}.norm1", "lin1": f"{block}.norm2"}.get(name.rpartition(".")[2], "")
            ones = torch.ones(weight_matrix(module).shape[1])
            in_block = name.startswith("image_encoder.blocks.")
            state |= _dense(name, module, gains.get(norm, ones) if in_block else ones, seed)
        elif isinstance(weight, Tensor):  # transposed convolutions, embeddings
            generator = _generator(seed, name)
            fan_in = weight.shape[0] if weight.ndim == 4 else 4
            state[f"{name}.weight"] = torch.randn(weight.shape, generator=generator) / math.sqrt(fan_in)
            if isinstance(bias, Tensor):
                state[f"{name}.bias"] = 0.1 * torch.randn(bias.shape, generator=generator)
    for name, tensor in model.state_dict().items():
        if name not in state:  # positions: absolute, relative, and the frequencies of those of prompts
            spread = POSITION_SPREAD.get(name.rpartition(".")[2], 1.0)
            state[name] = spread * torch.randn(tensor.shape, generator=_generator(seed, name))
    return state
