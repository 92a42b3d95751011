"""Write docs/isa.md from the instruction set and its docstrings: `python docs/generate_isa.py`."""

import inspect
import re
import sys
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

from qvit.backends.systolic import assembly, constants, container, isa, notation
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    INSTRUCTIONS,
    OPCODE_BITS,
    WORD_BITS,
    Bits,
    Instruction,
    Memory,
    Queue,
    fields_of,
)
from qvit.backends.systolic.lowering.build import LoweringError
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import Machine, load_machine, machine_names
from qvit.transforms.pipelines import SCHEMES

HEAD = f"""\
# The instruction set of the systolic machine

Made from `backends/systolic` and its docstrings by `python docs/generate_isa.py`.

## The machine

A sequencer reads a program, {WORD_BITS} bits a word, and hands instructions to four units, each with a queue of its own. The
array multiplies and adds integers, the vector unit does all else; neither has a float. How large all is, how long it takes
and what it leaves out, a machine's TOML file says (the table at the end).

The **array** has rows x columns elements, each of which multiplies and adds once a cycle. Weights stationary: rows are the
contracted axis, columns the output's; a tile of B is loaded and A streams through. Outputs stationary: rows and columns are
the output's, A and B stream. With shadow registers the next tile comes in while this one is used.

**Memories** are addressed in bytes; all numbers in them are little endian.

| memory | what it is |
|---|---|
"""

QUEUES = """\

**Queues.** Loads and stores share the channel to DRAM.

| queue | number | its instructions |
|---|---|---|
"""

TOKENS = """\

The sequencer takes a word a cycle, in their order. It runs `set`, `add`, `loop` and `halt` itself; every other word it hands
to the queue of its unit, or waits until there is room. Registers are read then: what an instruction does never depends on
`set` or `add` behind it.

**Tokens.** For each pair of different queues there is a counter: how many tokens the first has given to the second. An
instruction starts once its unit is free and every queue of its `wait` has a token for its own; it takes one of each. When it
is done it gives one to every queue of its `signal`. A counter that passes its largest number is a trap. An instruction
never waits for its own queue or signals it, and those of the sequencer do neither: a trap.

## Hazards

What the machine orders by itself: the instructions of one queue. They run one after another, in the order of the program,
and each is whole: it sees all that those before it wrote, and nothing that those behind it write.

What it does not order: instructions of different queues. Where two of them touch the same byte of a memory, DRAM too, and
one of them writes, there must be a way from the end of the one to the start of the other, over tokens and over the order of
queues. This holds for all three: a value that is read after it was written, a place that is written again after it was
read, and a place that is written twice. Time is no order: a program is right only if it is right however long every
instruction takes.

Mistakes are traps, never wrong numbers: a race, a byte that is read and was never written, an address outside of its memory,
a sum that does not fit, a divisor that is not positive, a token that never comes.

## Words

"""

KINDS = """\

| kind | bits | what it holds |
|---|---|---|
| unsigned | n | a number |
| signed | n | a number, two's complement |
| address | 5 + n | a register r0..r31, of which r0 is always 0, then an offset: register + offset, modulo 2^32, in bytes |
| increment | 5 + 32 | a register, then the step that is added to it, two's complement, modulo 2^32 |
| assignment | 5 + 32 | a register, then what it becomes |
| type | 6 + 1 | bits - 1, then 1 where it is signed: i1..i64, ui1..ui32 |
| queues | 4 | a mask: bit 1 << number of each queue |
| names | n | the number of one of the names |

A field of a kind that has names takes their numbers alone. Tensors lie in rows; elements of a row are next to each other,
each of 1, 2, 4 or 8 bytes, the fewest that hold its type, but for packed elements of WBUF (`matmul`).

"""

CBUF = """\

## Constants in CBUF

**Records** of `requantize` and `add_requantize`, {record} bytes each: multiplier, shift, bias and zero point, i32 each. A record
for each column follows the one before it; `add_requantize` has those of a and b in turn.

**Blocks** of `function`. {block}

`threshold` reads i32 next to each other.

**Functions** by number; their parameters and tables are those of the attributes in [ir.md](ir.md), how far off they are is in
[approximations.md](approximations.md).

"""

TEXT = """\

## Text

What `qvit-asm` reads and writes. {assembly}

{notation}

The dialect `qisa` has the same notation, an operation for each instruction; a `qisa.loop` has its body as a region.
"""

CONTAINER = """\

## Binary

What `qvit-asm -o` writes. {container}
"""

MACHINES = """\

## Machines

Those that come with qvit; `qvit-asm --machine` and other tools take their names, or the path of a TOML file with the same
keys. `-` is none.

"""


