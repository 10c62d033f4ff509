"""The page about the traps of the public code: all are listed, and every module and test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "traps.md"
TRAPS = 14

HEADING = re.compile(r"^## (\d+)\. .+$", re.MULTILINE)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NAMED_PLACE = re.compile(r"`((?:quant|sim|hdl|boards|demo|tests)/[\w/]*(?:\.py)?)`")


def sections(page: str) -> dict[int, str]:
    """Text of each trap by its number; one that comes twice fails."""
    parts = HEADING.split(page)[1:]
    numbers = [int(number) for number in parts[::2]]
    assert len(numbers) == len(set(numbers)), numbers
    return dict(zip(numbers, parts[1::2], strict=True))


def collected_from(file: Path) -> set[str]:
    """Names of the test functions that pytest would collect from a file."""
    body = ast.parse(file.read_text()).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def faults(page: str, root: Path) -> list[str]:
    """What a reader would look for in vain."""
    found = sections(page)
    wrong = [f"trap {number} is missing" for number in range(1, TRAPS + 1) if number not in found]
    wrong += [f"there is no trap {number}" for number in found if not 1 <= number <= TRAPS]
    for number, text in found.items():
        named, places = NAMED_TEST.findall(text), NAMED_PLACE.findall(text)
        if not named:
            wrong.append(f"trap {number} names no test")
        if not any(place.startswith(("quant/", "sim/")) for place in places):
            wrong.append(f"trap {number} names no module")
        wrong += [f"trap {number}: {place} does not exist" for place in places if not (root / place).exists()]
        for file, test in named:
            if not (root / file).is_file():
                wrong.append(f"trap {number}: {file} does not exist")
            elif test not in collected_from(root / file):
                wrong.append(f"trap {number}: {file} has no {test}")
    return wrong


def test_every_trap_is_listed_with_modules_and_tests_that_exist() -> None:
    assert faults(PAGE.read_text(), ROOT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("## 7. ", "## Seven: ", "trap 7 is missing"),
        (
            "::test_the_majority_of_pictures_decides",
            "::test_the_majority",
            "trap 9: tests/quant/test_bimodal.py has no",
        ),
        ("tests/quant/test_lnq.py", "tests/quant/test_lnq2.py", "trap 4: tests/quant/test_lnq2.py does not exist"),
        ("`quant/hluq.py`", "`quant/hluq2.py`", "trap 3: quant/hluq2.py does not exist"),
        ("`quant/recipe.py`", "the recipe", "trap 10 names no module"),
        ("* `tests/quant/test_calibrate.py::", "* `", "trap 8 names no test"),
        ("## 14. ", "## 15. ", "there is no trap 15"),
    ],
)
def test_a_page_that_rots_is_noticed(old: str, new: str, fault: str) -> None:
    page = PAGE.read_text()
    assert old in page
    assert any(fault in one for one in faults(page.replace(old, new), ROOT))


def strings_and_calls(file: Path) -> tuple[list[str], list[str]]:
    """String literals, and names of called methods, of a source file."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    calls = [node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return strings, calls


PLACE = re.compile(r"^(/(home|root|data\w*|mnt|media|Users|work|tmp|opt)/|~/|[A-Z]:\\)")


def test_no_module_of_the_quantizer_names_a_place_of_somebodys_machine_or_demands_a_gpu() -> None:
    assert PLACE.match("/home/somebody/coco") and PLACE.match("/data2/coco") and not PLACE.match("out/model")
    files = sorted((ROOT / "quant").rglob("*.py"))
    assert len(files) > 30
    for file in files:
        strings, calls = strings_and_calls(file)
        assert not [text for text in strings if PLACE.match(text)], file
        assert "cuda" not in calls, f"{file}: .cuda() fails where there is none; .to(device) does not"
