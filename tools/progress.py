"""What a tool is at, on a terminal: a line on stderr when a step takes longer than DELAY, gone when the step ends.

Library functions know nothing of it: a tool wraps its steps, and counts where a function calls back anyway.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from threading import Event, Thread
from typing import TextIO, cast

DELAY, PAUSE = 2.0, 0.2  # seconds until the line appears, and between two of its updates


@dataclass
class Step:
    """What is being done, and how much of it is; the tool writes both, the line shows them."""

    what: str
    done: int = 0


@contextmanager
def progress(what: str, total: int | None = None) -> Generator[Step]:
    """A bar for `total` parts, else a clock, while the block runs; nothing where stderr is no terminal.

    The line is gone before an exception leaves the block, and lines that the block itself writes go above it.
    """
    step, terminal = Step(what), sys.stderr
    if not terminal.isatty():
        yield step
        return
    from tqdm.contrib import DummyTqdmFile

    finished = Event()
    line = Thread(target=_show, args=(step, total, terminal, finished), daemon=True)
    line.start()
    try:
        with redirect_stderr(cast(TextIO, DummyTqdmFile(terminal))):
            yield step
    finally:
        finished.set()
        line.join()


def _show(step: Step, total: int | None, terminal: TextIO, finished: Event) -> None:
    if finished.wait(DELAY):
        return
    from tqdm import tqdm

    layout = "{desc} {elapsed}" if total is None else "{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}"
    with tqdm(total=total, desc=step.what, file=terminal, leave=False, bar_format=layout, dynamic_ncols=True) as bar:
        bar.start_t -= DELAY
        shown = True
        while shown:
            bar.n = step.done
            bar.set_description_str(step.what)
            shown = not finished.wait(PAUSE)
