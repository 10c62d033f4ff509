"""`python -m tests.sim.cycles.measure` writes measured.py anew, after a change of compiler or hardware.

It compiles the machine of preset tiny once (about a minute) and says how far the cycle model is off in every layer.
"""

from pathlib import Path
from typing import Final

from sim.bench.machine_layers import run_layers
from sim.compiler.compile import compile_encoder
from sim.cycles.memory import memory_rate
from sim.cycles.model import program_cycles
from sim.machine.presets import PRESETS
from tests.sim.compiler.networks import toy_sam_vit, toy_tiny_vit

FILE: Final = Path(__file__).with_name("measured.py")
NETWORKS: Final = {"TOY_TINY_VIT": toy_tiny_vit, "TOY_SAM_VIT": toy_sam_vit}
HEAD: Final = '''\
"""Cycles of the simulated hardware, layer by layer, on the invented encoders of tests.sim.compiler.networks
at preset tiny. Written by `python -m tests.sim.cycles.measure`."""

from typing import Final
'''


def main() -> None:
    """Measure both networks. Raises SystemExit when a layer's memory is not the executor's."""
    preset = PRESETS["tiny"]
    text = HEAD
    for name, network in NETWORKS.items():
        toy = network()
        program = compile_encoder(toy.parameters, toy.architecture, preset)
        model = program_cycles(program, memory_rate("onchip", preset))
        text += f"\n{name}: Final = {{\n"
        for number, run in run_layers(program, toy.picture, range(len(program.layers))):
            if run.differing_bytes:
                raise SystemExit(f"layer {run.layer.names[-1]} differs from the executor: {run.difference}")
            text += f'    "{run.layer.names[-1]}": {run.cycles},\n'
            off = model[number].cycles / run.cycles - 1
            print(f"{run.layer.names[-1]:48} {run.cycles:8,} model {off:+.2%}", flush=True)
        text += "}\n"
    FILE.write_text(text)


if __name__ == "__main__":
    main()
