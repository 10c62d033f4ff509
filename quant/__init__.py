"""Float model to packed INT4 model: calibration, error-compensating rounding, export, evaluation.

The only package of the project that imports torch. It imports the integer contract (`sim.contract`), the
golden model only to evaluate, and no hardware code.
"""

import os

# Idle workers of torch's thread pool spin by default; beside any other busy process that costs tenfold time.
# The pool reads this when torch is first imported, so it is set before any module of this package imports it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
