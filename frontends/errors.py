"""What readers refuse."""

from collections.abc import Iterable
from difflib import get_close_matches


class ImportRefused(Exception):
    """The source model is damaged or holds something that is not understood; the message names the node and what to do."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean X?` where a known word is close, else `otherwise`."""
    close = get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else otherwise
