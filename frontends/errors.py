"""What readers refuse, and what recognisers decline."""

from dataclasses import dataclass


class ImportRefused(Exception):
    """The source model is damaged or holds something that is not understood; the message names the node and what to do."""


@dataclass(frozen=True)
class Declined:
    """A recogniser that saw the beginnings of its pattern, and why it did not take it."""

    src: str
    rule: str
    reason: str
