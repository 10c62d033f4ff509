"""What an ARRAY_COMMAND may say."""

from sim.executor.unit import check
from sim.machine.presets import MachinePreset
from sim.machine.settings import SCORE_PLANES, Phase


def check_command(command: dict[str, int], preset: MachinePreset) -> None:
    """Raise OperandError for fields that the array is not built for, or that contradict each other."""
    queries, keys = command["queries"], command["keys"]
    check(command["phase"] in list(Phase), f"the array has no phase {command['phase']}")
    check(1 <= queries <= preset.token_depth, f"{queries} queries, 1..{preset.token_depth} are possible")
    check(command["codebook"] < preset.codebooks, f"there is no codebook {command['codebook']}")
    phase = Phase(command["phase"])
    dense = phase == Phase.DENSE
    for name, allowed in {
        "first": (0, 1) if dense else (1,),
        "last": (0, 1) if dense else (1,),
        "split": (0, 1) if phase == Phase.SCORES else (0,),
        "release": (0,) if phase == Phase.MIX else (0, 1),
        "tiles": (1,) if dense else range(1, preset.keys + 1),
        "groups": (1,) if dense else range(1, preset.keys + 1),
        "planes": (1,) if dense else (1, 2),
        "runs": (1,) if dense else range(1, SCORE_PLANES + 1),
    }.items():
        check(command[name] in allowed, f"{phase.name} with {name} {command[name]}")
    if not dense:
        column_tiles, row_tiles = -(-keys // preset.columns), -(-keys // preset.rows)
        fits = queries * column_tiles <= preset.logit_words and queries * row_tiles <= preset.code_words
        check(1 <= keys <= preset.keys and fits, f"{queries} queries of {keys} keys do not fit the buffers")
        loop, tiles = ("groups", row_tiles) if phase == Phase.MIX else ("tiles", column_tiles)
        check(command[loop] == tiles, f"{phase.name} of {keys} keys has {tiles} {loop}, not {command[loop]}")
