"""Cycle model of a compiled program: what every layer costs, without data and without hardware."""
