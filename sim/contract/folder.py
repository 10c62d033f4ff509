"""The model folder: `model.safetensors` and `manifest.json`, checked before anything in it is believed."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sim.contract import constants
from sim.contract.codebook import check_levels
from sim.contract.errors import UserError
from sim.contract.linear import QuantizedLinear, expand_planes
from sim.contract.nibbles import pack_nibbles, unpack_nibbles

FORMAT: Final = "nibblesam-model"
SCHEMA_VERSION: Final = 1
TENSOR_FILE: Final = "model.safetensors"
MANIFEST_FILE: Final = "manifest.json"
CONTRACT: Final = {
    "tile_channels": constants.TILE_CHANNELS,
    "scale_fraction_bits": constants.SCALE_FRACTION_BITS,
    "bias_fraction_bits": constants.BIAS_FRACTION_BITS,
    "accumulator_bits": constants.ACCUMULATOR_BITS,
    "wide_bits": constants.WIDE_BITS,
}
"""The constants a folder was made for; a reader with other constants refuses it."""

LAYER_KINDS: Final = ("linear", "conv1x1", "conv3x3")


@dataclass(frozen=True)
class ModelFolder:
    """An exported model in memory.

    layers: quantized layers by state-dict name. kinds: per layer one of LAYER_KINDS. tensors: what is not a
    quantized layer, by state-dict name, float32 (weight-only 8-bit tensors are already multiplied out).
    manifest: the parsed manifest. size_bytes: both files together.
    """

    layers: dict[str, QuantizedLinear]
    kinds: dict[str, str]
    tensors: dict[str, NDArray[np.float32]]
    manifest: dict[str, Any]
    size_bytes: int = field(default=0)


def quantize_weight_only(
    tensor: NDArray[np.float32], channel_axis: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """8-bit storage of a float tensor: int8 of the same shape, and float32 scales per index of `channel_axis`.

    Scales keep all axes (size 1 but for the channel's), so `int8 * scale` is the tensor that the model uses.
    """
    axes = tuple(axis for axis in range(tensor.ndim) if axis != channel_axis)
    scale = np.maximum(np.abs(tensor).max(axis=axes, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    return np.rint(tensor / scale).clip(-127, 127).astype(np.int8), scale.astype(np.float32)


def _narrow(values: NDArray[np.float32]) -> NDArray[Any]:
    """The values as float16 where that keeps every one of them, else as they are."""
    limit = np.finfo(np.float16).max
    narrow = values.clip(-limit, limit).astype(np.float16)
    return narrow if np.array_equal(narrow, values) else values


def _manifest_text(document: Mapping[str, Any]) -> str:
    """JSON with one line per entry, and one per layer."""
    layers = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in document["layers"].items())
    entries = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items() if key != "layers"]
    return "{\n" + ",\n".join([*entries, ' "layers": {\n' + layers + "\n }"]) + "\n}\n"


def _codebook_names(layers: Mapping[str, QuantizedLinear]) -> dict[bytes, str]:
    """A short name for each distinct codebook of the model."""
    names: dict[bytes, str] = {}
    for layer in layers.values():
        for levels in layer.codebooks:
            names.setdefault(levels.tobytes(), f"codebook{len(names)}")
    return names


def write_folder(
    path: Path,
    layers: Mapping[str, QuantizedLinear],
    kinds: Mapping[str, str],
    tensors: Mapping[str, NDArray[np.generic]],
    manifest: Mapping[str, Any],
) -> None:
    """Write a model folder whole or not at all.

    `tensors` are stored under the given keys: `float.NAME` (float32 or float16), or the pair `int8.NAME` and
    `int8.NAME.scale` of `quantize_weight_only`. `manifest` gives `model`, `bits`, `source`, `created` and
    `architecture`; format, schema, contract, codebooks, layers and the hash of the tensors are added here.
    An existing folder is replaced only if it is a model folder. Raises UserError when it is not, or when the
    place cannot be written.
    """
    if path.exists() and not (path.is_dir() and ((path / MANIFEST_FILE).exists() or not any(path.iterdir()))):
        raise UserError(f"{path} exists and is not a model folder; name another folder or move it away")
    names = _codebook_names(layers)
    stored: dict[str, NDArray[Any]] = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    layer_entries: dict[str, Any] = {}
    for name, layer in layers.items():
        # Of a pair of planes only the low one is stored: it tells the high one.
        slices = [positions for _, positions in layer.tile_slices()][layer.planes - 1 :: layer.planes]
        kept = np.concatenate([np.arange(positions.start, positions.stop) for positions in slices])
        stored[f"{name}.weight"] = pack_nibbles(layer.weight[:, kept])
        stored[f"{name}.scale"] = layer.scale[layer.planes - 1 :: layer.planes]
        stored[f"{name}.bias"] = layer.bias
        stored[f"{name}.permutation"] = layer.permutation[kept]
        stored[f"{name}.activation_scale"] = layer.activation_scale[layer.planes - 1 :: layer.planes]
        stored[f"{name}.activation_offset"] = _narrow(layer.activation_offset[kept])
        layer_entries[name] = {
            "kind": kinds[name],
            "in_features": layer.channels,
            "out_features": layer.out_features,
            "planes": layer.planes,
            "codebooks": [names[levels.tobytes()] for levels in layer.codebooks],
            "wide_exponent": layer.wide_exponent,
        }
    blob = save({key: np.ascontiguousarray(value) for key, value in stored.items()})
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "tensors_sha256": hashlib.sha256(blob).hexdigest(),
        "contract": CONTRACT,
        "codebooks": {name: np.frombuffer(raw, np.int8).tolist() for raw, name in names.items()},
        "layers": layer_entries,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            (fresh / TENSOR_FILE).write_bytes(blob)
            (fresh / MANIFEST_FILE).write_text(_manifest_text(document))
            if path.exists():
                os.replace(path, Path(scratch) / "old")
            os.replace(fresh, path)
    except OSError as error:
        raise UserError(f"cannot write the model folder {path}: {error.strerror}; choose a writable place") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; export the model again with `python -m quant quantize`") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); export the model again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path} is not a {FORMAT} manifest; name the folder that `python -m quant quantize` wrote")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {manifest.get('schema_version')!r}, this program reads {SCHEMA_VERSION}; "
            "export the model again with this version"
        )
    if manifest.get("contract") != CONTRACT:
        raise UserError(f"{path} was made for other contract constants {manifest.get('contract')}; export again")
    for key in ("layers", "codebooks", "architecture", "source", "tensors_sha256", "model", "bits"):
        if key not in manifest:
            raise UserError(f"{path} lacks the entry {key!r}; export the model again")
    return manifest


def _take(tensors: dict[str, NDArray[Any]], key: str, path: Path) -> NDArray[Any]:
    if key not in tensors:
        raise UserError(f"{path} lacks the tensor {key}; export the model again")
    return tensors.pop(key)


def _read_layer(
    name: str, entry: dict[str, Any], codebooks: dict[str, Any], tensors: dict[str, Any], path: Path
) -> QuantizedLinear:
    try:
        inputs, outputs, exponent = int(entry["in_features"]), int(entry["out_features"]), int(entry["wide_exponent"])
        levels = np.stack([check_levels(codebooks[key], f"codebook {key}") for key in entry["codebooks"]])
        kind, planes = entry["kind"], entry["planes"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path.parent / MANIFEST_FILE}: layer {name} is not described whole ({error!r})") from error
    if kind not in LAYER_KINDS:
        raise UserError(f"{path.parent / MANIFEST_FILE}: layer {name} is of unknown kind {kind!r}")
    if planes not in (1, 2):
        raise UserError(f"{path.parent / MANIFEST_FILE}: layer {name} has {planes!r} planes, 1 or 2 are possible")
    packed = _take(tensors, f"{name}.weight", path)
    if packed.dtype != np.uint8 or packed.shape != (outputs, (inputs + 1) // 2):
        raise UserError(f"{path}: {name}.weight is {packed.dtype} {packed.shape}, not {outputs} x {inputs} nibbles")
    parts: dict[str, Any] = {
        "name": name,
        "weight": unpack_nibbles(packed, inputs),
        "scale": _take(tensors, f"{name}.scale", path),
        "bias": _take(tensors, f"{name}.bias", path),
        "wide_exponent": exponent,
        "permutation": _take(tensors, f"{name}.permutation", path),
        "activation_scale": _take(tensors, f"{name}.activation_scale", path),
        "activation_offset": _take(tensors, f"{name}.activation_offset", path).astype(np.float32),
    }
    layer = QuantizedLinear(codebooks=levels[planes - 1 :: planes], **parts)
    return layer if planes == 1 else expand_planes(**parts)


def _read_other_tensors(tensors: dict[str, NDArray[Any]], path: Path) -> dict[str, NDArray[np.float32]]:
    """The `float.` and `int8.` tensors as float32; refuses anything else and anything not finite."""
    result: dict[str, NDArray[np.float32]] = {}
    for key in sorted(key for key in tensors if not (key.startswith("int8.") and key.endswith(".scale"))):
        space, _, name = key.partition(".")
        value = tensors[key]
        if space == "int8" and value.dtype == np.int8:
            scale = tensors.get(f"{key}.scale")
            if scale is None or scale.dtype != np.float32:
                raise UserError(f"{path} lacks the scale of {key}; export the model again")
            result[name] = (value.astype(np.float32) * scale).astype(np.float32)
        elif space == "float" and value.dtype in (np.float32, np.float16):
            result[name] = value.astype(np.float32)
        else:
            raise UserError(f"{path} holds the unknown tensor {key} ({value.dtype}); export the model again")
        if not np.isfinite(result[name]).all():
            raise UserError(f"{path}: tensor {key} holds a value that is not finite; export the model again")
    return result


def read_folder(path: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises UserError when a file is missing, truncated or altered, the schema or the contract is another one,
    or any shape, range or scale is off.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; name the folder that `python -m quant quantize` wrote")
    manifest = _read_manifest(path / MANIFEST_FILE)
    tensor_path = path / TENSOR_FILE
    blob = _read_bytes(tensor_path)
    try:
        tensors: dict[str, NDArray[Any]] = load(blob)
    except SafetensorError as error:
        raise UserError(f"{tensor_path} is damaged ({error}); export the model again") from error
    if hashlib.sha256(blob).hexdigest() != manifest["tensors_sha256"]:
        raise UserError(f"{tensor_path} does not match the hash in {MANIFEST_FILE}; export the model again")
    if not isinstance(manifest["layers"], dict) or not isinstance(manifest["codebooks"], dict):
        raise UserError(f"{path / MANIFEST_FILE}: layers and codebooks must be objects; export the model again")
    layers = {
        name: _read_layer(name, entry, manifest["codebooks"], tensors, tensor_path)
        for name, entry in manifest["layers"].items()
    }
    return ModelFolder(
        layers=layers,
        kinds={name: entry["kind"] for name, entry in manifest["layers"].items()},
        tensors=_read_other_tensors(tensors, tensor_path),
        manifest=manifest,
        size_bytes=len(blob) + (path / MANIFEST_FILE).stat().st_size,
    )
