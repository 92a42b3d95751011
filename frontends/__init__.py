"""Readers of other tools' models: a source graph in, a module of the qvit dialect out."""
