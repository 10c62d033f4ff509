"""ECP5 primitives behind portable components: instances on an ECP5 platform, plain Amaranth elsewhere."""
