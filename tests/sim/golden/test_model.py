"""A folder executed as a whole: integers only in the encoder, observers, taps, and what is refused."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention
from sim.contract.errors import UserError
from sim.contract.folder import ModelFolder
from sim.contract.layer import QuantizedLayer
from sim.contract.positions import Positions
from sim.contract.wide import Wide
from sim.golden import GoldenModel
from sim.golden.parameters import Executed, Parameters
from sim.golden.tap import layer_codes

BLOCK = "image_encoder.layers.2.blocks.0"


@pytest.fixture(scope="module")
def model(toy_folder: Path) -> GoldenModel:
    return GoldenModel.from_folder(toy_folder)


def arrays(value: Any) -> Iterator[NDArray[Any]]:
    """Every array inside an operation, a record, a dict or a tuple."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield from (array for part in value.values() for array in arrays(part))
    elif isinstance(value, tuple):
        yield from (array for part in value for array in arrays(part))
    elif is_dataclass(value):
        yield from (array for field in fields(value) for array in arrays(getattr(value, field.name)))


def test_everything_in_the_encoder_is_an_integer(toy: Any) -> None:
    made = toy.model()
    seen: list[str] = []

    def check(name: str, executed: Executed) -> None:
        seen.append(name)
        kinds = {array.dtype.kind for array in arrays(executed)}
        assert kinds <= {"i", "u"}, f"{name}: {kinds}"
        assert all(x.values.dtype == np.int16 for x in (*executed.inputs, executed.output)), name

    result = made.encode_wide(toy.prepared.pixels, check)
    assert result.values.dtype == np.int16
    assert sorted(seen) == sorted(made.encoder_layers())


