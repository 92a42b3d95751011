"""What a tool left behind, as tests look at it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a tool left behind: exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    def failed(self, status: int = 1) -> str:
        """The message of a failure: one line, and after wrong usage the hint at --help; nothing on standard output."""
        assert (self.status, self.out) == (status, "")
        message, *hint = self.err.splitlines()
        tool = message.partition(":")[0]
        assert hint == ([f"try {tool} --help"] if status == 2 else [])
        return message

    def succeeded(self) -> str:
        assert (self.status, self.err) == (0, "")
        return self.out


Tool = Callable[..., Done]


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
