"""The operations, by theme. Each docstring gives the formula and an example that the tests round-trip."""
