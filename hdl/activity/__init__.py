"""What a unit does in each cycle: busy, stalled on input, stalled on output or idle; counters and events of it.

Nothing here is part of a unit. `Observed` wraps one in hardware with counters and an event stream, `Traced` wraps
one in simulation and prints what its parts do; a unit that is not wrapped has no cell for it.
"""
