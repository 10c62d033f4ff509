"""A controller of SDR SDRAM behind the memory port, and a model of the part that checks what it is told."""
