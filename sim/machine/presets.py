"""Sizes of a machine, checked once, by name."""

from dataclasses import dataclass, replace
from typing import Final

from sim.contract.constants import TILE_CHANNELS
from sim.contract.errors import UserError

CODE_BYTES: Final = TILE_CHANNELS // 2
"""Bytes of one nibble plane of a K tile: 64 nibbles."""


@dataclass(frozen=True, kw_only=True)
class MachinePreset:
    """name. rows, columns, loader_rows, column_group, token_depth, codebooks: of the array (hdl.array.geometry).

    lanes: wide values side by side in the vector units, the softmax and a beat of memory. logit_words, code_words:
    of the attention buffers (hdl.attention.geometry). block_words: words of `rows` codes in either half of the
    buffer of streamed codes. keys: most keys of a row. norm_lanes, norm_channels: channels per cycle and most
    channels of LayerNorm. map_columns, depthwise_taps: widest map and taps per cycle of the depthwise unit. tables:
    level sets that the encoder holds. memory_bytes: of external memory. near_bytes: of memory on the chip.
    clock_mhz: what the preset is meant to run at.
    """

    name: str
    rows: int
    columns: int
    loader_rows: int
    column_group: int
    token_depth: int
    codebooks: int
    lanes: int
    logit_words: int
    code_words: int
    block_words: int
    keys: int
    norm_lanes: int
    norm_channels: int
    map_columns: int
    depthwise_taps: int
    tables: int
    memory_bytes: int
    near_bytes: int
    clock_mhz: int

    @property
    def beat_bytes(self) -> int:
        """Bytes of one transfer of memory: `lanes` wide values."""
        return 2 * self.lanes

    @property
    def pass_bytes(self) -> int:
        """Bytes of the weights of a pass: a nibble for every table of the array."""
        return self.rows * self.columns // 2


PRESETS: Final = {
    preset.name: preset
    for preset in (
        MachinePreset(
            name="tiny",
            rows=32,
            columns=8,
            loader_rows=32,
            column_group=4,
            token_depth=64,
            codebooks=16,
            lanes=8,
            logit_words=2048,
            code_words=512,
            block_words=512,
            keys=256,
            norm_lanes=4,
            norm_channels=256,
            map_columns=64,
            depthwise_taps=9,
            tables=16,
            memory_bytes=1 << 23,
            near_bytes=1 << 14,
            clock_mhz=50,
        ),
        MachinePreset(
            name="small",
            rows=32,
            columns=8,
            loader_rows=16,
            column_group=4,
            token_depth=512,
            codebooks=16,
            lanes=8,
            logit_words=8192,
            code_words=2048,
            block_words=2048,
            keys=4096,
            norm_lanes=4,
            norm_channels=1280,
            map_columns=256,
            depthwise_taps=3,
            tables=16,
            memory_bytes=1 << 25,
            near_bytes=1 << 17,
            clock_mhz=100,
        ),
        MachinePreset(
            name="fit85",
            rows=64,
            columns=16,
            loader_rows=32,
            column_group=4,
            token_depth=512,
            codebooks=16,
            lanes=8,
            logit_words=1024,
            code_words=256,
            block_words=512,
            keys=2048,
            norm_lanes=4,
            norm_channels=1280,
            map_columns=256,
            depthwise_taps=3,
            tables=16,
            memory_bytes=1 << 25,
            near_bytes=3 << 15,
            clock_mhz=80,
        ),
        MachinePreset(
            name="full",
            rows=64,
            columns=32,
            loader_rows=32,
            column_group=4,
            token_depth=512,
            codebooks=16,
            lanes=8,
            logit_words=2048,
            code_words=1024,
            block_words=1024,
            keys=4096,
            norm_lanes=4,
            norm_channels=1280,
            map_columns=256,
            depthwise_taps=9,
            tables=16,
            memory_bytes=1 << 25,
            near_bytes=1 << 18,
            clock_mhz=120,
        ),
    )
}
"""tiny: for simulation in tests. small: a quick simulation of whole networks. fit85: what one LFE5U-85F holds, a
64 x 16 array. full: the 64 x 32 array, for which an LFE5U-85F has too few block RAMs."""


MEMORY_MB: Final = tuple(1 << power for power in range(3, 9))
"""Sizes of external memory that a board may have instead of the preset's, in MB of 2**20 bytes."""


def preset_of(name: str, memory_mb: int | None = None) -> MachinePreset:
    """The preset of this name, with `memory_mb` MB of external memory in place of its own where that is given.

    Raises UserError when there is no such preset, or no such memory.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    if memory_mb is None:
        return PRESETS[name]
    if memory_mb not in MEMORY_MB:
        raise UserError(f"--memory-mb {memory_mb}: choose one of {', '.join(map(str, MEMORY_MB))}")
    return replace(PRESETS[name], memory_bytes=memory_mb << 20)
