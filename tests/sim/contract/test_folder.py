import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.folder import quantize_weight_only, read_folder, write_folder
from sim.contract.layer import QuantizedLayer
from sim.contract.residual import Residual
from sim.contract.serialize import Operation

MANIFEST: dict[str, object] = {
    "model": "toy",
    "bits": {"weight": 4, "activation": 4},
    "source": {},
    "created": {},
    "architecture": {},
}


def toy_layer() -> QuantizedLayer:
    rng = np.random.default_rng(0)
    encoder = Encoder(
        name="block.fc.encoder",
        input_exponent=-8,
        permutation=rng.permutation(67).astype(np.uint16),
        multiplier=rng.integers(-900, 900, 67).astype(np.int16),
        addend=rng.integers(0, 1 << 20, 67).astype(np.int32),
        shift=np.array([9, 4], np.uint8),
        levels=np.stack([np.arange(-8, 8), np.arange(16)]).astype(np.int8),
    )
    return QuantizedLayer(
        name="block.fc",
        encoder=encoder,
        weight=rng.integers(-8, 8, (5, 67)).astype(np.int8),
        scale=rng.integers(1, 1 << 16, (2, 5)).astype(np.uint16),
        bias=rng.integers(-1000, 1000, 5).astype(np.int32),
        wide_exponent=-7,
    )


def operations() -> dict[str, Operation]:
    """In an order that is not that of their names."""
    return {"block.fc": toy_layer(), "block.add": Residual("block.add", -7, -8, -7)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stored, scale = quantize_weight_only(np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32))
    tensors: dict[str, np.ndarray] = {
        "float.norm.weight": np.linspace(0, 1, 67).astype(np.float16),
        "int8.head.weight": stored,
        "int8.head.weight.scale": scale,
    }
    write_folder(tmp_path / "model", operations(), tensors, MANIFEST)
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
    read = model.operations["block.fc"]
    assert isinstance(read, QuantizedLayer)
    for field in ("weight", "scale", "bias"):
        np.testing.assert_array_equal(getattr(read, field), getattr(layer, field))
    for field in ("permutation", "multiplier", "addend", "shift", "levels"):
        np.testing.assert_array_equal(getattr(read.encoder, field), getattr(layer.encoder, field))
    assert model.operations["block.add"] == operations()["block.add"]
    assert list(model.operations) == ["block.fc", "block.add"], "the order of the network is kept"
    assert {name: tensor.dtype for name, tensor in model.tensors.items()} == dict.fromkeys(
        ("norm.weight", "head.weight"), np.float32
    )
    raw = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(model.tensors["norm.weight"], raw["float.norm.weight"])
    np.testing.assert_array_equal(model.tensors["head.weight"], raw["int8.head.weight"] * raw["int8.head.weight.scale"])
    assert model.size_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_names_of_stored_tensors(folder: Path) -> None:
    raw = load_file(folder / "model.safetensors")
    assert raw["block.fc.weight4"].nbytes == 5 * 34
    parts = ("encoder.permutation", "encoder.multiplier", "encoder.addend", "encoder.shift", "encoder.levels")
    assert {key for key in raw if key.startswith("block.")} == {
        f"block.fc.{part}" for part in ("weight4", "scale", "bias", *parts)
    }
    assert json.loads((folder / "manifest.json").read_text())["operations"] == {
        "block.fc": {
            "kind": "dense",
            "encoder": {"kind": "encoder", "input_exponent": -8},
            "wide_exponent": -7,
            "weight_planes": 1,
        },
        "block.add": {
            "kind": "residual",
            "first_exponent": -7,
            "second_exponent": -8,
            "wide_exponent": -7,
            "positions": None,
        },
    }


def test_large_tensors_are_packed_and_read_back(tmp_path: Path) -> None:
    table = np.random.default_rng(4).normal(0, 0.1, (80, 70)).astype(np.float16)
    write_folder(tmp_path / "model", {}, {"float.table": table}, MANIFEST)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["packed"] == {"float.table": {"dtype": "float16", "shape": [80, 70]}}
    stored = load_file(tmp_path / "model" / "model.safetensors")["float.table"]
    assert stored.dtype == np.uint8 and stored.ndim == 1 and stored.nbytes < table.nbytes
    np.testing.assert_array_equal(read_folder(tmp_path / "model").tensors["table"], table)


