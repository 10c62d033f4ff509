"""Power that fails at any write: nothing half-written is read, and resuming gives the bytes of an undisturbed run."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.workbook import SETTINGS_FILE
from sim.contract.folder import read_folder


class PowerLossError(BaseException):
    """No handler of the program catches it."""


class Left(tempfile.TemporaryDirectory[str]):
    """A temporary folder that nobody lives to remove once power has failed."""

    def __exit__(self, kind: type[BaseException] | None, *raised: Any) -> None:
        if kind is None:
            super().__exit__(kind, *raised)
        self._finalizer.detach()  # type: ignore[attr-defined]


class Power:
    """Fails at a write. before: whether the write is lost or done; at: tells the file's path from others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: Callable[[Path], bool] = lambda _: False
        self.before = True
        self.written: list[Path] = []
        rename = os.replace

        def unreliable(source: Any, target: Any) -> None:
            hit = self.at(Path(target))
            if hit and self.before:
                raise PowerLossError(target)
            rename(source, target)
            self.written.append(Path(target))
            if hit:
                raise PowerLossError(target)

        monkeypatch.setattr(os, "replace", unreliable)
        monkeypatch.setattr(tempfile, "TemporaryDirectory", Left)

    def fails_at(self, at: Callable[[Path], bool], before: bool) -> None:
        self.at, self.before = at, before
        self.written.clear()


def test_the_bytes_are_those_of_an_undisturbed_run_wherever_power_fails(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "model"
    toys.quantize(whole, toys.quick)
    power = Power(monkeypatch)

    def unit(number: int) -> Callable[[Path], bool]:
        """The write of a unit of finished work, counted within a run."""
        return lambda path: path.suffix == ".safetensors" and len(power.written) == number

    failures: list[tuple[Callable[[Path], bool], bool]] = [
        (lambda path: path.name == SETTINGS_FILE, True),
        (unit(2), True),
        (unit(3), False),
        (lambda path: path == out, True),
        (lambda path: path.parent == out, True),
    ]
    for at, before in failures:
        power.fails_at(at, before)
        with pytest.raises(PowerLossError):
            toys.quantize(out, toys.quick, resume=True)
        if out.exists():
            read_folder(out)
    power.fails_at(lambda _: False, before=True)
    figures = toys.quantize(out, toys.quick, resume=True)
    assert figures["resumed_units"] > 5
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def test_without_resume_a_model_survives_until_the_next_one_is_whole(
    toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    toys.quantize(out, toys.quick)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    power = Power(monkeypatch)
    power.fails_at(lambda path: path.suffix == ".safetensors" and len(power.written) == 4, before=False)
    with pytest.raises(PowerLossError):
        toys.quantize(out, toys.quick, seed=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
