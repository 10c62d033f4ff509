"""Who may import whom: the heavy frameworks stay in their packages, the golden model needs neither."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = {
    "quant": {"amaranth", "cocotb", "hdl", "boards"},
    "hdl": {"torch", "segment_anything", "cocotb", "quant", "boards"},
    "formal": {"torch", "segment_anything", "cocotb", "quant", "boards"},
    "boards": {"torch", "segment_anything", "cocotb", "quant"},
    "demo": {"torch", "amaranth", "cocotb"},
    "sim": {"torch", "segment_anything", "quant", "boards"},
    "sim/contract": {"amaranth", "hdl", "cocotb", "tqdm", "PIL"},
    "sim/golden": {"amaranth", "hdl", "cocotb"},
    "sim/machine": {"amaranth", "hdl", "cocotb"},
    "sim/executor": {"amaranth", "hdl", "cocotb"},
    "sim/compiler": {"amaranth", "hdl", "cocotb"},
    "sim/cycles": {"amaranth", "hdl", "cocotb"},
}


def imported_packages(file: Path) -> set[str]:
    """First components of every absolute import of a file, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", FOREIGN)
def test_package_imports_nothing_foreign(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files, f"{package} has no module: the rule checks nothing"
    wrong = {str(file.relative_to(ROOT)): imported_packages(file) & FOREIGN[package] for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def test_the_rule_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("import numpy.linalg\ndef f():\n    from torch.nn import Linear\n")
    assert imported_packages(file) == {"numpy", "torch"}
