"""Injected faults: whatever is wrong with program or memory, a run ends, and ends without writing where it must not."""