def test_the_encoder_never_asks_for_a_real_value(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = toy.model()
    expected = made.encode_wide(toy.prepared.pixels).real()

    def refuse(*_: object) -> NDArray[np.float32]:
        raise AssertionError("a float in the encoder")

    with monkeypatch.context() as patch:
        patch.setattr(Wide, "real", refuse)
        patch.setattr(Parameters, "tensor", refuse)
        # Only pixels become integers on the way.
        entered: list[str] = []
        patch.setattr(Parameters, "entering", lambda *_: entered.append("entering"))
        wide = made.encode_wide(toy.prepared.pixels)
    assert entered == []
    np.testing.assert_array_equal(wide.real(), expected)
    np.testing.assert_array_equal(made.encode_image(toy.prepared.pixels)[0], expected.transpose(2, 0, 1))


def test_what_an_operation_gives_is_what_the_next_one_takes(toy: Any) -> None:
    """No value is changed outside of operations: every input holds values of an earlier result, or padding."""
    known: set[int] = {0}

    def check(name: str, executed: Executed) -> None:
        if not name.endswith(("patch_embed.seq.0.c", "patch_embed.proj", "pos_embed")):
            for x in executed.inputs:
                assert set(np.unique(x.values).tolist()) <= known, name
        known.update(np.unique(executed.output.values).tolist())

    toy.model().encode_wide(toy.prepared.pixels, check)


def last_window(toy: Any, name: str) -> NDArray[np.int16]:
    """What enters layer `name` in the window at the bottom right corner, which is mostly padding."""
    seen: dict[str, Executed] = {}
    toy.model().encode_wide(toy.prepared.pixels, seen.__setitem__)
    return seen[name].inputs[0].values[-1]


def test_tiny_vit_pads_windows_in_front_of_the_norm(toy_tiny_vit: Any) -> None:
    """A map of 16 in windows of 5: one pixel of the last window is of the map, the others are the norm of zeros."""
    norm = toy_tiny_vit.folder.operations[f"{BLOCK}.attn.norm"]
    of_zeros = norm.run(Wide(np.zeros((1, 32), np.int16), -8)).values[0]
    window = last_window(toy_tiny_vit, f"{BLOCK}.attn.qkv")
    assert of_zeros.any() and not np.array_equal(window[0], of_zeros)
    assert (window[1:] == of_zeros).all()


def test_segment_anything_pads_windows_behind_the_norm(toy_sam_vit: Any) -> None:
    """A map of 4 in windows of 3: one pixel of the last window is of the map, the others are zero."""
    window = last_window(toy_sam_vit, "image_encoder.blocks.0.attn.qkv")
    assert window[0].any() and not window[1:].any()


def test_segmentation_repeats(model: GoldenModel, picture: NDArray[np.uint8], toy_box: Any) -> None:
    first, second = model.segment(picture, toy_box), model.segment(picture, toy_box)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.predicted_iou == second.predicted_iou
    assert first.mask.shape == picture.shape[:2] and first.mask.dtype == np.bool_


def test_box_moves_the_mask(model: GoldenModel, picture: NDArray[np.uint8], toy_box: Any) -> None:
    other = model.segment(picture, (0.0, 0.0, 30.0, 30.0))
    assert not np.array_equal(model.segment(picture, toy_box).logits, other.logits)


def test_an_observer_sees_every_operation_once(model: GoldenModel, picture: NDArray[np.uint8], toy_box: Any) -> None:
    seen: list[str] = []
    model.segment(picture, toy_box, lambda name, executed: seen.append(name))
    assert sorted(seen) == sorted(model.parameters.operations)
    assert set(model.encoder_layers()) == {name for name in seen if name.startswith("image_encoder.")}
    assert f"{BLOCK}.attn.attend" in model.encoder_layers() and f"{BLOCK}.mlp.act" in model.encoder_layers()


def test_codes_are_those_of_the_operation(model: GoldenModel, picture: NDArray[np.uint8], toy_box: Any) -> None:
    seen: dict[str, Executed] = {}
    model.segment(picture, toy_box, seen.__setitem__)
    for name, executed in seen.items():
        operation = executed.operation
        if isinstance(operation, QuantizedLayer):
            np.testing.assert_array_equal(executed.codes, operation.encoder.encode(executed.inputs[0]), name)
        elif isinstance(operation, Attention):
            assert isinstance(executed.codes, dict) and executed.codes.keys() == {"q", "k", "v"}, name
        else:
            assert executed.codes is None, name


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        ("image_encoder.layers.0.blocks.0.conv1.c", (64, 64)),
        (f"{BLOCK}.attn.qkv", (16, 25)),
        (f"{BLOCK}.attn.proj", (16, 16)),
        ("image_encoder.neck.2", (16, 16)),
        ("mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj", (1, 256)),
        ("mask_decoder.transformer.layers.0.mlp.lin1", (7,)),
    ],
)
def test_tap_returns_codes_of_the_array_and_results(
    model: GoldenModel, picture: NDArray[np.uint8], name: str, leading: tuple[int, ...]
) -> None:
    tap = layer_codes(model, picture, name)
    array = model.parameters.operation(name, QuantizedLayer).array_form
    assert tap.name == name
    assert tap.codes.shape == (*leading, array.in_features) and tap.codes.dtype == np.uint8
    assert tap.codes.max() < 16 and tap.codes.std() > 0
    assert tap.wide.shape == (*leading, array.out_features) and tap.wide.dtype == np.int16
    for place in ((0,) * len(leading), tuple(side - 1 for side in leading)):
        total = array.aligned_bias()
        for tile, positions in array.tile_slices():
            levels = array.codebooks[tile].astype(np.int64)[tap.codes[place][positions]]
            total = total + array.scale[tile] * (array.weight[:, positions].astype(np.int64) @ levels)
        floor, rest = total >> 10, total & 0x3FF
        rounded = floor + ((rest > 0x200) | ((rest == 0x200) & (floor % 2 == 1)))
        np.testing.assert_array_equal(tap.wide[place], np.clip(rounded, -(1 << 15), (1 << 15) - 1))


def test_tap_of_an_unknown_layer_names_the_nearest(model: GoldenModel, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"no dense layer .*2\.block\.0.*image_encoder\.layers\.2\.blocks\.0"):
        layer_codes(model, picture, "image_encoder.layers.2.block.0.attn.qkv")
    with pytest.raises(UserError, match="no dense layer"):
        layer_codes(model, picture, f"{BLOCK}.mlp.act")


def test_other_input_shapes_are_refused(model: GoldenModel) -> None:
    with pytest.raises(ValueError, match=r"pixels must be \(1, 3, 64, 64\), found \(3, 64, 64\)"):
        model.encode_image(np.zeros((3, 64, 64), np.float32))


def with_operation(folder: ModelFolder, name: str, operation: Any) -> ModelFolder:
    return replace(folder, operations={**folder.operations, name: operation})


def without(folder: ModelFolder, name: str) -> ModelFolder:
    return replace(folder, operations={key: value for key, value in folder.operations.items() if key != name})


