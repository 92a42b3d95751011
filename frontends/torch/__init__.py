"""The torch readers: exported programs, and checkpoints of I-ViT. `torch` itself is imported only when one is read."""

from qvit.frontends.torch.ivit import import_ivit
from qvit.frontends.torch.reader import from_exported, load_exported

__all__ = ["from_exported", "import_ivit", "load_exported"]
