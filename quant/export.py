"""What calibration found, and the float remainder, to a model folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quant.assemble import Assembly, stored_positions
from quant.calibrate import Calibration
from quant.integers import round_depthwise
from quant.models.layer_call import AttentionCall
from quant.models.lite_medsam import LiteMedSam
from quant.models.promptable import DECODER_DEPTH, DECODER_HEADS, PromptableModel
from quant.models.sam import PATCH_SIDE, SamVit
from quant.models.tiny_vit import LITE_MEDSAM_STAGES
from sim.contract.folder import quantize_weight_only, write_folder
from sim.contract.serialize import Operation
from sim.golden.architecture import ENCODER, Architecture
from sim.golden.mask_decoder import decode_mask
from sim.golden.prompt_encoder import encode_prompt
from sim.golden.rehearsal import blank
from sim.record import write_json

REPORT_FILE: Final = "quantization.json"
"""Beside the model: what calibration did, for `python -m quant inspect`."""

WEIGHT_ONLY_8_BIT: Final = (
    "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.output_upscaling.3.weight",
    "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight",
)
"""Parameters stored as int8 with one scale per output channel."""

NOT_EXPORTED: Final = (
    *(f"mask_decoder.output_hypernetworks_mlps.{index}." for index in (1, 2, 3)),
    "prompt_encoder.mask_downscaling.",
    "prompt_encoder.point_embeddings.0.",
    "prompt_encoder.point_embeddings.1.",
    "prompt_encoder.not_a_point_embed.",
)
"""What a box prompt with one mask never uses: heads of the other mask tokens, mask and point prompts."""

FULL_PRECISION: Final = ("prompt_encoder.pe_layer.",)
"""Stored as float32, the rest as float16: frequencies that are multiplied by 2 pi."""

POSITIONS: Final = f"{ENCODER}.pos_embed"
"""The one tensor that the encoder adds."""

INPUT_EXPONENTS: Final = {"min_max": -14, "mean_std": -13}
"""Of the encoder's input: pixels within [0, 1], or within three standard deviations."""


def channel_axis(name: str) -> int:
    """Axis of the output channels of a weight stored in 8 bits: 1 for transposed convolutions, else 0."""
    return 1 if ".output_upscaling." in name else 0


