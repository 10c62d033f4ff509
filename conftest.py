"""Fixtures that the tests of every package share."""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
SOURCES = ("quant", "sim/contract", "sim/golden", "sim/assets.py", "sim/picture.py", "requirements.lock", "assets.lock")


def _source_hash() -> str:
    """Of everything that decides the bits of an exported model."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def exported_model() -> Path:
    """The model of the demo (seed 1), quantized once per state of the quantizer's sources and kept in build/."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    folder = build / f"test-model-{_source_hash()}"
    with (build / ".test-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            command = [sys.executable, "-m", "quant", "quantize", "--model", "lite_medsam", "--bits", "4"]
            command += ["--seed", "1", "--out", str(folder)]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"quantizing the default model failed:\n{result.stderr[-2000:]}"
    return folder
