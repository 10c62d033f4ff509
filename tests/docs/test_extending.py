"""The code of docs/extending.md is run as it stands there: codebook, unit, bench and proof."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(BLOCK.findall(PAGE.read_text()))
TESTS = sorted(name for name in FILES if Path(name).name.startswith("test_"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python module's command in the folder, with the checkout's packages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_test(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder), name)


def test_the_page_holds_both_examples() -> None:
    assert {Path(name).name for name in TESTS} == {
        "test_squares.py",
        "test_square_encoder.py",
        "test_square_encoder_proof.py",
    }
    assert all(f"`{name}`" in PAGE.read_text() for name in FILES)


@pytest.mark.parametrize("name", TESTS)
def test_a_test_of_the_page_passes(folder: Path, name: str) -> None:
    result = run_test(folder, name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^\d+ passed", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("square_encoder.py", "self.i.payload[lane] >= threshold", "self.i.payload[lane] > threshold"),
        ("square_encoder.py", "take.eq(~compared | move_on)", "take.eq(1)"),
        ("squares.py", "np.sign(_POINTS) * np.square(_POINTS)", "_POINTS"),
    ],
    ids=["comparison", "handshake", "levels"],
)
def test_a_wrong_line_turns_its_test_red(folder: Path, file: str, right: str, wrong: str) -> None:
    path = folder / "extension" / file
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    result = run_test(folder, f"extension/test_{file}")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "failed" in result.stdout


def test_the_code_keeps_the_projects_style(folder: Path) -> None:
    """But for the order of imports, which depends on the folders beside the file."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "extension"]
    for command in (["check", "--extend-ignore", "I001"], ["format", "--check"]):
        result = run(folder, "ruff", *command, *settings)
        assert result.returncode == 0, result.stdout + result.stderr
