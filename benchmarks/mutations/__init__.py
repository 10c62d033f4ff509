"""Mutation of the hardware: single edits (edits.toml), each of which a named test must notice."""
