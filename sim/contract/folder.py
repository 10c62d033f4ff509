"""The model folder: `model.safetensors` and `manifest.json`, checked before anything in it is believed."""

import hashlib
import json
import os
import shutil
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
from sim.contract.encoder import ENCODER_INDICES
from sim.contract.errors import UserError
from sim.contract.layer_norm import NORM_FRACTION_BITS
from sim.contract.packing import pack, unpack
from sim.contract.serialize import Operation, flatten, restore
from sim.contract.softmax import LOG_FRACTION_BITS

FORMAT: Final = "nibblesam-model"
SCHEMA_VERSION: Final = 3
TENSOR_FILE: Final = "model.safetensors"
MANIFEST_FILE: Final = "manifest.json"
CONTRACT: Final = {
    "tile_channels": constants.TILE_CHANNELS,
    "scale_fraction_bits": constants.SCALE_FRACTION_BITS,
    "bias_fraction_bits": constants.BIAS_FRACTION_BITS,
    "accumulator_bits": constants.ACCUMULATOR_BITS,
    "wide_bits": constants.WIDE_BITS,
    "encoder_indices": ENCODER_INDICES,
    "norm_fraction_bits": NORM_FRACTION_BITS,
    "log_fraction_bits": LOG_FRACTION_BITS,
}
"""The constants a folder was made for; a reader with other constants refuses it."""


@dataclass(frozen=True)
class ModelFolder:
    """An exported model in memory.

    operations: integer operations by name, in network order. tensors: what is no operation, by state-dict name,
    float32 (weight-only 8-bit tensors are already multiplied out). manifest: the parsed manifest. size_bytes: both
    files together.
    """

    operations: dict[str, Operation]
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


def _manifest_text(document: Mapping[str, Any]) -> str:
    """JSON with one line per entry, and one per packed tensor and operation."""

    def lines(value: Mapping[str, Any]) -> str:
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()) + "\n }"

    entries = (
        f" {json.dumps(key)}: {lines(value) if key in ('packed', 'operations') else json.dumps(value)}"
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(entries) + "\n}\n"


def write_folder(
    path: Path,
    operations: Mapping[str, Operation],
    tensors: Mapping[str, NDArray[np.generic]],
    manifest: Mapping[str, Any],
) -> None:
    """Write a model folder whole or not at all.

    `tensors` are stored under the given keys: `float.NAME` (float32 or float16), or the pair `int8.NAME` and
    `int8.NAME.scale` of `quantize_weight_only`. `manifest` gives `model`, `bits`, `source`, `created` and
    `architecture`; format, schema, contract, operations, what is packed and the hash of the tensors are added here.
    An existing folder is replaced only if it is a model folder; whoever is killed while the two change places leaves
    the old one as `PATH.old`. Raises UserError when the place is taken by something else, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and ((path / MANIFEST_FILE).exists() or not any(path.iterdir()))):
        raise UserError(f"{path} exists and is not a model folder; name another folder or move it away")
    plain: dict[str, NDArray[Any]] = dict(tensors)
    entries: dict[str, Any] = {}
    for name, operation in operations.items():
        entries[name], parts = flatten(name, operation)
        plain |= parts
    stored, packed = pack(plain)
    blob = save({key: np.ascontiguousarray(value) for key, value in stored.items()})
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **manifest,
        "tensors_sha256": hashlib.sha256(blob).hexdigest(),
        "contract": CONTRACT,
        "packed": packed,
        "operations": entries,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            (fresh / TENSOR_FILE).write_bytes(blob)
            (fresh / MANIFEST_FILE).write_text(_manifest_text(document))
            # A folder cannot be exchanged in one step: the old model stays beside the place until the new one is in it.
            old = _previous(path)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(path, old)
            os.replace(fresh, path)
            shutil.rmtree(old, ignore_errors=True)
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
    except (ValueError, RecursionError) as error:
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
    for key in ("operations", "packed", "architecture", "source", "tensors_sha256", "model", "bits"):
        if key not in manifest:
            raise UserError(f"{path} lacks the entry {key!r}; export the model again")
    return manifest


def _scales_axes(scale: NDArray[Any], value: NDArray[Any]) -> bool:
    """Whether every axis of the scale is 1 or that of the tensor."""
    pairs = zip(scale.shape, value.shape, strict=False)
    return scale.ndim == value.ndim and all(one in (1, other) for one, other in pairs)


def _read_other_tensors(tensors: dict[str, NDArray[Any]], path: Path) -> dict[str, NDArray[np.float32]]:
    """The `float.` and `int8.` tensors as float32; refuses anything else and anything not finite."""
    result: dict[str, NDArray[np.float32]] = {}
    scales = {f"{key}.scale" for key in tensors if key.startswith("int8.")} & tensors.keys()
    for key in sorted(tensors.keys() - scales):
        space, _, name = key.partition(".")
        value = tensors[key]
        if name in result:
            raise UserError(f"{path} holds {name} twice; export the model again")
        if space == "int8" and value.dtype == np.int8:
            scale = tensors.get(f"{key}.scale")
            if scale is None or scale.dtype != np.float32 or not _scales_axes(scale, value):
                raise UserError(f"{path} lacks a float32 scale that fits {key}; export the model again")
            with np.errstate(over="ignore", invalid="ignore"):
                result[name] = (value.astype(np.float32) * scale).astype(np.float32)
        elif space == "float" and value.dtype in (np.float32, np.float16):
            result[name] = value.astype(np.float32)
        else:
            raise UserError(f"{path} holds the unknown tensor {key} ({value.dtype}); export the model again")
        if not np.isfinite(result[name]).all():
            raise UserError(f"{path}: tensor {key} holds a value that is not finite; export the model again")
    return result


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def read_folder(path: Path) -> ModelFolder:
    """Read and check a model folder.

    Raises UserError when a file is missing, truncated or altered, the schema or the contract is another one,
    or any shape, range or scale is off.
    """
    if not path.exists() and _previous(path).is_dir():
        raise UserError(f"{path} was being replaced when its writer ended; rename {_previous(path)} to {path}")
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; name the folder that `python -m quant quantize` wrote")
    manifest = _read_manifest(path / MANIFEST_FILE)
    tensor_path = path / TENSOR_FILE
    blob = _read_bytes(tensor_path)
    try:
        tensors: dict[str, NDArray[Any]] = load(blob)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that numpy lacks
        raise UserError(f"{tensor_path} is damaged ({error}); export the model again") from error
    if hashlib.sha256(blob).hexdigest() != manifest["tensors_sha256"]:
        raise UserError(f"{tensor_path} does not match the hash in {MANIFEST_FILE}; export the model again")
    if not isinstance(manifest["operations"], dict):
        raise UserError(f"{path / MANIFEST_FILE}: operations must be an object; export the model again")
    tensors = unpack(tensors, manifest["packed"], str(tensor_path))
    operations = {name: restore(name, entry, tensors, str(path)) for name, entry in manifest["operations"].items()}
    return ModelFolder(
        operations=operations,
        tensors=_read_other_tensors(tensors, tensor_path),
        manifest=manifest,
        size_bytes=len(blob) + (path / MANIFEST_FILE).stat().st_size,
    )
