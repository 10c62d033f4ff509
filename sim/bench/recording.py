"""Files and names through which `player.py` and the simulator's process talk; imported by both, so it stays light."""

from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "NIBBLESAM_BENCH_FOLDER"
"""Environment variable that tells the simulator's process its working folder."""

REQUEST_FILE: Final = "request.json"


def sent_file(folder: Path, episode: int, port: str) -> Path:
    """Payloads to send: uint8 (n, bytes)."""
    return folder / f"{episode}.{port}.sent.npy"


def result_file(folder: Path, episode: int) -> Path:
    """What an episode brought: `cycles`, `PORT.cycles` of every port and `PORT.payloads` of every sink."""
    return folder / f"{episode}.result.npz"
