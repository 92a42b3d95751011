"""Interval arithmetic on the integers of a module: what --range-analysis is made of."""
