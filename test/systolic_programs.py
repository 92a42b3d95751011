"""Small programs for the accelerator: data in its memories, instructions one after another, results in DRAM."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qvit.backends.systolic.constants import Records
from qvit.backends.systolic.isa import Address, Halt, Instruction, Load, Memory, Queue, Requantize, Store
from qvit.backends.systolic.machine import Machine, load_machine
from qvit.backends.systolic.program import Port, Program
from qvit.backends.systolic.simulator import Result, simulate
from qvit.dialects.semantics.integers import Array, IntType

SMALL, LARGE = load_machine("small"), load_machine("large")
I8, U8, I16, U16, I32 = IntType(8), IntType(8, False), IntType(16), IntType(16, False), IntType(32)
TYPES = (IntType(2), IntType(4, False), I8, U8, IntType(12), I16, U16, IntType(20), I32)


def on(*queues: Queue) -> int:
    """A mask of `wait` or `signal`."""
    return sum(1 << queue for queue in queues)


def chained(instructions: Sequence[Instruction]) -> list[Instruction]:
    """With tokens so that each begins when the one before has ended."""
    found = list(instructions)
    for at in range(1, len(found)):
        before, after = found[at - 1].queue, found[at].queue
        if before is not None and after is not None and before != after:
            found[at - 1] = replace(found[at - 1], signal=found[at - 1].signal | 1 << after)
            found[at] = replace(found[at], wait=found[at].wait | 1 << before)
    return found


def numbers(rng: np.random.Generator, held: IntType, shape: tuple[int, ...]) -> Array:
    """Random numbers of a type, its lowest and its highest among them where there is room."""
    found = rng.integers(held.lo, held.hi, shape, np.int64, endpoint=True)
    flat = found.reshape(-1)
    flat[: min(2, flat.size)] = [held.lo, held.hi][: min(2, flat.size)]
    return rng.permuted(flat).reshape(shape).astype(held.dtype)


def rows_of(matrix: Array, stride: int) -> Array:
    """Rows of a matrix `stride` bytes apart; between them 0xa5."""
    rows = np.frombuffer(np.ascontiguousarray(matrix).tobytes(), np.uint8).reshape(len(matrix), -1)
    found = np.full((len(rows), max(stride, rows.shape[1])), 0xA5, np.uint8)
    found[:, : rows.shape[1]] = rows
    return found.reshape(-1)


def packed(matrix: Array, bits: int) -> Array:
    """uint8 [rows, bytes]: elements of `bits` bits one after another, the first in the lowest bits, rows from whole bytes on."""
    found: list[list[int]] = []
    for row in matrix.tolist():
        number = sum((value & ((1 << bits) - 1)) << (bits * at) for at, value in enumerate(row))
        found.append(list(number.to_bytes((len(row) * bits + 7) // 8, "little")))
    return np.array(found, np.uint8)


@dataclass
class Bench:
    """Collects instructions and what they find; `run` executes them one after another."""

    machine: Machine = SMALL
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    data: dict[int, Array] = field(default_factory=dict[int, Array])
    outputs: list[Port] = field(default_factory=list[Port])
    at: int = 0

    def room(self, size: int) -> int:
        """The address of new bytes in DRAM."""
        address, self.at = self.at, self.at + -(-size // 64) * 64
        return address

    def put(self, memory: Memory, address: int, content: Array | bytes) -> None:
        """Bytes from DRAM into a memory."""
        found = np.frombuffer(content if isinstance(content, bytes) else content.tobytes(), np.uint8)
        source = self.room(len(found))
        self.data[source] = found
        self.instructions.append(
            Load(
                memory=memory, source=Address(source), target=Address(address), planes=1, rows=1, run=len(found)
            )
        )  # fmt: skip

    def add(self, instruction: Instruction) -> None:
        self.instructions.append(instruction)

    def identity(self) -> int:
        """The address in CBUF of a record that changes nothing."""
        one, zero = np.array([1]), np.array([0])
        address = self.machine.memory.constants - 16
        self.put(Memory.CBUF, address, Records(one, zero, zero, zero).data())
        return address

    def sums(self, acc: int, rows: int, columns: int, row: int, target: int) -> None:
        """Brings sums from ACC to SPM as they are."""
        record = self.identity()
        self.add(
            Requantize(
                source=Address(acc), source_memory=Memory.ACC, source_row=row, source_type=I32, target=Address(target),
                target_row=4 * columns, target_type=I32, rows=rows, columns=columns, records=Address(record),
            )
        )  # fmt: skip

    def get(self, name: str, address: int, shape: tuple[int, ...], held: IntType, row: int | None = None) -> None:
        """A matrix of SPM as an output; row: bytes from a row to the next."""
        run = shape[-1] * held.dtype.itemsize
        port = Port(name, self.room(shape[0] * run), shape, held)
        self.outputs.append(port)
        self.instructions.append(
            Store(
                source=Address(address), target=Address(port.address), planes=1, rows=shape[0], run=run,
                source_row=run if row is None else row, target_row=run,
            )
        )  # fmt: skip

    def program(self) -> Program:
        instructions = [*chained(self.instructions), Halt()]
        return Program(self.machine, instructions, self.data, max(self.at, 64), (), self.outputs)

    def run(self, **options: Any) -> Result:
        return simulate(self.program(), {}, **options)

    def outcome(self) -> dict[str, Array]:
        return dict(self.run().outputs)
