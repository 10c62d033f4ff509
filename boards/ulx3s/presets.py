"""Named builds: which array, at which clock, over which baud rate, and the FPGAs that the board comes with."""

from dataclasses import dataclass
from typing import Final

from hdl.array.geometry import PRESETS as GEOMETRIES
from hdl.array.geometry import ArrayGeometry
from hdl.synth import DEVICES
from sim.contract.errors import UserError

__all__ = ["DEFAULT_DEVICE", "DEFAULT_PRESET", "DEVICES", "PRESETS", "BuildPreset", "device_option", "preset_of"]

DEFAULT_PRESET: Final = "tiny"
DEFAULT_DEVICE: Final = "85F"


@dataclass(frozen=True)
class BuildPreset:
    """One build. ``target_mhz`` is the clock of link and array, ``baud`` that of the serial line (8N1)."""

    name: str
    geometry: ArrayGeometry
    target_mhz: float
    baud: int
    purpose: str

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates per clock cycle."""
        return self.geometry.macs


PRESETS: Final = {
    preset.name: preset
    for preset in (
        BuildPreset("tiny", GEOMETRIES["tiny"], 100.0, 1_000_000, "two minutes on two slow cores"),
        BuildPreset("small", GEOMETRIES["small"], 100.0, 1_000_000, "half a K tile per pass"),
        BuildPreset("full", GEOMETRIES["full"], 80.0, 1_000_000, "fills an 85F: hours, try --pack-only"),
    )
}


def preset_of(name: str) -> BuildPreset:
    """Preset called ``name``; UserError naming the known ones otherwise."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def device_option(device: str) -> str:
    """Place-and-route option of ``device``; UserError naming the known ones otherwise."""
    if device not in DEVICES:
        raise UserError(f"unknown device {device!r}; the ULX3S comes with: {', '.join(DEVICES)}")
    return DEVICES[device]
