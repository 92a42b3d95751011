"""The dialect `qisa`: a program of the systolic machine as IR, whose loops stay loops.

A `qisa.program` has the machine, the ports, the names of nodes, and a region of `qisa.data`, with the constants that they
place in DRAM, and of instructions. There is an operation for each instruction of `isa`, written as the assembler writes it:

    qisa.matmul a=r1+0x40 a_row=192 b_memory=wbuf rows=197 depth=192 columns=64 wait=load node=4

`program_of` and `module_of` go between that and `Program`; `universe.py` offers the dialect to tools.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NoReturn, TypeAlias, cast

import numpy as np
from xdsl.dialects.builtin import (
    I64,
    ArrayAttr,
    BytesAttr,
    IntAttr,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    Signedness,
    StringAttr,
    SymbolNameConstraint,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, Block, Data, Dialect, Operation, ParametrizedAttribute, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    region_def,
    traits_def,
)
from xdsl.parser import AttrParser, Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, NoTerminator, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from qvit.backends.systolic.isa import (
    INSTRUCTIONS,
    MNEMONICS,
    Halt,
    Instruction,
    IsaError,
    Loop,
    encode,
)
from qvit.backends.systolic.machine import (
    Machine,
    MachineError,
    builtin_name,
    format_machine,
    load_machine,
    machine_names,
    parse_machine,
)
from qvit.backends.systolic.notation import format_fields, parse_fields
from qvit.backends.systolic.program import Port, Program, loop_ends, require_whole
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import set_sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, int_type, integer_element, tensor_type
from qvit.dialects.weights import Weights

BYTE = IntegerType(8, Signedness.UNSIGNED)
Text: TypeAlias = StringAttr | BytesAttr
"""xDSL reads a string that goes beyond ASCII as bytes, UTF-8."""


def _text(attr: Text) -> str:
    return attr.data if isinstance(attr, StringAttr) else attr.data.decode(errors="replace")


class _Cursor:
    """`notation.Cursor` over IR."""

    def __init__(self, parser: AttrParser) -> None:
        self.parser = parser

    @property
    def place(self) -> int:
        return self.parser.pos

    def word(self, known: Collection[str]) -> str | None:
        return self.parser.parse_optional_keyword_in(known)

    def sign(self, sign: str) -> bool:
        match sign:
            case "+" | "-" | "=" | ",":
                return self.parser.parse_optional_punctuation(sign) is not None
            case _:
                return False

    def number(self) -> int | None:
        return self.parser.parse_optional_integer(allow_boolean=False, allow_negative=False)

    def fail(self, message: str, place: int | None = None) -> NoReturn:
        if place is None:
            self.parser.raise_error(message)
        self.parser.raise_error(message, place)


# --- attributes ---

_LEFT_OUT = ("length",)
"""Of a loop: its body says it."""


@irdl_attr_definition
class InstructionAttr(Data[Instruction]):
    """An instruction: its mnemonic and the fields that are not as by default, in the assembler's notation. A loop's length is
    that of its body, and 0 here.

    ```mlir
    #qisa.instruction<set r3=0x40>
    ```
    """

    name = "qisa.instruction"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Instruction:
        with parser.in_angle_brackets():
            kind = MNEMONICS[parser.parse_keyword_in(MNEMONICS)]
            return kind(**parse_fields(_Cursor(parser), kind, _LEFT_OUT))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"{self.data.mnemonic} {format_fields(self.data, _LEFT_OUT)}".rstrip(" "))


@irdl_attr_definition
class PortAttr(ParametrizedAttribute):
    """A tensor of the caller in DRAM, from an address in bytes on (`program.Port`).

    ```mlir
    #qisa.port<"image" at 4096 : tensor<1x3x32x32xui8>>
    ```
    """

    name = "qisa.port"

    port_name: StringAttr
    address: IntAttr
    type: TensorType[Attribute]

    @classmethod
    def of(cls, port: Port) -> "PortAttr":
        return cls(StringAttr(port.name), IntAttr(port.address), TensorType(integer_element(port.type), port.shape))

    def port(self) -> Port:
        held = int_type(self.type.element_type)
        assert held is not None  # verify
        return Port(self.port_name.data, self.address.data, self.type.get_shape(), held)

    def verify(self) -> None:
        tensor_type(self.type)
        held = int_type(self.type.element_type)
        if held is None or not 1 <= held.bits <= (64 if held.signed else 32):
            raise VerifyException(f"port {self.port_name.data}: expected i1..i64 or ui1..ui32, found {self.type}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            name = parser.parse_optional_str_literal()
            if name is None:  # beyond ASCII
                name = parser.parse_bytes_literal().decode(errors="replace")
            parser.parse_keyword("at")
            address = parser.parse_integer(allow_boolean=False, allow_negative=False)
            parser.parse_punctuation(":")
            return [StringAttr(name), IntAttr(address), parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.port_name.data)
            printer.print_string(f" at {self.address.data} : ")
            printer.print_attribute(self.type)


# --- instructions ---


class InstructionOp(IRDLOperation):
    """What all have: an instruction of the kind that the operation is named after."""

    instruction = prop_def(InstructionAttr)

    def __init__(self, instruction: Instruction) -> None:
        super().__init__(properties={"instruction": InstructionAttr(instruction)})

    @classmethod
    def kind(cls) -> type[Instruction]:
        return MNEMONICS[cls.name.removeprefix("qisa.")]

    def verify_(self) -> None:
        _verify_instruction(self.kind(), self.instruction.data)

    def print(self, printer: Printer) -> None:
        _print_fields(printer, self.instruction.data)
        printer.print_op_attributes(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> "InstructionOp":
        kind = cls.kind()
        op = cls(kind(**parse_fields(_Cursor(parser), kind)))
        op.attributes.update(parser.parse_optional_attr_dict())
        return op


def _print_fields(printer: Printer, instruction: Instruction) -> None:
    if text := format_fields(instruction, _LEFT_OUT):
        printer.print_string(f" {text}")


def _verify_instruction(kind: type[Instruction], found: Instruction) -> None:
    if type(found) is not kind:
        raise VerifyException(f"expected an instruction {kind.mnemonic}, found {found.mnemonic}")
    try:
        encode(found)
    except IsaError as error:
        raise VerifyException(str(error)) from error


def _operation(kind: type[Instruction]) -> type[InstructionOp]:
    members = {"__doc__": kind.__doc__, "__module__": __name__, "name": f"qisa.{kind.mnemonic}"}
    return cast("type[InstructionOp]", irdl_op_definition(type(f"{kind.__name__}Op", (InstructionOp,), members)))


OPERATIONS: dict[type[Instruction], type[InstructionOp]] = {
    kind: _operation(kind) for kind in INSTRUCTIONS.values() if kind is not Loop
}
"""The operation of each instruction but `loop`, made from its dataclass."""


@irdl_op_definition
class LoopOp(IRDLOperation):
    """Runs its body `count` times; after each time, the last too, the increments are added.

    ```mlir
    qisa.loop count=12 r1+=64 r3-=4 {
      qisa.add r2+=4
    }
    ```
    """

    name = "qisa.loop"

    instruction = prop_def(InstructionAttr)
    body = region_def("single_block")

    traits = traits_def(NoTerminator())

    def __init__(self, loop: Loop, body: Region) -> None:
        super().__init__(properties={"instruction": InstructionAttr(loop)}, regions=[body])

    def verify_(self) -> None:
        loop = self.instruction.data
        _verify_instruction(Loop, loop)
        assert isinstance(loop, Loop)
        if loop.length:
            raise VerifyException(f"expected length 0, for the body has it; found {loop.length}")
        _verify_body(self, (LoopOp, InstructionOp))
        if not self.body.block.ops:
            raise VerifyException("expected an instruction in the body")
        if any(isinstance(op, OPERATIONS[Halt]) for op in self.body.block.ops):
            raise VerifyException("a program does not end in a loop: qisa.halt cannot stand here")

    def print(self, printer: Printer) -> None:
        _print_fields(printer, self.instruction.data)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_empty_block=False)

    @classmethod
    def parse(cls, parser: Parser) -> "LoopOp":
        loop = Loop(**parse_fields(_Cursor(parser), Loop, _LEFT_OUT))
        attributes = parser.parse_optional_attr_dict_with_keyword()
        op = cls(loop, _parse_region(parser))
        if attributes is not None:
            op.attributes.update(attributes.data)
        return op


def _parse_region(parser: Parser) -> Region:
    """A region of one block, also where it is written as {}."""
    region = parser.parse_region()
    if not region.blocks:
        region.add_block(Block())
    return region


def _verify_body(op: "LoopOp | ProgramOp", allowed: tuple[type[Operation], ...]) -> None:
    if op.body.block.args:
        raise VerifyException("expected a block without arguments")
    for inner in op.body.block.ops:
        if not isinstance(inner, allowed):
            raise VerifyException(f"{inner.name} is no instruction, and cannot stand here")


@irdl_op_definition
class DataOp(IRDLOperation):
    """Places a constant in DRAM from an address in bytes on: its elements in their order, as NumPy holds them, little endian.

    ```mlir
    qisa.data %w at 0x1000 : tensor<4096xui8>
    ```
    """

    name = "qisa.data"

    content = operand_def(TensorType)
    address = prop_def(IntegerAttr[I64])

    def __init__(self, content: SSAValue, address: int) -> None:
        super().__init__(operands=[content], properties={"address": IntegerAttr(address, i64)})

    def verify_(self) -> None:
        content = tensor_type(self.content)
        if int_type(content.element_type) is None:
            raise VerifyException(f"expected integers, found {content}")
        if not isinstance(self.content.owner, ConstantOp | WeightOp):
            raise VerifyException("expected the result of qvit.constant or qvit.weight")
        if self.address.value.data < 0:
            raise VerifyException(f"expected an address, found {self.address.value.data}")

    @property
    def bytes(self) -> int:
        content = tensor_type(self.content)
        return prod(content.get_shape()) * element_dtype(content.element_type).itemsize

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_ssa_value(self.content)
        printer.print_string(f" at 0x{self.address.value.data:x}")
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_attribute(self.content.type)

    @classmethod
    def parse(cls, parser: Parser) -> "DataOp":
        place = parser.pos
        content: UnresolvedOperand = parser.parse_unresolved_operand()
        parser.parse_keyword("at")
        address = parser.parse_integer(allow_boolean=False, allow_negative=False)
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        (operand,) = parser.resolve_operands([content], [parser.parse_type()], place)
        op = cls(operand, address)
        op.attributes.update(attributes)
        return op


@irdl_op_definition
class ProgramOp(IRDLOperation):
    """A program (`program.Program`): the machine, by name where it comes with qvit, else its TOML; bytes of DRAM; inputs,
    outputs and the names of source nodes, the first being number 1; constants, data and instructions.

    ```mlir
    qisa.program @main machine "small" dram 4096 inputs [#qisa.port<"x" at 0 : tensor<64xi8>>] outputs [] nodes ["head"] {
      qisa.load memory=spm planes=1 rows=1 run=64 node=1
      qisa.halt
    }
    ```
    """

    name = "qisa.program"

    sym_name = prop_def(SymbolNameConstraint())
    machine = prop_def(Text)
    dram = prop_def(IntegerAttr[I64])
    inputs = prop_def(ArrayAttr[PortAttr])
    outputs = prop_def(ArrayAttr[PortAttr])
    nodes = prop_def(ArrayAttr[Text])
    body = region_def("single_block")

    traits = traits_def(NoTerminator(), IsolatedFromAbove(), SymbolOpInterface())

    assembly_format = (
        "$sym_name `machine` $machine `dram` $dram `inputs` $inputs `outputs` $outputs `nodes` $nodes "
        "attr-dict-with-keyword $body"
    )

    def __init__(self, name: str, program: Program, body: Region) -> None:
        """Machine, ports and nodes are those of `program`."""
        machine = builtin_name(program.machine) or format_machine(program.machine)
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "machine": StringAttr(machine),
                "dram": IntegerAttr(program.dram, i64),
                "inputs": ArrayAttr([PortAttr.of(port) for port in program.inputs]),
                "outputs": ArrayAttr([PortAttr.of(port) for port in program.outputs]),
                "nodes": ArrayAttr([StringAttr(node) for node in program.nodes]),
            },
            regions=[body],
        )

    def the_machine(self) -> Machine:
        """MachineError where the text is no machine."""
        text = _text(self.machine)
        return load_machine(text) if text in machine_names() else parse_machine(text, f"the machine of {self.name}")

    def verify_(self) -> None:
        _verify_body(self, (ConstantOp, WeightOp, DataOp, LoopOp, InstructionOp))
        data = {op.address.value.data: np.broadcast_to(np.uint8(0), op.bytes) for op in self._data()}
        if len(data) < len(list(self._data())):
            raise VerifyException("expected different addresses of data, found one twice")
        try:
            require_whole(self._program(data))
        except (IsaError, MachineError) as error:
            raise VerifyException(str(error)) from error

    def program(self) -> Program:
        """The program; WeightError where data are not in the module's weight files."""
        weights = Weights.of(self)
        data: dict[int, Array] = {}
        for op in self._data():
            array = weights.array(op.content)
            assert array is not None  # verify_ of qisa.data
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            data[op.address.value.data] = little.reshape(-1).view(np.uint8)
        return self._program(data)

    def _data(self) -> Iterator[DataOp]:
        return (op for op in self.body.block.ops if isinstance(op, DataOp))

    def _program(self, data: dict[int, Array]) -> Program:
        return Program(
            self.the_machine(),
            list(_instructions(self.body.block)),
            dict(sorted(data.items())),
            self.dram.value.data,
            [port.port() for port in self.inputs],
            [port.port() for port in self.outputs],
            [_text(node) for node in self.nodes],
        )


