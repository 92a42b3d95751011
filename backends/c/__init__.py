"""The C backend: @main of a compiled module as C11 without dependencies, allocation or floating point.

`emit(module)` makes the files, `load(module)` compiles them and returns a callable on NumPy arrays.
"""

from qvit.backends.c.emit import Sources, emit
from qvit.backends.c.loader import Loaded, NoCompiler, load
from qvit.backends.c.step import CompileError

__all__ = ["CompileError", "Loaded", "NoCompiler", "Sources", "emit", "load"]
