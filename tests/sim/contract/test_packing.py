import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.nibbles import pack_nibbles
from sim.contract.packing import LARGEST_RATIO, SMALLEST_PACKED, pack, unpack

WHERE = "model"


def bell(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Values around zero, as weights and tables are."""
    return np.random.default_rng(0).normal(0, 20, shape).clip(-127, 127).astype(dtype)


def nibbles(outputs: int = 256, inputs: int = 768) -> NDArray[np.uint8]:
    """Normally distributed weights rounded with the step of least squared error, 0.335 standard deviations."""
    weight = np.random.default_rng(1).normal(0, 1 / 0.335, (outputs, inputs))
    return pack_nibbles(np.rint(weight).clip(-8, 7).astype(np.int8))


def stream(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(content), np.uint8)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float16", "float32"])
@pytest.mark.parametrize("shape", [(9000,), (71, 65), (4, 1, 2200)])
def test_what_is_packed_is_unpacked_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    value = bell(shape, dtype)
    stored, packed = pack({"x": value})
    assert packed == {"x": {"dtype": dtype, "shape": list(shape)}}
    assert stored["x"].dtype == np.uint8 and stored["x"].nbytes < value.nbytes
    found = unpack(stored, packed, WHERE)["x"]
    assert found.dtype == value.dtype and found.shape == value.shape
    assert found.tobytes() == value.tobytes()


def test_rows_of_a_transposed_tensor_keep_their_places() -> None:
    value = bell((80, 120), "int8").T
    stored, packed = pack({"x": value})
    np.testing.assert_array_equal(unpack(stored, packed, WHERE)["x"], value)


def test_small_and_random_tensors_are_stored_as_they_are() -> None:
    random = np.random.default_rng(2).integers(0, 256, 9000).astype(np.uint8)
    tensors = {"small": bell((SMALLEST_PACKED - 1,), "int8"), "random": random, "none": np.zeros((0, 3), np.int8)}
    stored, packed = pack(tensors)
    assert packed == {} and all(stored[key] is value for key, value in tensors.items())
    assert all(unpack(stored, packed, WHERE)[key] is value for key, value in tensors.items())


def test_weights_take_little_more_than_their_entropy() -> None:
    packed = nibbles()
    counts = np.bincount(np.concatenate([packed & 15, packed >> 4], axis=None))
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum() / 4
    assert 0.88 < entropy < 0.92
    assert entropy < pack({"w": packed})[0]["w"].nbytes / packed.nbytes < entropy + 0.01


@pytest.mark.parametrize("value", [np.zeros(100_000, np.uint8), np.full((100, 500), 7, np.int32)])
def test_no_tensor_packs_better_than_a_reader_believes(value: NDArray[Any]) -> None:
    stored, packed = pack({"x": value})
    assert stored["x"].nbytes * LARGEST_RATIO > value.nbytes
    np.testing.assert_array_equal(unpack(stored, packed, WHERE)["x"], value)


BYTES = bytes(range(64)) * 2
ENTRY = {"dtype": "uint8", "shape": [128]}


@pytest.mark.parametrize(
    ("stored", "entry", "message"),
    [
        (None, ENTRY, "no stream is stored for the packed tensor x;"),
        (np.zeros((2, 3), np.uint8), ENTRY, "no stream"),
        (np.zeros(9, np.int8), ENTRY, "no stream"),
        (stream(BYTES), None, "no known dtype and shape"),
        (stream(BYTES), {"dtype": "uint8"}, "no known dtype and shape"),
        (stream(BYTES), {"dtype": "object", "shape": [128]}, "no known dtype and shape"),
        (stream(BYTES), {"dtype": ["uint8"], "shape": [128]}, "no known dtype and shape"),
        (stream(BYTES), {"dtype": "uint8", "shape": 128}, "no known dtype and shape"),
        (stream(BYTES), {"dtype": "uint8", "shape": [1] * 9}, "no known dtype and shape"),
        (stream(BYTES), {"dtype": "uint8", "shape": [-128, -1]}, "is not one"),
        (stream(BYTES), {"dtype": "uint8", "shape": [True, 128]}, "is not one"),
        (stream(BYTES), {"dtype": "uint8", "shape": [128.0]}, "is not one"),
        (stream(BYTES), {"dtype": "uint8", "shape": [1 << 31, 1 << 31]}, "too short"),
        (stream(BYTES), {"dtype": "uint8", "shape": [127]}, "does not hold"),
        (stream(BYTES), {"dtype": "uint8", "shape": [129]}, "does not hold"),
        (stream(BYTES), {"dtype": "uint8", "shape": [0, 3]}, "does not hold"),
        (stream(BYTES)[:-1], ENTRY, "does not hold"),
        (np.append(stream(BYTES), np.uint8(0)), ENTRY, "does not hold"),
        (stream(BYTES)[1:], ENTRY, "is damaged"),
        (np.zeros(0, np.uint8), {"dtype": "uint8", "shape": [0]}, "does not hold"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(stored: NDArray[Any] | None, entry: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        unpack({} if stored is None else {"x": stored}, {"x": entry}, WHERE)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model: ")


@pytest.mark.parametrize("packed", [None, 5, [], "x"])
def test_what_is_no_object_is_refused(packed: object) -> None:
    with pytest.raises(UserError, match="packed must be an object"):
        unpack({}, packed, WHERE)


def test_one_flipped_bit_is_found() -> None:
    stored, packed = pack({"x": bell((9000,), "int8")})
    for place in (0, 5, 400, -20, -1):
        damaged = stored["x"].copy()
        damaged[place] ^= 8
        with pytest.raises(UserError):
            unpack({"x": damaged}, packed, WHERE)


@pytest.mark.parametrize("side", [4000, 100_000_000])
def test_a_stream_of_much_more_than_it_says_takes_no_memory(side: int) -> None:
    bomb = stream(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"does not hold|too short"):
        unpack({"x": bomb}, {"x": {"dtype": "uint8", "shape": [side]}}, WHERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
