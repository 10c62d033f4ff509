import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sim.contract.errors import UserError
from sim.contract.folder import quantize_weight_only, read_folder, write_folder
from sim.contract.linear import QuantizedLinear, expand_planes

MANIFEST: dict[str, object] = {
    "model": "toy",
    "bits": {"weight": 4, "activation": 4},
    "source": {},
    "created": {},
    "architecture": {},
}


def toy_layer() -> QuantizedLinear:
    rng = np.random.default_rng(0)
    return QuantizedLinear(
        name="block.fc",
        weight=rng.integers(-8, 8, (5, 67)).astype(np.int8),
        scale=rng.integers(1, 1 << 16, (2, 5)).astype(np.uint16),
        bias=rng.integers(-1000, 1000, 5).astype(np.int32),
        codebooks=np.stack([np.arange(-8, 8), np.arange(15, -1, -1)]).astype(np.int8),
        wide_exponent=-7,
        permutation=rng.permutation(67).astype(np.uint16),
        activation_scale=np.array([0.5, 0.25], np.float32),
        activation_offset=np.zeros(67, np.float32),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layer = toy_layer()
    stored, scale = quantize_weight_only(np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32))
    tensors: dict[str, np.ndarray] = {
        "float.norm.weight": np.ones(67, np.float32),
        "int8.head.weight": stored,
        "int8.head.weight.scale": scale,
    }
    write_folder(tmp_path / "model", {layer.name: layer}, {layer.name: "linear"}, tensors, MANIFEST)
    return tmp_path / "model"


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, **changes: np.ndarray) -> None:
    """Change tensors and make the hash right again, so that only the content is at fault."""
    path = folder / "model.safetensors"
    save_file({**load_file(path), **{key.replace("__", "."): value for key, value in changes.items()}}, path)
    edit_manifest(folder, tensors_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_is_written_is_read_back(folder: Path) -> None:
    model, layer = read_folder(folder), toy_layer()
    read = model.layers["block.fc"]
    for field in ("weight", "scale", "bias", "codebooks", "permutation", "activation_scale", "activation_offset"):
        np.testing.assert_array_equal(getattr(read, field), getattr(layer, field))
    assert (read.wide_exponent, model.kinds) == (-7, {"block.fc": "linear"})
    assert set(model.tensors) == {"norm.weight", "head.weight"}
    assert model.size_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_weights_take_half_a_byte(folder: Path) -> None:
    assert load_file(folder / "model.safetensors")["block.fc.weight"].nbytes == 5 * 34


def test_offsets_are_stored_in_16_bits_only_where_that_is_exact(tmp_path: Path) -> None:
    for offset, dtype in ((np.float32(0.5), np.float16), (np.float32(0.1), np.float32), (np.float32(1e6), np.float32)):
        layer = replace(toy_layer(), activation_offset=np.full(67, offset))
        write_folder(tmp_path / "model", {layer.name: layer}, {layer.name: "linear"}, {}, MANIFEST)
        assert load_file(tmp_path / "model" / "model.safetensors")["block.fc.activation_offset"].dtype == dtype
        np.testing.assert_array_equal(read_folder(tmp_path / "model").layers["block.fc"].activation_offset, offset)


def test_a_second_plane_costs_no_storage(tmp_path: Path) -> None:
    single = toy_layer()
    double = expand_planes(
        "byte.fc",
        weight=single.weight,
        scale=(single.scale // 16).astype(np.uint16),
        bias=single.bias,
        wide_exponent=-7,
        permutation=single.permutation,
        activation_scale=single.activation_scale,
        activation_offset=single.activation_offset,
    )
    write_folder(tmp_path / "model", {double.name: double}, {double.name: "linear"}, {}, MANIFEST)
    assert load_file(tmp_path / "model" / "model.safetensors")["byte.fc.weight"].shape == (5, 34)
    read = read_folder(tmp_path / "model").layers["byte.fc"]
    assert (read.planes, read.channels, read.in_features, read.tiles) == (2, 67, 134, 4)
    for field in ("weight", "scale", "bias", "codebooks", "permutation", "activation_scale", "activation_offset"):
        np.testing.assert_array_equal(getattr(read, field), getattr(double, field))


def test_weight_only_storage_is_within_half_a_step() -> None:
    tensor = np.random.default_rng(2).normal(size=(6, 3, 2)).astype(np.float32)
    for axis in (0, 1):
        stored, scale = quantize_weight_only(tensor, axis)
        assert scale.shape == tuple(n if i == axis else 1 for i, n in enumerate(tensor.shape))
        assert (np.abs(stored * scale - tensor) <= 0.5001 * scale).all()


def test_a_folder_is_replaced_only_if_it_is_a_model(folder: Path) -> None:
    layer = toy_layer()
    write_folder(folder, {layer.name: layer}, {layer.name: "linear"}, {}, MANIFEST)
    assert read_folder(folder).tensors == {}
    precious = folder.parent / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not a model folder"):
        write_folder(precious, {}, {}, {}, MANIFEST)
    assert (precious / "thesis.tex").read_text() == "x"
    assert {p.name for p in folder.parent.iterdir()} == {"model", "precious"}


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_missing_or_truncated_file_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        read_folder(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        read_folder(folder)


def test_one_flipped_bit_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="hash"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"format": "other"}, "not a nibblesam-model"),
        ({"contract": {}}, "contract"),
        ({"layers": []}, "must be objects"),
        ({"layers": {"block.fc": {}}}, "block.fc is not described whole"),
    ],
)
def test_a_wrong_manifest_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(UserError, match=message):
        read_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block__fc__activation_scale": np.array([np.nan, 1], np.float32)}, "scale"),
        ({"block__fc__scale": np.zeros((2, 4), np.uint16)}, "scale"),
        ({"block__fc__weight": np.zeros((5, 33), np.uint8)}, "nibbles"),
        ({"float__norm__weight": np.array([np.inf], np.float32)}, "not finite"),
        ({"surprise": np.zeros(1, np.float32)}, "unknown tensor"),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, changes: dict[str, np.ndarray], message: str) -> None:
    edit_tensors(folder, **changes)
    with pytest.raises(UserError, match=message):
        read_folder(folder)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "nowhere")
