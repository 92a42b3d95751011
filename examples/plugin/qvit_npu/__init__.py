"""Products of 8-bit codes for a matrix unit: a dialect of one operation, and the pass that maps products to it."""
