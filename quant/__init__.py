"""Float model to packed INT4 model: calibration, error-compensating rounding, export, evaluation.

The only package of the project that imports torch. It imports the integer contract (`sim.contract`), the
golden model only to evaluate, and no hardware code.
"""
