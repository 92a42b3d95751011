"""The torch reader: exported programs. `torch` itself is imported only when one is read."""

from qvit.frontends.torch.reader import from_exported, load_exported

__all__ = ["from_exported", "load_exported"]
