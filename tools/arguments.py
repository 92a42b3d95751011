"""Command lines: wrong ones are one line that names what was probably meant. Imports no xDSL, for the front doors."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from qvit.frontends.errors import did_you_mean


class UsageError(Exception):
    """The command line is wrong; exit status 2."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, but errors are raised, and name the flag that was probably meant. `also`: flags it does not know."""

    also: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            flag = unknown[1].partition("=")[0]
            known = [*self.also, *(option for action in self._actions for option in action.option_strings)]
            message = f"unknown flag {flag}{did_you_mean(flag, known)}"
        raise UsageError(message)
