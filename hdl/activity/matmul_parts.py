"""What to observe inside the matrix multiplier: where its cycles go."""

from collections.abc import Mapping
from typing import Any

from hdl.activity.observation import Observation, ObservedStream, Role, observe


def matmul_parts(parts: Mapping[str, Any]) -> list[Observation]:
    """Observations of hdl.matmul.Matmul and of its parts, from the components inside it by path.

    matmul: the unit as a whole. sequencer: working while it executes a command. loader: working while a sweep runs.
    array: busy exactly while it takes a token's codes, so its busy cycles over all cycles are its utilisation
    (padding of the last tile counted); idle while tables are loaded or no command is there; stalled on output while
    a RUN is refused for want of room in the output FIFO. output_fifo: working while it holds a token.
    """
    whole, sequencer, fifo = parts[""], parts["sequencer"], parts["fifo"]
    loader_ports = {each.name: each for each in observe(parts["mac.array.loader"], "loader").streams}
    command = ObservedStream("i_command", Role.REQUIRED, whole.i_command.valid, whole.i_command.ready)
    codes = ObservedStream("i_codes", Role.REQUIRED, whole.i_codes.valid, whole.i_codes.ready)
    full = fifo.o.valid & ~fifo.o.ready & ~codes.ready & ~command.ready & ~parts["mac.array.loader"].o_busy
    return [
        observe(whole, "matmul"),
        Observation(
            "sequencer",
            [
                command,
                codes,
                ObservedStream("o_load", Role.OUTPUT, sequencer.o_load.valid, sequencer.o_load.ready),
            ],
            working=~command.ready,
        ),
        Observation("loader", list(loader_ports.values()), working=parts["mac.array.loader"].o_busy),
        Observation("array", [codes], working=codes.ready, held=full),
        Observation("output_fifo", observe(fifo, "output_fifo").streams, working=~fifo.o_empty),
    ]
