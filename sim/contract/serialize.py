"""Operations of the contract to plain tensors and JSON, and back with every check of their constructors."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.nibbles import pack_nibbles, unpack_nibbles
from sim.contract.positions import Positions
from sim.contract.residual import Residual

Operation: TypeAlias = QuantizedLayer | LayerNorm | ActivationTable | Residual | Depthwise | Attention
"""Everything that an exported encoder consists of."""

KINDS: Final[dict[str, type]] = {
    "dense": QuantizedLayer,
    "layer_norm": LayerNorm,
    "activation": ActivationTable,
    "residual": Residual,
    "depthwise": Depthwise,
    "attention": Attention,
    "encoder": Encoder,
    "static_bias": StaticBias,
    "decomposed_bias": DecomposedBias,
    "positions": Positions,
}
"""Name in the manifest of every class that is stored."""

PARTS: Final[dict[str, tuple[str, ...]]] = {
    "encoder": ("encoder",),
    "q": ("encoder",),
    "k": ("encoder",),
    "v": ("encoder",),
    "position": ("static_bias", "decomposed_bias"),
    "positions": ("positions",),
}
"""Fields that hold a part with fields of its own, and the kinds it may be of."""

OPERATIONS: Final = tuple(kind for kind in KINDS if all(kind not in parts for parts in PARTS.values()))
"""Kinds that stand for themselves."""

_NAMES: Final = {cls: kind for kind, cls in KINDS.items()}


def is_identity(permutation: NDArray[np.uint16]) -> bool:
    """Whether the channels keep their order: then the permutation is not stored."""
    return np.array_equal(permutation, np.arange(permutation.size))


def flatten(name: str, value: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Manifest entry and tensors of an operation (or of a part of one) stored under `name`."""
    entry: dict[str, Any] = {"kind": _NAMES[type(value)]}
    tensors: dict[str, NDArray[Any]] = {}
    for field in fields(value):
        part = getattr(value, field.name)
        key = f"{name}.{field.name}"
        if field.name == "name":
            continue
        if isinstance(value, Encoder) and field.name == "permutation" and is_identity(part):
            continue
        if isinstance(value, QuantizedLayer) and field.name == "weight" and value.weight_planes == 1:
            tensors[f"{key}4"] = pack_nibbles(part)
        elif isinstance(part, np.ndarray):
            tensors[key] = part
        elif is_dataclass(part):
            entry[field.name], nested = flatten(key, part)
            tensors |= nested
        else:
            entry[field.name] = part
    return entry, tensors


def restore(
    name: str, entry: Any, tensors: dict[str, NDArray[Any]], where: str, kinds: tuple[str, ...] = OPERATIONS
) -> Any:
    """The operation (of one of `kinds`) stored under `name`; its tensors are taken out of `tensors`.

    Raises UserError, naming `where`, when a part is missing, unknown or of the wrong kind, and as the constructors do.
    """
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    if kind not in kinds:
        raise UserError(f"{where}: {name} is of unknown kind {str(kind)[:40]!r}; export the model again")
    cls = KINDS[kind]
    unknown = sorted(entry.keys() - {"kind", *(field.name for field in fields(cls) if field.name != "name")})
    if unknown:
        raise UserError(f"{where}: {name} has the unknown entry {unknown[0][:40]!r}; export the model again")
    parts: dict[str, Any] = {}
    for field in fields(cls):
        key = f"{name}.{field.name}"
        if field.name == "name":
            parts["name"] = name
        elif field.name in entry:
            part = entry[field.name]
            nested = PARTS.get(field.name) if isinstance(part, Mapping) else None
            parts[field.name] = part if nested is None else restore(key, part, tensors, where, nested)
        elif key in tensors:
            parts[field.name] = tensors.pop(key)
        elif cls is QuantizedLayer and f"{key}4" in tensors:
            parts[field.name] = _unpacked(tensors.pop(f"{key}4"), parts.get("encoder"), name, where)
        elif cls is not Encoder or field.name != "permutation":
            raise UserError(f"{where}: {name} lacks its {field.name}; export the model again")
    if cls is Encoder and "permutation" not in parts:
        parts["permutation"] = np.arange(_size(parts.get("multiplier"), name, where), dtype=np.uint16)
    try:
        return cls(**parts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: {name} is not described whole ({error}); export the model again") from error


def _size(array: Any, name: str, where: str) -> int:
    if not isinstance(array, np.ndarray):
        raise UserError(f"{where}: {name} lacks its multiplier; export the model again")
    return int(array.size)


def _unpacked(packed: NDArray[Any], encoder: Any, name: str, where: str) -> NDArray[np.int8]:
    inputs = encoder.channels if isinstance(encoder, Encoder) else -1
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != (inputs + 1) // 2:
        raise UserError(f"{where}: {name}.weight4 does not hold {inputs} nibbles per output; export the model again")
    return unpack_nibbles(packed, inputs)
