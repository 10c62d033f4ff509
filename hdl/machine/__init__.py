"""The machine around the units: command fetch, reader, writer, gearboxes, one memory port."""
