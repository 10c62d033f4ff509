"""Checkpoints that do not fit: one short line that names the first fault, whatever their number."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant.models import checkpoint
from sim.contract.errors import UserError

PATH = Path("some.pth")


def model() -> nn.Module:
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(300)))


def misfit(state: dict[str, Tensor]) -> str:
    with pytest.raises(UserError) as refusal:
        checkpoint.fit(model(), state, PATH, "the model")
    return str(refusal.value)


def test_a_state_that_fits_is_loaded() -> None:
    other = model()
    fitted = model()
    checkpoint.fit(fitted, other.state_dict(), PATH, "the model")
    assert all(torch.equal(value, fitted.state_dict()[name]) for name, value in other.state_dict().items())


def test_hundreds_of_wrong_names_are_one_short_line() -> None:
    text = misfit({f"backbone.{index}.weight": torch.zeros(3, 3) for index in range(300)})
    fault = "Missing key 0.weight, and 899 more; give a checkpoint of this model"
    assert text == f"checkpoint some.pth does not fit the model: {fault}"


def test_one_name_too_many_and_one_wrong_shape_are_named() -> None:
    state = dict(model().state_dict())
    assert "does not fit the model: Unexpected key extra; give" in misfit({**state, "extra": torch.zeros(1)})
    assert "2.bias is (4,), not (3,); give" in misfit({**state, "2.bias": torch.zeros(4)})


def test_memory_that_ends_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        checkpoint.load_state(tmp_path / "fine.pth")


@pytest.mark.parametrize("content", [{"model": {"weight": torch.zeros(1)}}, [torch.zeros(1)]], ids=["nested", "list"])
def test_what_is_no_plain_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth is not a plain state dict of tensors; use another"):
        checkpoint.load_state(tmp_path / "other.pth", remedy="use another")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name_in_every_type(value: float, dtype: torch.dtype) -> None:
    state = {
        "fine": torch.ones(3, dtype=dtype),
        "steps": torch.tensor(3),
        "sick": torch.tensor([1.0, value], dtype=dtype),
    }
    with pytest.raises(UserError, match=r"some\.pth: sick holds a value that is not finite; use an intact checkpoint"):
        checkpoint.check_finite(state, PATH)


def test_another_hash_says_both_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "abc.pth").write_bytes(b"abc")
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    checkpoint.verify(tmp_path / "abc.pth", right)
    with pytest.raises(UserError, match=rf"has sha256 {right}, expected 00: .*; give the right file"):
        checkpoint.verify(tmp_path / "abc.pth", "00")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*: No such file or directory; check the path"):
        checkpoint.verify(tmp_path / "none.pth", right)
