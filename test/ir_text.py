"""Short IR texts for tests: read them, print them, and complete a single operation with what it needs around it.

The types of an operation's operands are taken from its own text, `%y = qvit.x %a, %b : (type, type) -> type`.
"""

import re
from collections.abc import Sequence
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.dialects.test import Test
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.printer import Printer

from qvit.dialects.qvit import Qvit


def context() -> Context:
    ctx = Context()
    for dialect in (Builtin, Func, Test, Qvit):
        ctx.load_dialect(dialect)
    return ctx


def parse(text: str) -> ModuleOp:
    """The module, verified."""
    module = Parser(context(), text).parse_module()
    module.verify()
    return module


def generic(module: ModuleOp) -> str:
    stream = StringIO()
    Printer(stream, print_generic_format=True).print_op(module)
    return stream.getvalue()


_OPERAND = r"%\w+|tensor<[^>]*>"


def operand_types(op: str) -> dict[str, str]:
    """The operands of an operation's text and their types."""
    head, signature = op.split("=", 1)[1].rsplit(" : ", 1)
    beside = re.findall(
        r"\((%[^:]*) : ([^)]*)\)", head
    )  # groups with their types: (%a, %b : tensor<2xi8>, tensor<3xi8>)
    grouped = {
        n: t for ns, ts in beside for n, t in zip(*(re.findall(_OPERAND, part) for part in (ns, ts)), strict=True)
    }
    names = [name for name in re.findall(r"%\w+", head) if name not in grouped]
    types = re.findall(r"tensor<[^>]*>", signature.rsplit(" -> ", 1)[0])
    if "->" not in signature:  # all of one type
        types *= len(names)
    return dict(zip(names, types, strict=bool(names))) | grouped


def result_type(op: str) -> str:
    return re.findall(r"tensor<[^>]*>", op)[-1]


def with_operands(op: str) -> str:
    """The operation after others that make its operands."""
    made = [f'{name} = "test.op"() : () -> {type_}' for name, type_ in operand_types(op).items()]
    return "\n".join([*made, op])


def parse_op(op: str) -> Operation:
    """The one operation, verified, in a module with its operands."""
    last = parse(with_operands(op)).body.block.last_op
    assert last is not None
    return last


def function(body: Sequence[str] | str, arguments: dict[str, str] | None = None, name: str = "main") -> str:
    """A function of the operations: its arguments are the first one's operands, its results are the last one's."""
    lines = [body] if isinstance(body, str) else list(body)
    arguments = operand_types(lines[0]) if arguments is None else arguments
    declared = ", ".join(f"{name}: {type_}" for name, type_ in arguments.items())
    results = lines[-1].split(" = ")[0]
    types = ", ".join(re.findall(r"tensor<[^>]*>", lines[-1])[-len(results.split(", ")) :])
    code = "\n".join(["  " + line for line in lines] + [f"  func.return {results} : {types}"])
    return f"func.func @{name}({declared}) -> ({types}) {{\n{code}\n}}\n"
