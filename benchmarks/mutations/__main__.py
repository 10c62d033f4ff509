"""Makes single edits of the hardware in a copy of the tree, and counts how many of them its tests notice.

First all named tests run on the unchanged hardware and must pass. Then each edit alone, with its tests. An edit counts
as caught when a comparison fails (`assertion`) or a bench gives up after its own number of cycles (`patience`); not
when the design cannot be built (`broken`) or the run's limit of time ends it (`hung`).
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.mutations.catalogue import ROOT, Edit, fingerprint, read_edits
from benchmarks.mutations.runner import LIMIT_S, Result, copy_of_the_tree, run_edit, run_tests
from sim.contract.errors import UserError
from sim.progress import progress_bar
from sim.record import write_json

RECORD: Final = ROOT / "out" / "mutations.json"

Record = dict[str, dict[str, Any]]


def unchanged_fingerprint(tests: Sequence[str]) -> str:
    """Of the unchanged hardware and the named tests."""
    digest = hashlib.sha256("\0".join(tests).encode())
    for path in sorted({*(ROOT / "hdl").rglob("*.py"), *(ROOT / test.split("::")[0] for test in tests)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_record(path: Path) -> Record:
    """Results of earlier runs, none if there were none. Raises UserError when the file is no record."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); remove it to run all edits anew") from error
    if not isinstance(record, dict) or not all("fingerprint" in one and "verdict" in one for one in record.values()):
        raise UserError(f"{path} is no record of this bench; remove it to run all edits anew")
    return record


def run_all(
    edits: Sequence[Edit],
    record: Record,
    limit_s: float,
    keep: Callable[[Record], None],
    progress: Callable[[str], None],
) -> Record:
    """Add what is missing in `record` or out of date; returns the part of `edits`.

    Raises UserError when a test fails on the unchanged hardware.
    """
    found: Record = {}
    with copy_of_the_tree() as copy:
        tests = sorted({test for edit in edits for test in edit.tests})
        unchanged = unchanged_fingerprint(tests)
        progress("unchanged hardware")
        if record.get("unchanged", {}).get("fingerprint") != unchanged:
            result = run_tests(copy, tests, 10 * limit_s)
            if result.verdict != "green":
                raise UserError(f"{result.test} fails on the unchanged hardware ({result.message}); mend it first")
            record["unchanged"] = {"fingerprint": unchanged, **asdict(result)}
            keep(record)
        for edit in edits:
            progress(edit.title)
            key = fingerprint(edit)
            known = record.get(edit.title, {})
            if known.get("fingerprint") != key:
                known = {"fingerprint": key, "unit": edit.unit, **asdict(run_edit(copy, edit, limit_s))}
                record[edit.title] = known
                keep(record)
            found[edit.title] = known
    return found


def table(found: Record) -> str:
    """One line per edit, then the survivors and the count."""
    width = max(map(len, found))
    words = {"green": "SURVIVED"}
    lines = [
        f"{title:{width}}  {words.get(one['verdict'], one['verdict']):9}  {one['seconds']:5.1f} s  {one['test']}"
        for title, one in found.items()
    ]
    caught = sum(Result(**{name: one[name] for name in Result.__dataclass_fields__}).caught for one in found.values())
    return "\n".join([*lines, f"{caught} of {len(found)} edits are caught"])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when every edit is caught."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="edits whose title has it; repeatable"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="per edit (%(default).0f s)")
    parser.add_argument("--json", type=Path, default=RECORD, metavar="FILE", help="results so far (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        edits = [
            edit for edit in read_edits() if not arguments.only or any(part in edit.title for part in arguments.only)
        ]
        if not edits:
            raise UserError(f"--only {arguments.only[0]}: no edit has that in its title")
        record = read_record(arguments.json)
        with progress_bar(len(edits) + 1, "edit") as progress:
            found = run_all(edits, record, arguments.limit, lambda whole: write_json(arguments.json, whole), progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on behind the last finished edit", file=sys.stderr)
        return 1
    print(table(found))
    return 0 if all(one["verdict"] in ("assertion", "patience") for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
