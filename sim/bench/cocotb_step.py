"""One step of cocotb's Python runner (compile or run), as a process of its own.

`python -m sim.bench.cocotb_step STEP.json`: the JSON object holds `step` ("build" or "test") and `arguments`,
the keyword arguments of that method of the runner. A process of its own keeps the runner's environment, its
exits and its log away from the caller.
"""

import json
import sys
from pathlib import Path

from cocotb_tools.runner import get_runner


def main() -> None:
    """Run the step; any failure ends the process with a status other than 0."""
    task = json.loads(Path(sys.argv[1]).read_text())
    runner = get_runner("verilator")
    if task["step"] == "build":
        runner.build(**task["arguments"])
    else:
        runner.test(**task["arguments"])


if __name__ == "__main__":
    main()