def _stored(name: str, array: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What the folder stores for a float parameter: `float.NAME`, or `int8.NAME` and its scale."""
    if name in WEIGHT_ONLY_8_BIT:
        integers, scale = quantize_weight_only(array, channel_axis(name))
        return {f"int8.{name}": integers, f"int8.{name}.scale": scale}
    return {f"float.{name}": array if name.startswith(FULL_PRECISION) else array.astype(np.float16)}


def _stays_float(name: str, owner: nn.Module) -> bool:
    """Whether a parameter of the prompt encoder or mask decoder is computed with in float."""
    return not name.startswith((f"{ENCODER}.", *NOT_EXPORTED)) and not is_dense(name.rpartition(".")[0], owner)


def is_dense(name: str, module: nn.Module) -> bool:
    """Whether the layer `name` is quantized: all linear layers and dense convolutions but the upscaling, the last
    layers of the decoder's heads, and what a box prompt with one mask does not use."""
    if name.startswith((*NOT_EXPORTED, "prompt_encoder.")) or f"{name}.weight" in WEIGHT_ONLY_8_BIT:
        return False
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def quantized_names(model: PromptableModel) -> list[str]:
    """Names of the dense layers and attentions that calibration quantizes."""
    names = [name for name, module in model.named_modules() if is_dense(name, module)]
    attentions = [*model.encoder_attention(), *model.decoder_attention()]
    return names + [f"{one.name}.attend" for one in attentions]


def round_stored_weights(model: PromptableModel) -> None:
    """Round what is not quantized by calibration to what the folder keeps of it, in place.

    Calibration then sees the model that will be read back: float parameters of the decoder in 16 or 8 bits, depthwise
    weights and absolute positions in 8.
    """
    for name, parameter in model.named_parameters():
        if _stays_float(name, model.get_submodule(name.rpartition(".")[0])):
            stored = list(_stored(name, parameter.detach().numpy()).values())
            value = stored[0].astype(np.float32)
            parameter.data = torch.from_numpy(value * stored[1] if len(stored) == 2 else value)
        elif name == POSITIONS:
            positions, exponent = stored_positions(name, parameter.detach().numpy())
            parameter.data = torch.from_numpy(positions.at(exponent).real()[None])
    for module in model.image_encoder.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            round_depthwise(module)


def architecture(model: PromptableModel) -> dict[str, Any]:
    """The numbers that the golden model needs to run the network."""
    encoder: dict[str, Any]
    if isinstance(model, LiteMedSam):
        shapes = [
            {
                "depth": stage.depth,
                "heads": stage.heads,
                "window": stage.window,
                "downsample_stride": stage.downsample_stride,
            }
            for stage in LITE_MEDSAM_STAGES
        ]
        encoder = {"kind": "tiny_vit", "stages": shapes}
    else:
        assert isinstance(model, SamVit)
        shape = model.shape
        encoder = {
            "kind": "sam_vit",
            "depth": shape.depth,
            "heads": shape.heads,
            "window": shape.window,
            "global_blocks": list(shape.global_blocks),
            "patch": PATCH_SIDE,
        }
    form = model.input_format
    return {
        "input": {
            "side": form.side,
            "normalisation": form.normalisation,
            "exponent": INPUT_EXPONENTS[form.normalisation],
        },
        "encoder": encoder,
        "decoder": {"depth": DECODER_DEPTH, "heads": DECODER_HEADS},
        "layer_norm_epsilon": {"transformer": 1e-5, "channels_first": 1e-6},
    }


def remaining_tensors(model: PromptableModel) -> dict[str, NDArray[Any]]:
    """Everything the folder stores beside operations: `float.NAME`, or `int8.NAME` with its scale."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        if _stays_float(name, model.get_submodule(name.rpartition(".")[0])):
            tensors |= _stored(name, value.detach().numpy().astype(np.float32))
    return tensors


@dataclass(frozen=True)
class Calibrated:
    """A model whose calibration is done. attentions: a call of every attention."""

    model: PromptableModel
    found: Calibration
    attentions: Mapping[str, AttentionCall]


def integer_operations(calibrated: Calibrated) -> dict[str, Operation]:
    """All operations of encoder and decoder in integer form, in network order."""
    model = calibrated.model
    shape = Architecture.from_manifest({"architecture": architecture(model)})
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    assembly = Assembly(
        tensors=tensors, model=model, found=calibrated.found, attentions=calibrated.attentions, operations={}
    )
    side = shape.input_format.side
    embedding = shape.encode(blank((side, side, 3), shape.input_exponent), assembly)
    box = np.array([0, 0, side, side], np.float32)
    prompt = encode_prompt(box, side, embedding.values.shape[:2], assembly)
    decode_mask(embedding.real(), prompt, shape.decoder, assembly)
    return assembly.operations


def write_model(
    folder: Path, calibrated: Calibrated, description: Mapping[str, Any], operations: Mapping[str, Operation]
) -> None:
    """Write the model folder and the report. description: model, bits, source and created of the manifest.

    Raises UserError when the place cannot be written.
    """
    model = calibrated.model
    manifest = {**description, "architecture": architecture(model)}
    write_folder(folder, operations, remaining_tensors(model), manifest)
    reports = {name: report.described() for name, report in calibrated.found.reports.items()}
    write_json(folder / REPORT_FILE, {"model": description["model"], "layers": reports})


def report_of(folder: Path) -> dict[str, Any] | None:
    """The report beside a model, or None where there is none."""
    path = folder / REPORT_FILE
    result: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return result
