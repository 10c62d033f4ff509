"""Delays of the hardware that the model adds up, in cycles; the formulas are those of the docstrings in hdl/."""

from dataclasses import dataclass
from typing import Final

from sim.contract.constants import TILE_CHANNELS
from sim.machine.presets import MachinePreset
from sim.machine.sweep import EARLY

FETCH_DEPTH: Final = 8
"""Commands read ahead (hdl.machine.fetch)."""

READ_DEPTH: Final = 32
"""Beats of READs under way (hdl.machine.machine)."""

JOBS_DEPTH: Final = 8
"""Deliveries that may wait behind the reader (hdl.machine.reader)."""

LOOPS: Final = 2
"""From a READ to its first request (hdl.machine.address_loops)."""

TO_MEMORY: Final = 1
FROM_MEMORY: Final = 1
"""The arbiter's register; the queue of beats that have arrived."""

FETCH_QUEUE: Final = 3
"""From a command's last beat until it is held in hdl.machine.control."""

NEAR_BANK: Final = 2048
"""Beats that one bank of block RAM holds; a cycle chooses one of four banks, or of four such groups."""

START: Final = 1
STOP: Final = 3
"""From start to the first request of a command; from STOP to `o_done`."""

WRITTEN: Final = 3
"""From the last result of a unit to the last request of its WRITE and the end of a WAIT for it."""

CODES: Final = 5
"""From a beat that completes a word until the array may take the word (hdl.attention.code_buffer). Not measured in the
machine."""

ROUTE: Final = 1
"""From an output to the input that its route leads to (hdl.machine.routes)."""

RESULTS_BEHIND: Final = 15
"""Cycles that the last READ of a tile is ahead of its last results on the port; measured."""

RESULTS_DEPTH: Final = 32
"""Results that wait behind the array (OUTPUT_DEPTH of hdl.matmul)."""

LOAD_EXTRA: Final = 2 - EARLY
"""Cycles of a LOAD behind its last step (load_cycles of sim.machine.sweep, less the transfer of the command)."""

SHORTEST_RUN: Final = 7
"""Tokens that a RUN lasts at least (hdl.sequencer)."""

KEEP: Final = 3
"""A LOAD of scales alone (KEEP_CYCLES of hdl.attention)."""

ENCODER: Final = 30
"""From the last transfer of a token, read out again, to its last beat on the way to memory."""

ENCODER_HOLDS: Final = 24
"""Beats between the reader and the packer; measured."""

ACTIVATION: Final = 13
RESIDUAL: Final = 9
DEPTHWISE: Final = 21

NORM_BUFFERS: Final = 3
NORM_RELEASE: Final = 1
NORM_PIPELINE: Final = 26

POSITION_START: Final = 3
POSITION_LATENCY: Final = 9
REORDER: Final = 8
GATHER: Final = 7
SOFTMAX: Final = 31
"""Beside two rows and the tree of lanes (hdl.softmax: S = 4 for codes of 4 bits)."""


@dataclass(frozen=True)
class Delays:
    """Those that follow from a preset."""

    preset: MachinePreset

    @property
    def column_groups(self) -> int:
        """Hops of codes and steps through the array."""
        return self.preset.columns // self.preset.column_group

    @property
    def row_groups(self) -> int:
        """Payloads of WEIGHTS per LOAD."""
        return self.preset.rows // self.preset.loader_rows

    @property
    def weights_taken(self) -> int:
        """From the first step of a row group until its weights leave their register, as the next ones may enter."""
        return self.column_groups + 2

    @property
    def scale_taken(self) -> int:
        """From the decision to take scales until the last column group has them."""
        return (self.preset.rows.bit_length() - 1) + 2 + EARLY + self.column_groups

    @property
    def result(self) -> int:
        """From a token's codes to its result in the output FIFO."""
        return (self.preset.rows.bit_length() - 1) + 8 + EARLY + self.column_groups

    @property
    def near(self) -> int:
        """From a request of near memory to its beat (hdl.memory.near)."""
        banks = -(-self.preset.near_bytes // self.preset.beat_bytes // NEAR_BANK)
        return 5 + -(-(banks - 1).bit_length() // 2)

    @property
    def norm_turnaround(self) -> int:
        """From a token's last channels to its first read (hdl.layer_norm)."""
        return 43 + (self.preset.norm_lanes - 1).bit_length()

    @property
    def packer_tile(self) -> int:
        """Cycles of a K tile in hdl.machine.code_packer, whole or not."""
        return TILE_CHANNELS // self.preset.lanes

    def norm_token(self, groups: int) -> float:
        """Cycles from token to token of `groups` transfers."""
        turnaround = self.norm_turnaround
        return max(groups, turnaround, (2 * groups + turnaround + NORM_RELEASE - 2) / NORM_BUFFERS)

    def softmax_row(self, keys: int) -> int:
        """From a row's first word to its last codes."""
        words = -(-keys // self.preset.lanes)
        return 3 * words + 2 * (self.preset.lanes - 1).bit_length() + SOFTMAX
