"""Rewrite passes: one a file, named after its flag."""
