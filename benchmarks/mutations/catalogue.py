"""The list of edits, read and checked."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sim.contract.errors import UserError

ROOT: Final = Path(__file__).resolve().parents[2]
EDITS_FILE: Final = Path(__file__).with_name("edits.toml")


@dataclass(frozen=True)
class Edit:
    """One fault: in `file`, relative to the root, the text `old` becomes `new`.

    unit: what is edited. breaks: what goes wrong then. tests: pytest node ids, of which one must fail.
    """

    unit: str
    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def title(self) -> str:
        """How the edit is told from all others."""
        return f"{self.unit}: {self.name}"

    @property
    def test_files(self) -> tuple[str, ...]:
        """Files of the tests, relative to the root."""
        return tuple(sorted({test.split("::")[0] for test in self.tests}))


def read_edits(path: Path = EDITS_FILE) -> list[Edit]:
    """All edits of a list. Raises UserError when two have one title, or a field is missing or unknown."""
    fields = Edit.__dataclass_fields__
    entries = tomllib.loads(path.read_text())["edit"]
    edits = []
    for number, entry in enumerate(entries, 1):
        if set(entry) != set(fields):
            raise UserError(f"{path}: edit {number} must have exactly the fields {', '.join(fields)}")
        edits.append(Edit(**(entry | {"tests": tuple(entry["tests"])})))
    titles = [edit.title for edit in edits]
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(f"{path}: two edits are called {title!r}; give one another name")
    return edits


def mutated(edit: Edit, root: Path = ROOT) -> str:
    """The edited file's text. Raises UserError unless the old text occurs exactly once."""
    text = (root / edit.file).read_text()
    count = text.count(edit.old)
    if count != 1:
        raise UserError(f"{edit.title}: the old text occurs {count} times in {edit.file}; mend it in {EDITS_FILE}")
    return text.replace(edit.old, edit.new)


def fingerprint(edit: Edit, root: Path = ROOT) -> str:
    """Of what decides whether the edit is caught: the edited file, the tests and the benches beside and above them."""
    files = {root / file for file in edit.test_files}
    for file in edit.test_files:
        for folder in (root / file).parents:
            if folder == root:
                break
            files |= {path for path in folder.glob("*.py") if not path.name.startswith("test_")}
    digest = hashlib.sha256("\0".join((*edit.tests, mutated(edit, root))).encode())
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