def test_every_operation_is_missed_before_anything_runs(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in {type(operation) for operation in toy.folder.operations.values()}:
        monkeypatch.setattr(kind, "run", None)
    for name in toy.folder.operations:
        with pytest.raises(UserError, match=f"the model has no operation {name};"):
            GoldenModel.from_contents(without(toy.folder, name))


def test_the_first_of_several_missing_operations_is_named(toy_tiny_vit: Any) -> None:
    folder = without(without(toy_tiny_vit.folder, "image_encoder.neck.1"), f"{BLOCK}.mlp.act")
    with pytest.raises(UserError, match=rf"no operation {BLOCK}\.mlp\.act"):
        GoldenModel.from_contents(folder)


ACT = f"{BLOCK}.mlp.act"
ATTEND = f"{BLOCK}.attn.attend"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ACT, lambda old, all_: all_[f"{BLOCK}.mlp.norm"], rf"{ACT} is a LayerNorm, not a ActivationTable"),
        (ACT, lambda old, all_: replace(old, input_exponent=-9), r"any channels at exponent -9, .* 128 at -8"),
        (f"{BLOCK}.mlp.fc2", lambda old, all_: all_[f"{BLOCK}.mlp.fc1"], "takes 32 channels at exponent -8, .* 128"),
        (f"{BLOCK}.mlp.fc2", lambda old, all_: all_[f"{BLOCK}.mlp.fc1"], r"mlp\.fc1 takes"),
        (f"{BLOCK}.mlp.add", lambda old, all_: replace(old, second_exponent=-7), r"any channels at exponent -7"),
        (f"{BLOCK}.attn.proj", lambda old, all_: all_["image_encoder.neck.0"], r"takes 48 channels"),
        ("image_encoder.layers.1.downsample.conv2.c", lambda old, all_: replace(old, stride=1), "has stride 1, .* 2"),
        (ATTEND, lambda old, all_: replace(old, position=None, heads=4, logit_scale=np.ones(4, np.uint16)), "4 heads"),
        (ATTEND, lambda old, all_: all_["image_encoder.layers.1.blocks.0.attn.attend"], "takes 24 channels"),
        (
            ATTEND,
            lambda old, all_: replace(old, position=replace(old.position, table=old.position.table[:, :9], window=3)),
            "positions for windows of 9 pixels, the network's have 25",
        ),
        ("image_encoder.neck.4", lambda old, all_: all_["image_encoder.neck.3"], r"never runs image_encoder\.neck\.4"),
    ],
)
def test_operations_that_do_not_fit_are_refused(
    toy_tiny_vit: Any, name: str, change: Callable[[Any, Any], Any], message: str
) -> None:
    operations = toy_tiny_vit.folder.operations
    with pytest.raises(UserError, match=message):
        GoldenModel.from_contents(with_operation(toy_tiny_vit.folder, name, change(operations.get(name), operations)))


def test_missing_and_misshapen_tensors_are_named(toy_sam_vit: Any) -> None:
    folder = toy_sam_vit.folder
    for name in ("mask_decoder.mask_tokens.weight", "prompt_encoder.no_mask_embed.weight"):
        kept = {key: value for key, value in folder.tensors.items() if key != name}
        with pytest.raises(UserError, match=f"the model has no tensor {name}"):
            GoldenModel.from_contents(replace(folder, tensors=kept))
    wrong = {**folder.tensors, "mask_decoder.transformer.layers.1.norm1.weight": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"tensors behind .*layers\.1\.self_attn\.out_proj do not fit"):
        GoldenModel.from_contents(replace(folder, tensors=wrong))


def test_positions_of_another_map_or_in_another_place_are_refused(toy_sam_vit: Any) -> None:
    folder = toy_sam_vit.folder
    addition, sum_name = folder.operations["image_encoder.pos_embed"], "image_encoder.blocks.1.mlp.add"
    wide = Positions("positions", np.zeros((4, 5, 32), np.int8), np.zeros(32, np.uint8))
    for name, positions, message in (
        ("image_encoder.pos_embed", wide, r"has positions for \(4, 5, 32\), the network's map is \(4, 4, 32\)"),
        ("image_encoder.pos_embed", None, r"pos_embed lacks its positions"),
        (sum_name, addition.positions, r"mlp\.add adds stored positions, the network needs a sum"),
    ):
        wrong = replace(folder.operations[name], positions=positions)
        with pytest.raises(UserError, match=message):
            GoldenModel.from_contents(with_operation(folder, name, wrong))


