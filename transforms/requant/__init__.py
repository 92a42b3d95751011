"""Integers in the place of real factors: multipliers, and proofs that they compute the same."""