def _instructions(block: Block) -> Iterator[Instruction]:
    """In their order, each loop with the length of its body."""
    for op in block.ops:
        if isinstance(op, LoopOp):
            body = list(_instructions(op.body.block))
            yield replace(cast(Loop, op.instruction.data), length=len(body))
            yield from body
        elif isinstance(op, InstructionOp):
            yield op.instruction.data


def program_of(module: Operation) -> Program:
    """The program of the one `qisa.program` in a module, or of such an operation.

    IsaError where there is none or more than one, WeightError where data are not in the module's weight files.
    """
    found = [op for op in module.walk() if isinstance(op, ProgramOp)]
    if len(found) != 1:
        raise IsaError(f"expected one qisa.program, found {len(found)}")
    program = found[0].program()
    require_whole(program)
    return program


def module_of(program: Program, name: str = "main") -> ModuleOp:
    """A module with the program as a `qisa.program` of that name, its data constants in it.

    IsaError where it is none (`require_whole`), or a loop's body is empty or not wholly inside the loop around it.
    """
    require_whole(program)
    block = Block()
    for address, content in program.data.items():
        constant = ConstantOp(content, BYTE)
        set_sources(constant, [f"data.0x{address:x}"])
        block.add_ops([constant, DataOp(constant.result, address)])
    block.add_ops(_operations(program.instructions, 0, len(program.instructions), loop_ends(program.instructions)))
    return ModuleOp([ProgramOp(name, program, Region(block))])


def _operations(instructions: Sequence[Instruction], at: int, end: int, ends: Mapping[int, int]) -> Iterator[Operation]:
    while at < end:
        instruction = instructions[at]
        if not isinstance(instruction, Loop):
            yield OPERATIONS[type(instruction)](instruction)
            at += 1
        elif at not in ends:
            raise IsaError(
                f"instruction {at}, loop: expected a body wholly inside what is around it, found length {instruction.length}"
            )
        else:
            body = Region(Block(_operations(instructions, at + 1, ends[at], ends)))
            yield LoopOp(replace(instruction, length=0), body)
            at = ends[at]


Qisa = Dialect("qisa", [ProgramOp, DataOp, LoopOp, *OPERATIONS.values()], [InstructionAttr, PortAttr])
"""The dialect, for `Context.load_dialect`."""
