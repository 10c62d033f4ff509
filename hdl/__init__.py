"""Amaranth hardware of nibblesam; every unit elaborates portably, and to ECP5 primitives on an ECP5 platform."""