def edited(folder: ModelFolder, edit: Callable[[dict[str, Any]], object]) -> ModelFolder:
    manifest = deepcopy(folder.manifest)
    edit(manifest["architecture"])
    return replace(folder, manifest=manifest)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("encoder"), "encoder: expected an object, found None"),
        (lambda a: a.pop("decoder"), "decoder: expected an object, found None"),
        (lambda a: a.pop("input"), "input: expected an object, found None"),
        (lambda a: a["input"].update(side=0), "side must be an integer from 16 to 2048, found 0"),
        (lambda a: a["input"].update(side=66), "a side of 66 pixels"),
        (lambda a: a["input"].update(side=260), "a side of 260 pixels"),
        (lambda a: a["input"].update(exponent=-9), "takes 3 channels at exponent -8, the network gives it 3 at -9"),
        (lambda a: a["input"].update(normalisation="none"), "normalisation must be one of min_max, mean_std"),
        (lambda a: a["input"].update(normalisation=[]), "normalisation must be one of min_max, mean_std"),
        (lambda a: a["encoder"].update(kind="resnet"), "kind must be one of tiny_vit, sam_vit, found 'resnet'"),
        (lambda a: a["encoder"].update(stages=[]), "does not list the encoder's stages"),
        (lambda a: a["encoder"]["stages"][2].update(window=4), "positions for windows of 25 pixels, .* have 16"),
        (
            lambda a: a["encoder"]["stages"][1].update(heads=0),
            "stage 1: heads must be an integer .* found 0",
        ),
        (lambda a: a["encoder"]["stages"][1].update(heads="2"), "heads must be an integer from 1 to 64, found '2'"),
        (lambda a: a["encoder"]["stages"][1].update(heads=3), "has 2 heads, the network needs 3"),
        (lambda a: a["encoder"]["stages"][3].update(depth=2), r"no operation .*layers\.3\.blocks\.1\.attn\.norm"),
        (lambda a: a["encoder"]["stages"][2].update(depth=1), r"never runs .*layers\.2\.blocks\.1"),
        (lambda a: a["encoder"]["stages"][1].update(downsample_stride=1), "strides of the stages make 2"),
        (lambda a: a["encoder"]["stages"].insert(0, 3), "stage 0: expected an object, found 3"),
        (lambda a: a["decoder"].update(heads=4), "has 8 heads, the network needs 4"),
        (lambda a: a["decoder"].update(depth=1), r"never runs mask_decoder\.transformer\.layers\.1"),
        (lambda a: a["layer_norm_epsilon"].update(transformer=1e-6), "layer_norm_epsilon must be"),
    ],
)
def test_unsupported_architectures_are_refused(
    toy_tiny_vit: Any, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        GoldenModel.from_contents(edited(toy_tiny_vit.folder, edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.pop("global_blocks"), "global_blocks must list blocks from 0 to 2, found None"),
        (lambda e: e.update(global_blocks=[3]), r"global_blocks must list blocks from 0 to 2, found \[3\]"),
        (lambda e: e.update(global_blocks=[True]), "global_blocks must list blocks"),
        (lambda e: e.update(global_blocks=[]), r"blocks\.1\.attn\.attend has positions for windows of 16 pixels"),
        (lambda e: e.update(window=2), "positions for windows of 9 pixels, the network's have 4"),
        (lambda e: e.update(patch=8), "takes 768 channels at exponent -8, the network gives it 192"),
        (lambda e: e.update(patch=0), "patch must be an integer from 1 to 64"),
        (lambda e: e.update(depth=4), r"no operation image_encoder\.blocks\.3\.norm1"),
    ],
)
def test_unsupported_vits_are_refused(toy_sam_vit: Any, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GoldenModel.from_contents(edited(toy_sam_vit.folder, lambda architecture: edit(architecture["encoder"])))


def test_exponents_outside_of_the_picture_change_nothing_but_the_scale(toy_tiny_vit: Any) -> None:
    """The last norm's exponent is the embedding's: twice the step, twice the real values."""
    last = "image_encoder.neck.3"
    operation = replace(toy_tiny_vit.folder.operations[last], wide_exponent=-7)
    doubled = GoldenModel.from_contents(with_operation(toy_tiny_vit.folder, last, operation))
    pixels = toy_tiny_vit.prepared.pixels
    np.testing.assert_array_equal(doubled.encode_image(pixels), 2 * toy_tiny_vit.model().encode_image(pixels))


def test_an_activation_is_what_its_table_says(toy_tiny_vit: Any) -> None:
    """A table of zeros in the last MLP leaves the bias of the layer behind it."""
    name = "image_encoder.layers.3.blocks.0.mlp.act"
    table = toy_tiny_vit.folder.operations[name]
    assert isinstance(table, ActivationTable)
    flat = with_operation(toy_tiny_vit.folder, name, replace(table, table=np.zeros_like(table.table)))
    seen: dict[str, Executed] = {}
    GoldenModel.from_contents(flat).encode_wide(toy_tiny_vit.prepared.pixels, seen.__setitem__)
    hidden = seen["image_encoder.layers.3.blocks.0.mlp.fc2"]
    assert not hidden.inputs[0].values.any()
    assert (hidden.output.values == hidden.output.values[0, 0]).all()
