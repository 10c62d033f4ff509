"""What a beat of memory costs, in cycles of the machine."""

from dataclasses import dataclass, replace
from typing import Final

from sim.contract.errors import UserError
from sim.machine.presets import MachinePreset

MEMORIES: Final = ("onchip", "sdram")
SDRAM_MHZ: Final = 133
SDRAM_WORD_BYTES: Final = 2
SDRAM_SHARE: Final = 0.983
"""Of two bytes per cycle in a sequential stream; what is missing is refresh ("Bandwidth" of docs/memory.md)."""

SDRAM_MIXED_SHARE: Final = 0.919
"""The same with reads and writes in turns of 64 bytes: rows closed in between and the turns of the data pins."""

SDRAM_ANSWER_CYCLES: Final = 9
"""SDRAM cycles, beside a beat's words, from a request in an open row to its answer (the same)."""

ON_CHIP_LATENCY: Final = 8
"""Cycles from a request to its answer, as sim.bench simulates memory."""


@dataclass(frozen=True)
class MemoryRate:
    """name. beat: cycles of the machine per beat. latency: from a request to its answer. mixed: beat where
    reads and writes take turns, with the row turns of an SDRAM; single beats anywhere (80 %) are not counted.
    source: beat of a second port that has the program's image in place of external memory, None where there is none."""

    name: str
    beat: float
    latency: float
    mixed: float
    source: float | None = None


def with_source(memory: MemoryRate, preset: MachinePreset, mb_s: float) -> MemoryRate:
    """The same memory beside a source of the image of `mb_s` MB (10**6 bytes) a second, which answers as late."""
    return replace(memory, source=max(preset.beat_bytes * preset.clock_mhz / mb_s, 1.0))


def memory_rate(name: str, preset: MachinePreset, *, sdram_mhz: float = SDRAM_MHZ) -> MemoryRate:
    """A memory of MEMORIES at the preset's clock, the SDRAM at its own. Raises UserError for another name."""
    if name == "onchip":
        return MemoryRate(name, 1.0, ON_CHIP_LATENCY, 1.0)
    if name == "sdram":
        words = preset.beat_bytes / SDRAM_WORD_BYTES
        scale = preset.clock_mhz / sdram_mhz
        beat = max(words / SDRAM_SHARE * scale, 1.0)
        return MemoryRate(
            name, beat, (SDRAM_ANSWER_CYCLES + words) * scale, max(words / SDRAM_MIXED_SHARE * scale, 1.0)
        )
    raise UserError(f"there is no memory {name!r}; choose onchip or sdram")