def _doc(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def _members(kind: type[IntEnum]) -> dict[str, str]:
    """The text behind each member of an enumeration."""
    source = inspect.getsource(kind)
    return {m.name: source.split(f"{m.name} = {m.value}\n")[1].split('"""')[1].rstrip(".") for m in kind}


def _flow(text: str) -> str:
    """Of a docstring the paragraphs behind the first, on lines as they are, lists and tables too."""
    return text.partition("\n\n")[2]


def _kind(bits: Bits) -> str:
    match bits.kind:
        case "enum" if len(bits.names) > 9:
            return "names: functions"
        case "enum":
            return "names: " + ", ".join(f"{number} {name}" for number, name in enumerate(bits.names))
        case "address" | "increment" | "assignment":
            return f"{bits.kind} ({' + '.join(map(str, bits.parts))})"
        case kind:
            return kind


def _instruction(opcode: int, kind: type[Instruction]) -> str:
    unit = "the sequencer" if kind.queue is None else kind.queue.name
    rows: list[str] = []
    at = OPCODE_BITS
    for name, bits in fields_of(kind).items():
        last = at + bits.width - 1
        if name not in fields_of(Instruction):
            place = f"{at}" if last == at else f"{at}..{last}"
            rows.append(f"| {place} | `{name}` | {_kind(bits)} | {bits.doc} |\n")
        at = last + 1
    table = "\n| bits | field | kind | meaning |\n|---|---|---|---|\n" + "".join(rows) if rows else ""
    return f"\n### {kind.mnemonic}\n\nOpcode 0x{opcode:02x}, of {unit}. {_doc(kind)}\n{table}"


def _header() -> str:
    at = OPCODE_BITS
    rows = [f"| 0..{OPCODE_BITS - 1} | | unsigned | the opcode |\n"]
    for name, bits in fields_of(Instruction).items():
        rows.append(f"| {at}..{at + bits.width - 1} | `{name}` | {_kind(bits)} | {bits.doc} |\n")
        at += bits.width
    return (
        f"A word has {WORD_BITS} bits, little endian, bit 0 the lowest of the first byte. It starts with what all instructions\n"
        "have; their own fields follow; all bits behind these are zero, and a word with others is refused.\n\n"
        "| bits | field | kind | meaning |\n|---|---|---|---|\n" + "".join(rows)
    )


def _machines() -> str:
    machines = [load_machine(name) for name in machine_names()]
    lines = [f"- **{machine.name}**: {machine.description}\n" for machine in machines]
    lines.append(f"\n| key | {' | '.join(m.name for m in machines)} |\n|---|{'---|' * len(machines)}\n")
    for f in fields(Machine):
        if f.name in ("name", "description"):
            continue
        parts = [getattr(machine, f.name) for machine in machines]
        if f.name == "energy":
            lines.append(f"| energy | {' | '.join(parts)} |\n")
            continue
        for key in fields(parts[0]):
            cells = " | ".join(_cell(getattr(part, key.name)) for part in parts)
            lines.append(f"| {f.name}.{key.name} | {cells} |\n")
    lines.append("\nWhat the keys mean:\n\n")
    for f in fields(Machine):
        if f.name in ("array", "memory", "dram", "vector", "control"):
            lines.append(f"- `{f.name}`: {_flow_in_line(_doc(type(getattr(machines[0], f.name))))}\n")
    return "".join(lines)


LEGALITY = """\

## Schemes and machines

What a machine cannot run exactly is refused when a program is made for it, with the operation and the reason. The small
ViT of `examples/fashion_mnist`, compiled with each scheme, becomes a program for these machines:

"""


def _legality() -> str:
    """A row for each scheme, a column for each machine, and the first reason of each kind."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    from programs import compiled

    machines = [load_machine(name) for name in machine_names()]
    lines = ["| scheme | " + " | ".join(machine.name for machine in machines) + " |", "|---|" + "---|" * len(machines)]
    reasons: dict[str, int] = {}
    for scheme in SCHEMES:
        module, cells = compiled(scheme, 1), list[str]()
        for machine in machines:
            try:
                lower(module, machine)
                cells.append("yes")
            except LoweringError as error:
                # the source node is of this model, the reason is not
                reason = str(error).split(": ", 1)[1].rsplit(";", 1)[0]
                # multipliers depend on the last bits of float sums, and so on the machine that quantizes
                reason = re.sub(r"found \d{5,}", "found another", reason)
                cells.append(f"no ({reasons.setdefault(reason, len(reasons) + 1)})")
        lines.append(f"| {scheme} | " + " | ".join(cells) + " |")
    notes = "".join(f"{number}. {reason}\n" for reason, number in reasons.items())
    return LEGALITY + "\n".join(lines) + "\n\nThe first reason of each:\n\n" + notes


def _flow_in_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join("all" if v == "*" else str(v) for v in value) or "-"
        case _:
            return str(value)


def render() -> str:
    memories, queues = _members(Memory), {queue: [] for queue in Queue}
    for kind in INSTRUCTIONS.values():
        if kind.queue is not None:
            queues[kind.queue].append(f"`{kind.mnemonic}`")
    parts = [HEAD]
    parts += [f"| {name} | {text} |\n" for name, text in memories.items()]
    parts.append(
        "| DRAM | What the caller sees: inputs and outputs at the program's ports, weights and constants as data |\n"
    )
    parts.append(QUEUES)
    parts += [f"| {queue.name} | {int(queue)} | {', '.join(names)} |\n" for queue, names in queues.items()]
    parts += [TOKENS, _header(), KINDS.rstrip("\n") + "\n\n## Instructions\n"]
    parts += [_instruction(opcode, kind) for opcode, kind in sorted(INSTRUCTIONS.items())]
    parts.append(CBUF.format(record=isa.RECORD, block=_doc(constants.Block)))
    parts.append("| number | name |\n|---|---|\n")
    parts += [f"| {number} | `{name}` |\n" for name, number in FUNCTIONS.items()]
    parts.append(TEXT.format(assembly=_doc(assembly), notation=_flow(_doc(notation))))
    parts.append(CONTAINER.format(container=_doc(container)))
    parts += [MACHINES, _machines(), _legality()]
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("isa.md").write_text(render())
