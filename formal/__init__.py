"""Formal proofs of the hardware: each module states what holds of one unit, `python -m formal` has it proved."""
