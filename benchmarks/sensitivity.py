"""Which operations of the image encoder cost how much: the error of the embedding with parts of it quantized.

The energy of the error of the embedding, relative to the energy of the float embedding, on the built-in evaluation
pictures: with one group of operations quantized and all others in float, with all but one group quantized, and with
only weights, only inputs or only attentions quantized. Parts are quantized as they are in the whole model, each layer
fitted behind the quantized ones in front of it, so single figures need not add up to the whole.

These are figures of fake quantization, to compare parts; masks are measured on the integer model
(`python -m quant evaluate`).
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from quant.calibration_pictures import builtin_calibration
from quant.fake_quant import FakeQuant, FakeQuantAttention, FakeQuantLinear, fake_quant_runner
from quant.models.layer_call import Call, LayerCall, run, weight_matrix
from quant.models.promptable import PromptableModel
from quant.models.registry import load_model
from quant.pictures import builtin_evaluation
from quant.quantize import CALIBRATION_PICTURES, quantize_model
from quant.recipe import DEFAULT, PRECISE_WEIGHTS
from sim.picture import Preprocessed, preprocess
from sim.progress import progress_bar
from sim.record import write_json

MODEL: Final = "lite_medsam"

GROUPS: Final = {
    "patch embedding": "*.patch_embed.*",
    "stage 0": "*.layers.0.*",
    "stage 1": "*.layers.1.*",
    "stage 2": "*.layers.2.*",
    "stage 3": "*.layers.3.*",
    "neck": "*.neck.*",
    "qkv": "*.attn.qkv",
    "attention products": "*.attend",
    "attention projection": "*.attn.proj",
    "fc1": "*.mlp.fc1",
    "fc2": "*.mlp.fc2",
}
"""Groups of operations by pattern of their names."""

Handler = Callable[[Call], Tensor]


def _dense_as(compute: Callable[[FakeQuantLinear, LayerCall], Tensor], quantized: Mapping[str, FakeQuant]) -> Handler:
    """Quantized dense layers computed in another way, all else in float."""

    def handler(call: Call) -> Tensor:
        layer = quantized.get(call.name)
        if isinstance(layer, FakeQuantLinear) and isinstance(call, LayerCall):
            return compute(layer, call)
        return call.compute()

    return handler


def weights_only(quantized: Mapping[str, FakeQuant]) -> Handler:
    """Quantized weights on float inputs, attentions in float."""

    def compute(layer: FakeQuantLinear, call: LayerCall) -> Tensor:
        return functional.linear(call.x[..., layer.grid.permutation], layer.weight.dequantized(), layer.bias)

    return _dense_as(compute, quantized)


def inputs_only(quantized: Mapping[str, FakeQuant]) -> Handler:
    """Float weights on quantized inputs, attentions in float."""

    def compute(layer: FakeQuantLinear, call: LayerCall) -> Tensor:
        x = layer.grid.quantize(call.x.reshape(-1, call.x.shape[-1]))
        weight = weight_matrix(call.module)[:, layer.grid.permutation]
        bias: Tensor | None = getattr(call.module, "bias", None)
        return functional.linear(x, weight, bias).view(*call.x.shape[:-1], -1)

    return _dense_as(compute, quantized)


def embedding_error(
    model: PromptableModel, pictures: list[tuple[Preprocessed, Tensor]], handler: Callable[[Call], Tensor]
) -> float:
    """Mean over pictures of the relative energy of the embedding's error."""
    errors = []
    for prepared, wanted in pictures:
        reached = run(model.encoder_steps(prepared), handler)
        errors.append(float((reached - wanted).square().sum() / wanted.square().sum()))
    return sum(errors) / len(errors)


@torch.no_grad()
def measure(seed: int, precise: bool, announce: Callable[[str], None]) -> dict[str, object]:
    """Figures of the default recipe quantized with `seed`; precise: with 8-bit weights."""
    reference, model = load_model(MODEL, None, False, seed), load_model(MODEL, None, False, seed)
    recipe = replace(DEFAULT, byte_weights=PRECISE_WEIGHTS if precise else ())
    found = quantize_model(model, builtin_calibration(seed, CALIBRATION_PICTURES[MODEL]), recipe, announce, seed=seed)
    encoder = {name: one for name, one in found.found.quantized.items() if name.startswith("image_encoder.")}
    prepared = [preprocess(picture.pixels, reference.input_format) for picture in builtin_evaluation()]
    pictures = [(one, run(reference.encoder_steps(one))) for one in prepared]

    def error(handler: Callable[[Call], Tensor], label: str) -> float:
        announce(label)
        return embedding_error(model, pictures, handler)

    attentions = {name: one for name, one in encoder.items() if isinstance(one, FakeQuantAttention)}
    figures: dict[str, object] = {
        "seed": seed,
        "precise": precise,
        "all": error(fake_quant_runner(encoder), "all"),
        "weights only": error(weights_only(encoder), "weights only"),
        "inputs only": error(inputs_only(encoder), "inputs only"),
        "attentions only": error(fake_quant_runner(attentions), "attentions only"),
    }
    groups = {}
    for label, pattern in GROUPS.items():
        inside = {name: one for name, one in encoder.items() if fnmatchcase(name, pattern)}
        outside = {name: one for name, one in encoder.items() if name not in inside}
        groups[label] = {
            "operations": len(inside),
            "only": error(fake_quant_runner(inside), f"only {label}"),
            "all but": error(fake_quant_runner(outside), f"all but {label}"),
        }
    return {**figures, "groups": groups}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sensitivity",
        description="How much of the embedding's error each part of the quantized LiteMedSAM encoder makes.",
        epilog="example: python -m benchmarks.sensitivity --seed 1 --json out/sensitivity.json  (about 10 minutes)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of calibration (%(default)s)")
    parser.add_argument("--precise", action="store_true", help="with 8-bit weights")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    with progress_bar(None, "step") as announce:
        figures = measure(arguments.seed, arguments.precise, announce)
    write_json(arguments.json, figures)
    for key in ("all", "weights only", "inputs only", "attentions only"):
        print(f"{key:22} {figures[key]:.4f}")
    groups = figures["groups"]
    assert isinstance(groups, dict)
    for label, group in groups.items():
        print(
            f"{label:22} only {group['only']:.4f}   all but {group['all but']:.4f}   ({group['operations']} operations)"
        )


if __name__ == "__main__":
    main()