def test_weight_only_storage_is_within_half_a_step() -> None:
    tensor = np.random.default_rng(2).normal(size=(6, 3, 2)).astype(np.float32)
    for axis in (0, 1):
        stored, scale = quantize_weight_only(tensor, axis)
        assert scale.shape == tuple(n if i == axis else 1 for i, n in enumerate(tensor.shape))
        assert (np.abs(stored * scale - tensor) <= 0.5001 * scale).all()


def test_a_writer_that_dies_between_old_and_new_loses_neither(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_folder(folder).manifest
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        if target == folder:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, {}, {}, MANIFEST)
    with pytest.raises(UserError, match=r"was being replaced when its writer ended; rename .*\.old to "):
        read_folder(folder)
    assert read_folder(folder.with_name(f"{folder.name}.old")).manifest == before
    monkeypatch.undo()
    write_folder(folder, {}, {}, MANIFEST)
    assert read_folder(folder).operations == {} and not folder.with_name(f"{folder.name}.old").exists()


def test_a_folder_is_replaced_only_if_it_is_a_model(folder: Path) -> None:
    write_folder(folder, {}, {}, MANIFEST)
    assert read_folder(folder).operations == {}
    precious = folder.parent / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not a model folder"):
        write_folder(precious, {}, {}, MANIFEST)
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


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this program reads 3"),
        ({"schema_version": None}, "schema version None"),
        ({"format": "other"}, "not a nibblesam-model"),
        ({"contract": {}}, "contract"),
        ({"contract": None}, "contract"),
        ({"operations": []}, "must be an object"),
        ({"packed": []}, "packed must be an object"),
        ({"packed": {"block.fc.bias": {}}}, "no stream is stored for the packed tensor block.fc.bias"),
        ({"packed": {"gone": {}}}, "no stream is stored for the packed tensor gone"),
        ({"operations": {"block.fc": {}}}, "block.fc is of unknown kind"),
        ({"operations": {"block.fc": 5}}, "block.fc is of unknown kind"),
        ({"operations": {}}, "unknown tensor block.fc"),
        ({"tensors_sha256": 5}, "hash"),
    ],
)
def test_a_wrong_manifest_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_manifest(folder, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize("entry", ["operations", "packed", "architecture", "source", "tensors_sha256", "model", "bits"])
def test_a_missing_entry_is_named(folder: Path, entry: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[entry]
    path.write_text(json.dumps(manifest))
    assert f"lacks the entry {entry!r}" in refusal(folder)


@pytest.mark.parametrize("text", ["[]", "5", "null", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "manifest" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block__fc__scale": np.zeros((2, 4), np.uint16)}, "scale"),
        ({"block__fc__scale": np.full((2, 5), np.nan, np.float32)}, "scale"),
        ({"block__fc__weight4": np.zeros((5, 33), np.uint8)}, "nibbles"),
        ({"float__norm__weight": np.array([np.inf], np.float32)}, "not finite"),
        ({"float__norm__weight": np.array([1], np.float64)}, "unknown tensor"),
        ({"float__head__weight": np.array([1], np.float32)}, "twice"),
        ({"int8__head__weight__scale": np.full((3, 1), np.nan, np.float32)}, "not finite"),
        ({"int8__head__weight__scale": np.full((3, 1), 3e38, np.float32)}, "not finite"),
        ({"int8__head__weight__scale": np.ones((5, 1), np.float32)}, "scale"),
        ({"int8__head__weight__scale": np.ones((7, 3, 1), np.float32)}, "scale"),
        ({"int8__head__weight__scale": np.ones((3, 1), np.float64)}, "scale"),
        ({"int8__lonely__scale": np.ones(1, np.float32)}, "unknown tensor"),
        ({"int8__bare": np.ones(1, np.int8)}, "scale"),
        ({"surprise": np.zeros(1, np.float32)}, "unknown tensor"),
        ({"block__fc__surprise": np.zeros(1, np.int32)}, "unknown tensor"),
        ({"block__fc__bias4": np.zeros(1, np.int32)}, "unknown tensor"),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, changes: dict[str, np.ndarray], message: str) -> None:
    edit_tensors(folder, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize("dtype", ["BF16", "F99"])
def test_a_type_of_tensor_that_numpy_lacks_is_refused(folder: Path, dtype: str) -> None:
    header = json.dumps({"float.x": {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]}}).encode()
    header += b" " * (-len(header) % 8)
    blob = struct.pack("<Q", len(header)) + header + b"\0\0"
    (folder / "model.safetensors").write_bytes(blob)
    edit_manifest(folder, tensors_sha256=hashlib.sha256(blob).hexdigest())
    assert "damaged" in refusal(folder)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "nowhere")
