from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.depthwise import Depthwise
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.positions import Positions
from sim.contract.residual import Residual
from sim.contract.serialize import KINDS, OPERATIONS, Operation, flatten, restore


def encoder(channels: int, *, ordered: bool = False) -> Encoder:
    rng = np.random.default_rng(channels)
    order = np.arange(channels) if ordered else rng.permutation(channels)
    return Encoder(
        name="any",
        input_exponent=-7,
        permutation=order.astype(np.uint16),
        multiplier=rng.integers(-900, 900, channels).astype(np.int16),
        addend=rng.integers(0, 1 << 20, channels).astype(np.int32),
        shift=np.full(-(-channels // 64), 9, np.uint8),
        levels=np.arange(-8, 8).astype(np.int8)[None],
    )


def dense(weight_planes: int) -> QuantizedLayer:
    rng = np.random.default_rng(weight_planes)
    limit = (-8, 8) if weight_planes == 1 else (-128, 120)
    return QuantizedLayer(
        name="fc",
        encoder=encoder(67),
        weight=rng.integers(*limit, (5, 67)).astype(np.int8),
        scale=rng.integers(0, 4096, (2, 5)).astype(np.uint16),
        bias=rng.integers(-1000, 1000, 5).astype(np.int32),
        wide_exponent=-9,
        weight_planes=weight_planes,
    )


def attention(position: StaticBias | DecomposedBias | None) -> Attention:
    part = encoder(6, ordered=True)
    return Attention(
        name="attend",
        heads=2,
        q=part,
        k=part,
        v=part,
        logit_scale=np.array([3, 4], np.uint16),
        thresholds=np.arange(15, 0, -1).astype(np.int32),
        score_levels=np.arange(16).astype(np.uint16),
        scale=np.arange(6).astype(np.uint16),
        bias=np.arange(-3, 3).astype(np.int32),
        wide_exponent=-8,
        position=position,
    )


def decomposed() -> DecomposedBias:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(-128, 120, (2, 2 * side - 1, 3)).astype(np.int8) for side in (3, 4))
    scale = np.array([5, 6], np.uint16)
    return DecomposedBias(rows, columns, scale, scale + np.uint16(1), 3, 4)


def positions() -> Positions:
    rng = np.random.default_rng(3)
    return Positions("any", rng.integers(-128, 128, (2, 3, 4)).astype(np.int8), np.array([0, 1, 8, 3], np.uint8))


EXAMPLES: dict[str, Operation] = {
    "dense": dense(1),
    "dense of bytes": dense(2),
    "layer_norm": LayerNorm("norm", -8, -9, 1 << 50, np.arange(4).astype(np.int16), np.arange(4).astype(np.int32), 7),
    "activation": ActivationTable("act", -8, -9, np.arange(1025).astype(np.int16), 3),
    "residual": Residual("add", -3, -4, -5),
    "residual of positions": Residual("add", -3, -4, -5, positions()),
    "depthwise": Depthwise(
        "conv", -8, -9, 2, np.ones((2, 3, 3), np.int8), np.ones(2, np.uint16), np.array([1 << 40, -5]), 3
    ),
    "attention": attention(None),
    "static attention": attention(StaticBias(np.arange(18).reshape(2, 9).astype(np.int16), 3)),
    "decomposed attention": attention(decomposed()),
}
WHERE = "model"


def assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    for field in fields(wanted):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif is_dataclass(other):
            assert_same(one, other)
        elif field.name != "name":
            assert (type(one), one) == (type(other), other)


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_flattened_is_restored_bit_for_bit(example: str) -> None:
    operation = EXAMPLES[example]
    entry, tensors = flatten("block.fc", operation)
    assert all(key.startswith("block.fc.") and isinstance(value, np.ndarray) for key, value in tensors.items())
    found = restore("block.fc", entry, tensors, WHERE)
    assert_same(found, operation)
    assert found.name == "block.fc" and not tensors, "every tensor is taken"


def test_every_operation_has_an_example() -> None:
    kinds = {flatten("x", operation)[0]["kind"] for operation in EXAMPLES.values()}
    assert kinds == set(OPERATIONS)
    assert set(KINDS) - set(OPERATIONS) == {"encoder", "static_bias", "decomposed_bias", "positions"}


def test_4_bit_weights_take_half_a_byte_and_others_a_byte() -> None:
    packed, whole = flatten("fc", dense(1))[1], flatten("fc", dense(2))[1]
    assert packed["fc.weight4"].dtype == np.uint8 and packed["fc.weight4"].shape == (5, 34)
    assert "fc.weight" not in packed and "fc.weight4" not in whole
    assert whole["fc.weight"].dtype == np.int8 and whole["fc.weight"].shape == (5, 67)


def test_channels_that_keep_their_order_need_no_permutation() -> None:
    assert not any(key.endswith("permutation") for key in flatten("attend", attention(None))[1])
    assert "fc.encoder.permutation" in flatten("fc", dense(1))[1]


def faults() -> list[tuple[str, str, dict[str, Any], dict[str, Any], str]]:
    """(case, example, changed entries, changed tensors or None for gone ones, what the message says)."""
    byte = np.zeros((5, 34), np.uint8)
    return [
        ("kind unknown", "residual", {"kind": "conv"}, {}, "unknown kind 'conv'"),
        ("kind a list", "residual", {"kind": ["residual"]}, {}, "unknown kind"),
        ("kind missing", "residual", {"kind": None}, {}, "unknown kind"),
        ("a part as a whole", "residual", {"kind": "encoder"}, {}, "unknown kind 'encoder'"),
        ("entry unknown", "residual", {"colour": 1}, {}, "unknown entry 'colour'"),
        ("a name of its own", "residual", {"name": "other"}, {}, "unknown entry 'name'"),
        ("boolean", "residual", {"first_exponent": True}, {}, "integer"),
        ("not a number", "residual", {"first_exponent": float("nan")}, {}, "integer"),
        ("huge", "residual", {"first_exponent": 10**400}, {}, "integer"),
        ("float", "layer_norm", {"epsilon": 2.0}, {}, "integer"),
        ("planes boolean", "dense", {"weight_planes": True}, {}, "weight_planes"),
        ("tensor as a list", "layer_norm", {"gain": [1, 2]}, {"gain": None}, "not described whole"),
        ("weight as a list", "dense", {"weight": [1]}, {"weight4": None}, "not described whole"),
        ("weight as an object", "dense", {"weight": {"kind": "dense"}}, {"weight4": None}, "not described whole"),
        ("tensor missing", "depthwise", {}, {"bias": None}, "lacks its bias"),
        ("nibbles of a bias", "layer_norm", {}, {"bias": None, "bias4": np.zeros((4, 1), np.uint8)}, "lacks its bias"),
        ("weight missing", "dense", {}, {"weight4": None}, "lacks its weight"),
        ("multiplier missing", "attention", {}, {"q.multiplier": None}, "lacks its multiplier"),
        ("dtype", "layer_norm", {}, {"gain": np.ones(4, np.int32)}, "gain must be int16"),
        ("not finite", "layer_norm", {}, {"gain": np.full(4, np.nan, np.float32)}, "gain must be int16"),
        ("shape", "activation", {}, {"table": np.zeros(1024, np.int16)}, "table must be int16"),
        ("nibbles", "dense", {}, {"weight4": byte[:, :33]}, "nibbles"),
        ("nibbles signed", "dense", {}, {"weight4": byte.astype(np.int8)}, "nibbles"),
        ("bytes for weights", "dense", {}, {"weight4": None, "weight": byte}, "weight must be int8"),
        ("encoder of another kind", "dense", {"encoder": {"kind": "residual"}}, {}, "unknown kind"),
        ("encoder a number", "dense", {"encoder": 5}, {}, "nibbles"),
        ("q a number", "attention", {"q": 5}, {}, "not described whole"),
        ("position of another kind", "attention", {"position": {"kind": "encoder"}}, {}, "unknown kind"),
        ("position a number", "attention", {"position": 5}, {}, "not described whole"),
        ("positions a number", "residual", {"positions": 5}, {}, "positions must be an object, found 5"),
        ("positions true", "residual", {"positions": True}, {}, "positions must be an object"),
        ("positions of another kind", "residual", {"positions": {"kind": "static_bias"}}, {}, "unknown kind"),
        ("no codes", "residual of positions", {}, {"positions.code": None}, "positions lacks its code"),
        ("flat codes", "residual of positions", {}, {"positions.code": np.zeros((6, 4), np.int8)}, "rows, columns"),
        ("wide codes", "residual of positions", {}, {"positions.code": np.zeros((2, 3, 4), np.int16)}, "code must be"),
        ("few shifts", "residual of positions", {}, {"positions.shift": np.zeros(3, np.uint8)}, "shift must be uint8"),
        ("a shift of 9", "residual of positions", {}, {"positions.shift": np.full(4, 9, np.uint8)}, "exceeds 8"),
        ("window a boolean", "static attention", {"position": {"kind": "static_bias", "window": True}}, {}, "window"),
        ("extreme thresholds", "attention", {}, {"thresholds": np.full(15, (1 << 31) - 1, np.int32)}, ""),
        ("thresholds a list", "attention", {"thresholds": [1]}, {"thresholds": None}, "not described whole"),
        ("65,537 channels", "attention", {}, {"q.multiplier": np.zeros(65537, np.int16)}, "q: shift must be"),
    ]


@pytest.mark.parametrize(
    ("example", "entries", "tensors", "message"), [f[1:] for f in faults()], ids=[f[0] for f in faults()]
)
def test_what_is_damaged_is_refused_in_one_line(
    example: str, entries: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    entry, stored = flatten("block.fc", EXAMPLES[example])
    entry |= entries
    for key, value in tensors.items():
        assert value is None or f"block.fc.{key}" in stored or key in ("weight", "bias4")
        if value is None:
            del stored[f"block.fc.{key}"]
        else:
            stored[f"block.fc.{key}"] = value
    if not message:
        assert restore("block.fc", entry, stored, WHERE).score_bits == 4
        return
    with pytest.raises(UserError, match=message) as caught:
        restore("block.fc", entry, stored, WHERE)
    assert "\n" not in str(caught.value) and "block.fc" in str(caught.value)


@pytest.mark.parametrize("entry", [None, 5, "dense", ["dense"], {}])
def test_an_entry_that_is_no_object_of_a_kind_is_refused(entry: object) -> None:
    with pytest.raises(UserError, match=r"model: block\.fc is of unknown kind"):
        restore("block.fc", entry, {}, WHERE)


def test_nested_objects_do_not_exhaust_the_stack() -> None:
    entry: Any = {"kind": "encoder"}
    for _ in range(5000):
        entry = {"kind": "encoder", "levels": entry}
    with pytest.raises(UserError):
        restore("fc", {"kind": "dense", "encoder": entry}, {}, WHERE)


def test_an_example_with_another_bit_is_told_apart() -> None:
    other = replace(dense(1), bias=dense(1).bias ^ 1)
    entry, tensors = flatten("fc", other)
    with pytest.raises(AssertionError):
        assert_same(restore("fc", entry, tensors, WHERE), dense(1))
