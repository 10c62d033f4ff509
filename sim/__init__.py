"""Golden integer model, command-line simulation and cocotb benches of nibblesam."""
