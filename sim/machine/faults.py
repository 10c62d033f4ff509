"""Why the machine stops before its program ends: the number that `o_error` shows."""

from enum import IntEnum


class Fault(IntEnum):
    """Kinds of `o_error`.

    OPCODE: no such command. PORT: no such port, an output where an input is due or the other way round, or a SEND whose
    payload does not fit a command. ALIGNMENT: an address or stride that is no multiple of a beat. FIELD: a count of 0,
    more token_dims than loops, a SEND of other than 1..24 bytes. RANGE: a beat outside memory. PROTECTED: a write below
    the first writable address. MEMORY: the memory answered with an error. WATCHDOG: no progress.
    """

    NONE = 0
    OPCODE = 1
    PORT = 2
    ALIGNMENT = 3
    FIELD = 4
    RANGE = 5
    PROTECTED = 6
    MEMORY = 7
    WATCHDOG = 8
