"""What to observe inside the machine: who has work, and who waits for whom."""

from collections.abc import Mapping
from typing import Any, Final

from amaranth.hdl import Value

from hdl.activity.observation import Observation, ObservedStream, Role, observe

UNITS: Final = (
    *("fetch", "control", "reader", "delivery", "writer", "external memory", "near memory"),
    *("code buffer", "table loads", "array", "softmax", "position"),
    *("encoder", "layer norm", "activation", "depthwise", "residual"),
)
"""Names of the observations of a machine, in order; one without near memory lacks that."""

SIDE_INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "reader": ("i",),
    "delivery": ("i_job",),
    "writer": ("i",),
    "near memory": ("read", "write"),
    "external memory": ("response",),
    "code buffer": ("i_block", "i_read"),
    "position": ("i_command",),
    "encoder": ("i_order", "i_channels", "i_tiles", "i_table", "i_planes"),
    "layer norm": ("i_command", "i_parameters"),
    "depthwise": ("i_map",),
}
"""By unit: inputs that bring it work or settings. The lack of these is idleness, not a stall."""


def machine_parts(parts: Mapping[str, Any]) -> list[Observation]:
    """Observations of the parts of hdl.machine.machine.Machine, from the components inside it by path.

    fetch: working from start to STOP. control: stalled on input while no command is there, on output while the one it
    holds waits: READ and SEND for the reader, WRITE for the writer, WAIT and STOP for what came before. reader: its
    requests, and its beats until the delivery takes them. delivery: payloads until their ports take them. writer:
    stalled on input while its WRITE waits for results. external memory, near memory: busy with every request and
    answer; stalled on output while a request, of near memory what was read, is not taken. code buffer: stalled on
    input while the array has asked for codes that have not come. array: busy exactly while it takes a token's codes;
    stalled on output while a RUN is refused for want of room for results. Units without `o_idle` (activation,
    depthwise, residual) are idle while nothing stands at their ports.
    """
    fetch, control, near = parts["mover.fetch"], parts["mover.control"], parts.get("mover.near")
    running = ~fetch.o_idle
    return [
        observe(fetch, "fetch"),
        Observation(
            "control",
            observe(control, "control").streams,
            working=running,
            held=running & ~control.i.ready & ~control.o_read.valid & ~control.o_write.valid,
        ),
        _unit(parts["mover.reader"], "reader"),
        _answering(_unit(parts["mover.delivery"], "delivery"), "i_beat"),
        _answering(_unit(parts["mover.writer"], "writer"), "i"),
        Observation("external memory", _unit(parts["mover.arbiter"].port, "external memory").streams),
        *([] if near is None else [_unit(near, "near memory")]),
        _unit(parts["attention.buffer"], "code buffer"),
        observe(parts["attention.mac.array.loader"], "table loads"),
        _array(parts),
        observe(parts["attention.softmax"], "softmax"),
        _unit(parts["position"], "position"),
        Observation(
            "encoder",
            _unit(parts["codes"], "encoder").streams,
            working=~parts["codes.order"].o_idle | ~parts["codes.packer"].o_idle,
        ),
        _unit(parts["norm"], "layer norm"),
        observe(parts["activation"], "activation"),
        _unit(parts["depthwise"], "depthwise"),
        observe(parts["residual"], "residual"),
    ]


def command_number(parts: Mapping[str, Any]) -> Value:
    """Number of the command that the control holds or held last, counted from address 0; 0 before the first."""
    number: Value = parts["mover.control"].o_read.payload.where
    return number


def _unit(component: Any, name: str) -> Observation:
    """As `observe`, with SIDE_INPUTS."""
    seen = observe(component, name)
    side = SIDE_INPUTS[name]
    streams = [
        ObservedStream(each.name, Role.SIDE, each.valid, each.ready) if each.name in side else each
        for each in seen.streams
    ]
    return Observation(name, streams, seen.working)


def _answering(seen: Observation, prefix: str) -> Observation:
    """Inputs beginning with `prefix` are taken when they are valid."""
    streams = [
        ObservedStream(each.name, Role.ANSWERING, each.valid, each.ready)
        if each.name.startswith(prefix) and each.role is Role.REQUIRED
        else each
        for each in seen.streams
    ]
    return Observation(seen.name, streams, seen.working, seen.held)


def _array(parts: Mapping[str, Any]) -> Observation:
    """The RUNs, as hdl.activity.matmul_parts sees them."""
    sequencer, fifo, loader = (parts[f"attention.{name}"] for name in ("sequencer", "fifo", "mac.array.loader"))
    codes = ObservedStream("codes", Role.REQUIRED, sequencer.codes_valid, sequencer.codes_ready)
    full = fifo.o.valid & ~fifo.o.ready & ~codes.ready & ~sequencer.i_command.ready & ~loader.o_busy
    return Observation("array", [codes], working=codes.ready, held=full)
