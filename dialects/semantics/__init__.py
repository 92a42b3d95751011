"""What every operation computes, in NumPy alone: the one definition that all backends are held to.

Integer operations are exact: ranges, rounding and saturation are stated at each function, and a result that does not
fit its type is an OverflowError, never a wrap. Float operations are evaluated in the precision of their operands.
Nothing here imports xDSL.
"""
