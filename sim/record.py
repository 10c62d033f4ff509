"""Files that a run leaves behind, written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.contract.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it. Raises UserError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            fresh = Path(scratch) / path.name
            fresh.write_bytes(content)
            os.replace(fresh, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable place") from error


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write `figures` as JSON, as `write_whole` does; NaN and infinities are refused (ValueError)."""
    write_whole(path, (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
