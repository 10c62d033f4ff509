"""Streams in, streams out: plays recorded transfers into a compiled component and brings back what it sent.

The caller's process packs every transfer beforehand; the simulator's process (`in_simulator.py`) only plays
them, so the same few lines serve every component whose ports are streams.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.bench.recording import FOLDER_VARIABLE, REQUEST_FILE, result_file, sent_file
from sim.bench.verilator import SIMULATION_LOG, VerilatedModel, run_cocotb

SIMULATOR_MODULE: Final = "sim.bench.in_simulator"


@dataclass(frozen=True)
class Flip:
    """A fault: the bits `mask` of a signal or memory word are inverted once, in the middle of an episode.

    signal: path below the top module as Verilator shows it, parts separated by "/". word: index into a memory,
    None for a signal. It happens right after the clock edge of transfer number `transfers` (from 1) of the stream
    `after`, or `delay` edges later: a register keeps the change until it is written, for one cycle at least.
    """

    signal: str
    mask: int
    after: str
    transfers: int
    word: int | None = None
    delay: int = 0


@dataclass(frozen=True)
class Episode:
    """What to send and how much to expect, from one moment at which the component is idle to the next.

    sources: payloads uint8 (n, bytes) by port. sinks: number and bytes of the payloads expected by port.
    """

    sources: Mapping[str, NDArray[np.uint8]]
    sinks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    flips: Sequence[Flip] = ()


@dataclass(frozen=True)
class EpisodeResult:
    """What came out of an episode, and when.

    payloads: uint8 (n, bytes) by sink. transfer_cycles: the cycle of every transfer by port, int64 (n,), counted
    from 1 at the first clock edge that sees the first payload. cycles: edges until the component was idle again.
    """

    payloads: dict[str, NDArray[np.uint8]]
    transfer_cycles: dict[str, NDArray[np.int64]]
    cycles: int


@dataclass(frozen=True)
class BackPressure:
    """Probabilities per cycle that a source holds back its next payload (gap) and that a sink is not ready (stall)."""

    gap: float = 0.0
    stall: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("gap", self.gap), ("stall", self.stall)):
            if not 0.0 <= value <= 0.95:
                raise ValueError(
                    f"{name} = {value} is not a probability in [0, 0.95]; the nearest valid value is "
                    f"{min(max(value, 0.0), 0.95)}"
                )


def play(
    model: VerilatedModel,
    episodes: Sequence[Episode],
    *,
    idle: str | None = None,
    back_pressure: BackPressure = BackPressure(),
    seed: int = 0,
    stuck_after: int = 20_000,
    limit_s: float = 1800.0,
    log: Path | None = None,
) -> list[EpisodeResult]:
    """Play episodes in order on a freshly reset component.

    idle: output port that is 1 when the component has nothing left to do; None ends an episode with its last
    transfer. seed: of the back-pressure. stuck_after: cycles without any transfer that count as a dead-lock.
    log: a file that keeps what the simulation printed; None drops it.
    Raises BenchError when the component breaks a stream rule, dead-locks, or the simulator fails.
    """
    with tempfile.TemporaryDirectory(prefix="nibblesam-bench-") as scratch:
        folder = Path(scratch)
        request = {
            "idle": idle,
            "gap": back_pressure.gap,
            "stall": back_pressure.stall,
            "seed": seed,
            "stuck_after": stuck_after,
            "episodes": [
                {"sources": list(e.sources), "sinks": dict(e.sinks), "flips": [asdict(flip) for flip in e.flips]}
                for e in episodes
            ],
        }
        (folder / REQUEST_FILE).write_text(json.dumps(request))
        for number, episode in enumerate(episodes):
            for port, payloads in episode.sources.items():
                np.save(sent_file(folder, number, port), payloads)
        run_cocotb(model, SIMULATOR_MODULE, folder, {FOLDER_VARIABLE: str(folder)}, seed=seed, limit_s=limit_s)
        if log is not None:
            shutil.copyfile(folder / SIMULATION_LOG, log)
        return [_read_result(folder, number, episode) for number, episode in enumerate(episodes)]


def _read_result(folder: Path, number: int, episode: Episode) -> EpisodeResult:
    with np.load(result_file(folder, number)) as stored:
        return EpisodeResult(
            payloads={port: stored[f"{port}.payloads"] for port in episode.sinks},
            transfer_cycles={port: stored[f"{port}.cycles"] for port in (*episode.sources, *episode.sinks)},
            cycles=int(stored["cycles"]),
        )
