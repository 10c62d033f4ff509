"""Coverage of the hardware by the tests of its units: statements reached and named functional points hit."""
