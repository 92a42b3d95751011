"""A step that takes long says so on a terminal, and nowhere else."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from data.small_vit import Variant, images, vit

from qvit.tools import qvit_run

PROGRAM = """
import sys, time
from qvit.tools import progress
from qvit.tools.common import guarded
progress.DELAY, progress.PAUSE = {delay}, 0.01

def body():
    with progress.progress("reading a.onnx", {total}) as step:
        time.sleep(0.2)
        step.done, step.what = 3, "counting"
        time.sleep(0.2)
        print("a note", file=sys.stderr)
        time.sleep(0.2)
        {end}

sys.exit(guarded("qvit-opt", body))
"""
FAIL = 'raise ValueError("no such thing")'


def on_a_terminal(program: str) -> str:
    """What a program writes on a terminal of 80 columns, its control characters included."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 1 << 16):
                written += part
        except OSError:  # how Linux says that the other side is closed
            pass
    os.close(ours)
    return written.decode()


def screen(written: str) -> list[str]:
    """What stands there in the end: a carriage return goes back over the line."""
    lines: list[str] = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def test_a_bar_on_a_terminal_leaves_nothing_behind() -> None:
    written = on_a_terminal(PROGRAM.format(delay=0, total=4, end=FAIL))
    assert "reading a.onnx   0%" in written
    assert "counting  75%" in written
    assert screen(written) == ["a note", "qvit-opt: error: no such thing"]


def test_a_clock_where_nothing_is_counted() -> None:
    written = on_a_terminal(PROGRAM.format(delay=0, total=None, end="pass"))
    assert "reading a.onnx 00:00" in written
    assert "%" not in written
    assert screen(written) == ["a note"]


def test_quick_steps_show_nothing() -> None:
    assert on_a_terminal(PROGRAM.format(delay=60, total=4, end="pass")) == "a note\r\n"


def test_without_a_terminal_there_is_only_what_is_said() -> None:
    program = PROGRAM.format(delay=0, total=4, end=FAIL)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "a note\nqvit-opt: error: no such thing\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "vit.onnx").write_bytes(vit(Variant()).SerializeToString())
    np.save(folder / "image.npy", images(1))
    return folder


TOOL = """
import sys, threading
from qvit.tools import progress

class Drawn(threading.Event):
    # a step does not end before its line is drawn: the first wait is for the delay, the second comes after drawing
    waits, drawn = 0, None
    def wait(self, timeout):
        self.waits += 1
        if self.waits == 2:
            self.drawn.release()
        return super().wait(timeout)
    def set(self):
        self.drawn.acquire()
        super().set()

def event():
    made = Drawn()
    made.drawn = threading.Semaphore(0)
    return made

progress.DELAY, progress.PAUSE, progress.Event = 0, 0.01, event
from qvit.tools.{tool} import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("tool", "arguments", "steps"),
    [
        ("qvit_opt", ["-o", "{}/out.mlir"], ["reading vit.onnx", "passes", "writing out.safetensors"]),
        ("qvit_opt", ["--report", "{}/out.html"], ["reading vit.onnx", "passes", "writing the page"]),
        ("qvit_run", ["--input", "{}/image.npy"], ["reading vit.onnx", "running"]),
    ],
    ids=["module", "page", "run"],
)
def test_the_steps_of_the_tools(model: Path, tool: str, arguments: list[str], steps: list[str]) -> None:
    arguments = [f"{model}/vit.onnx", "--dim", "batch=1", *(a.format(model) for a in arguments)]
    written = on_a_terminal(TOOL.format(tool=tool, arguments=arguments))
    assert [step for step in steps if step not in written] == []
    assert [line for line in screen(written) if "error" in line or "%" in line] == []


def test_the_tools_are_silent_elsewhere(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert qvit_run.main([f"{model}/vit.onnx", "--dim", "batch=1", "--input", f"{model}/image.npy"]) == 0
    assert capsys.readouterr().err == ""
