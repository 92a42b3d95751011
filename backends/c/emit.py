"""The files of a program: model.h, model.c, kernels, weights, a main and how to build them."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import OpResult, SSAValue

from qvit.backends.c.plan import ALIGNMENT, Buffer, Plan, aligned, place
from qvit.backends.c.program import Port, Program, program_of, texts
from qvit.backends.c.step import Share, Step, bytes_of, c_type, indented, literal, size_of, type_of
from qvit.backends.c.weights import HEADER, MARK, VERSION, Blob, ByteOrder, Constant, blob_of
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, QUANTIZE_INPUTS, stages
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import shape_of

KERNELS = files("qvit.backends.c") / "kernels"
TEMPLATES = files("qvit.backends.c") / "templates"
WEIGHTS = "model.weights"


@dataclass(frozen=True)
class Sources:
    """A program as files. texts: by name; weights: the blob of constants; traced: the tensors that a program built with
    -DQVIT_TRACE shows, in that order."""

    program: Program
    buffers: Sequence[Buffer]
    plan: Plan
    texts: Mapping[str, str]
    weights: bytes
    traced: Sequence[OpResult]

    @property
    def arena(self) -> int:
        """Bytes of memory that a run needs beside weights, inputs and outputs."""
        return max(self.plan.size, ALIGNMENT)

    def summary(self) -> str:
        """What the program takes, in a line."""
        arena, weights = self.arena / 2**20, len(self.weights) / 2**20
        return f"C: {len(self.program.steps)} functions, arena {arena:.2f} MiB, weights {weights:.2f} MiB"

    def write(self, folder: Path, array: bool = False) -> None:
        """All files into a folder that exists; with `array` the weights as C text too, for targets without files."""
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / WEIGHTS).write_bytes(self.weights)
        if array:
            (folder / "weights.c").write_text(_array(self.weights), encoding="utf-8")


def _array(weights: bytes) -> str:
    """The blob as an array; `extern`, for in C++ a constant is private without it."""
    rows = (", ".join(map(str, weights[k : k + 32])) for k in range(0, len(weights), 32))
    return (
        "/* model.weights as an array of qvit_weights_size() bytes. */\n"
        f"#ifdef __cplusplus\n#define ALIGNED alignas({ALIGNMENT})\n"
        f'extern "C" const unsigned char qvit_weights[{len(weights)}];\n'
        f"#else\n#define ALIGNED _Alignas({ALIGNMENT})\n"
        f"extern const unsigned char qvit_weights[{len(weights)}];\n#endif\n\n"
        f"ALIGNED const unsigned char qvit_weights[{len(weights)}] = {{\n"
        + "".join(f"    {row},\n" for row in rows)
        + "};\n"
    )


def emit(module: ModuleOp, order: ByteOrder = "little", fused: bool = True) -> Sources:
    """@main of a compiled module in C11 without floats. CompileError names what C has no integers for.

    order: the byte order of the machine that shall run it; only the weights depend on it. fused: see `program_of`.
    """
    writer = _Writer(program_of(module, fused), module)
    texts = {
        "model.h": writer.header(),
        "model.c": writer.source(),
        **_kernels(writer.headers),
        **{
            file.name: file.read_text(encoding="utf-8") for file in TEMPLATES.iterdir() if not file.name.endswith(".in")
        },
    }
    traced = [v for step in writer.program.steps for v in step.results.values() if isinstance(v, OpResult)]
    return Sources(writer.program, writer.buffers, writer.plan, texts, writer.blob.data(order), traced)


def _kernels(names: Sequence[str]) -> dict[str, str]:
    """Headers with all that they include."""
    found: dict[str, str] = {}
    wanted = list(names)
    while wanted:
        if (name := wanted.pop()) not in found:
            found[name] = (KERNELS / name).read_text(encoding="utf-8")
            wanted += re.findall(r'#include "(\w+\.h)"', found[name])
    return found


Key = SSAValue | tuple[int, str]
"""A buffer or constant: a tensor of the program, or something of a step by its number and the parameter's name."""


def _buffers(program: Program, blob: Blob) -> list[Buffer]:
    """The memory of what steps make, but for results of the program, which lie where the caller wants them."""
    outside = _outputs(program).keys() | {port.value for port in program.inputs} | program.constants.keys()
    first: dict[SSAValue, int] = {}
    last: dict[SSAValue, int] = {}
    buffers: list[Buffer] = []
    for i, step in enumerate(program.steps):
        for value in step.results.values():
            first[value] = last[value] = i
        for value in step.operands.values():
            last[program.home(value)] = i
        buffers += [Buffer((i, name), size, i, i) for name, size in _private(program, blob, step)]
    return [*buffers, *(Buffer(v, bytes_of(v), i, last[v]) for v, i in first.items() if v not in outside)]


def _private(program: Program, blob: Blob, step: Step) -> Iterator[tuple[str, int]]:
    """What a step needs for itself: its scratch, and constants in the form in which it reads them."""
    if step.scratch:
        yield "scratch", step.scratch
    for name, value in step.operands.items():
        place = blob.places.get(program.home(value))
        if place is not None and place.packed is not None:
            yield name, size_of(value)


def _outputs(program: Program) -> dict[SSAValue, int]:
    """The values that are made where the caller wants a result: its number."""
    made = {value for step in program.steps for value in step.results.values()}
    found: dict[SSAValue, int] = {}
    for k, port in enumerate(program.outputs):
        home = program.home(port.value)
        if home in made:
            found.setdefault(home, k)
    return found


class _Writer:
    """Writes model.h and model.c of one program."""

    def __init__(self, program: Program, module: ModuleOp) -> None:
        self.program, self.module = program, module
        self.blob = blob_of(dict(self._constants()))
        self.buffers = _buffers(program, self.blob)
        self.plan = place(self.buffers)
        self.outputs = _outputs(program)
        self.inputs = {port.value: k for k, port in enumerate(program.inputs)}
        self.headers = list(
            dict.fromkeys(["qk_base.h", "qk_threads.h", *(h for step in program.steps for h in step.headers)])
        )
        self.scratch = max((aligned(step.scratch) for step in program.steps if step.share), default=0)

    def _constants(self) -> Iterator[tuple[Hashable, tuple[Array, IntType | None]]]:
        used = {self.program.home(v) for step in self.program.steps for v in step.operands.values()}
        used |= {self.program.home(port.value) for port in self.program.outputs}
        for value, array in self.program.constants.items():
            if value in used:
                returned = any(self.program.home(port.value) is value for port in self.program.outputs)
                yield value, (array, None if returned else type_of(value))
        for i, step in enumerate(self.program.steps):
            for name, array in step.constants.items():
                yield (i, name), (array, None)

    # --- where things lie ---

    def _place(self, value: SSAValue, constant: bool) -> str:
        """A pointer to a tensor's first element, as a C expression in qvit_run."""
        home, held = self.program.home(value), c_type(type_of(value))
        if home in self.inputs:
            return f"(const {held} *)inputs[{self.inputs[home]}]"
        if home in self.outputs:
            return f"({'const ' if constant else ''}{held} *)outputs[{self.outputs[home]}]"
        if (place := self.blob.places.get(home)) is not None:
            return f"WEIGHTS({held}, {place.offset})"
        return f"ARENA({held}, {self.plan.offsets[home]})"

    # --- model.c ---

    def source(self) -> str:
        parts = [
            f'#include "model.h"\n\n{"".join(f"#include {chr(34)}{h}{chr(34)}{chr(10)}" for h in self.headers)}',
            "#define ARENA(type, offset) ((type *)(void *)(arena + (offset)))\n"
            "#define WEIGHTS(type, offset) ((const type *)(const void *)(weights + (offset)))\n",
            "#ifdef QVIT_TRACE\n"
            "void (*qvit_trace)(size_t index, const void *data, size_t bytes);\n"
            "#define TRACE(index, data, bytes) \\\n"
            "    do { \\\n"
            "        if (part == 0 && qvit_trace) qvit_trace(index, data, bytes); \\\n"
            "        MEET(); \\\n"
            "    } while (0)\n"
            "#else\n#define TRACE(index, data, bytes) ((void)0)\n#endif\n",
            *(self._function(i, step) for i, step in enumerate(self.program.steps)),
            self._tensors(),
            self._walk(),
            self._init(),
            self._run(),
        ]
        return "\n".join(parts)

    def _name(self, i: int) -> str:
        return f"step_{i}_{self.program.steps[i].ops[-1].name.removeprefix('qvit.')}"

    def _function(self, i: int, step: Step) -> str:
        parameters = [
            *(f"const {c_type(type_of(v))} *QK_RESTRICT {name}" for name, v in step.operands.items()),
            *(f"const {c_type(array.dtype)} *QK_RESTRICT {name}" for name, array in step.constants.items()),
            *(f"{c_type(type_of(v))} *QK_RESTRICT {name}" for name, v in step.results.items()),
            *(["void *QK_RESTRICT scratch"] if step.scratch else []),
            *(["size_t begin", "size_t end"] if step.share else []),
        ]
        names = [parameter.rsplit(" ", 1)[1] for parameter in parameters]
        unused = "".join(f"(void){n};\n" for n in names if not re.search(rf"\b{n}\b", step.body))
        comments = "".join(f"/* {_comment(self.program.texts[op])} */\n" for op in step.ops)
        head = f"static void {self._name(i)}({', '.join(parameters)}) {{"
        if len(head) > 120:
            inner = ",\n    ".join(parameters)
            head = f"static void {self._name(i)}(\n    {inner}) {{"
        return f"{comments}{head}\n{indented(unused + step.body)}}}\n"

    def _init(self) -> str:
        digest = self.blob.digest()
        rows = [", ".join(f"0x{byte:02x}" for byte in digest[k : k + 16]) for k in (0, 16)]
        return f"""\
static const uint8_t digest[32] = {{
    {rows[0]},
    {rows[1]},
}};

/* On a machine with the lowest byte first, and on another. */
static const uint64_t checksums[2] = {{UINT64_C({self.blob.checksum("little")}), UINT64_C({self.blob.checksum("big")})}};

size_t qvit_arena_size(void) {{
    return PLANNED + THREADS;
}}

size_t qvit_weights_size(void) {{
    return {self.blob.size};
}}

int qvit_init(qvit_model *model, void *arena, size_t arena_size, const void *weights, size_t weights_size) {{
    if (!model || !arena || !weights) {{
        return QVIT_NULL_POINTER;
    }}
    if ((uintptr_t)arena % {ALIGNMENT} || (uintptr_t)weights % {ALIGNMENT}) {{
        return QVIT_NOT_ALIGNED;
    }}
    if (arena_size < qvit_arena_size()) {{
        return QVIT_ARENA_TOO_SMALL;
    }}
    if (weights_size < {HEADER}) {{
        return QVIT_WEIGHTS_TRUNCATED;
    }}
    const unsigned char *header = (const unsigned char *)weights;
    uint32_t version, mark;
    memcpy(&version, header + 4, sizeof version);
    memcpy(&mark, header + 8, sizeof mark);
    if (memcmp(header, "QVIT", 4) != 0) {{
        return QVIT_NOT_WEIGHTS;
    }}
    if (mark != 0x{MARK:08x}) {{
        return QVIT_OTHER_BYTE_ORDER;
    }}
    if (version != {VERSION}) {{
        return QVIT_OTHER_VERSION;
    }}
    if (memcmp(header + 24, digest, sizeof digest) != 0) {{
        return QVIT_OTHER_MODEL;
    }}
    if (weights_size < qvit_weights_size()) {{
        return QVIT_WEIGHTS_TRUNCATED;
    }}
    /* what steps take for granted of their constants, such as indices inside tables, holds of these alone */
    const uint32_t one = 1;
    const int big = *(const unsigned char *)&one == 0;
    if (qk_checksum(header + {HEADER}, qvit_weights_size() - {HEADER}) != checksums[big]) {{
        return QVIT_WEIGHTS_DAMAGED;
    }}
{self._start()}    model->arena = (unsigned char *)arena;
    model->weights = header;
#if QVIT_THREADS > 1
    memset(POOL(model), 0, sizeof(qk_pool));
    POOL(model)->parts = 1;
#endif
    return QVIT_OK;
}}

size_t qvit_max_threads(void) {{
    return QVIT_THREADS;
}}

int qvit_set_threads(qvit_model *model, size_t threads) {{
    if (!model || !model->arena) {{
        return QVIT_NULL_POINTER;
    }}
    if (threads < 1 || threads > QVIT_THREADS) {{
        return QVIT_TOO_MANY_THREADS;
    }}
#if QVIT_THREADS > 1
    if (qk_set_threads(POOL(model), threads) != 0) {{
        return QVIT_NO_THREAD;
    }}
#endif
    return QVIT_OK;
}}

const char *qvit_message(int status) {{
    static const char *const messages[] = {{
        "success",
        "a pointer is null",
        "the arena or the weights do not start at a multiple of {ALIGNMENT} bytes",
        "the arena is smaller than qvit_arena_size()",
        "these are no weights of a qvit model",
        "the weights are of another version of qvit",
        "the weights are for a machine of another byte order",
        "the weights are of another model",
        "the weights are truncated",
        "the weights are damaged",
        "an input has a value that does not fit its type",
        "the processor has not what the kernels of QVIT_VARIANT need",
        "the number of threads is not 1 to the QVIT_THREADS that the program was compiled with",
        "a thread could not be started",
    }};
    return status >= 0 && (size_t)status < sizeof messages / sizeof *messages ? messages[status] : "unknown status";
}}
"""

    def _start(self) -> str:
        """Which kernels run: the fastest that the processor has, or those that -DQVIT_VARIANT="name" says."""
        if "qk_gemm.h" not in self.headers:
            return ""
        return """\
#ifdef QVIT_VARIANT
    if (qk_start(QVIT_VARIANT) != 0) {
        return QVIT_NO_VARIANT;
    }
#else
    (void)qk_start(NULL);
#endif
"""

    def _tensors(self) -> str:
        parts: list[str] = []
        for kind, ports in (("input", self.program.inputs), ("output", self.program.outputs)):
            # one more than there are: C has no empty array
            rows = [*(_row(port) for port in ports), '{"", "", 0, 0, {0}}']
            table = "".join(f"    {row},\n" for row in rows)
            parts.append(
                f"""\
static const qvit_tensor {kind}_table[] = {{
{table}}};

size_t qvit_{kind}_count(void) {{
    return {len(ports)};
}}

const qvit_tensor *qvit_{kind}(size_t index) {{
    return index < {len(ports)} ? &{kind}_table[index] : NULL;
}}
""".replace("index < 0 ? &", "index == SIZE_MAX ? &")
            )  # a comparison that is never true is warned of
        return "\n".join(parts)

    def _run(self) -> str:
        lines = [
            "if (!model || !model->arena || !model->weights || !inputs || !outputs) {\n    return QVIT_NULL_POINTER;\n}"
        ]
        for kind, ports in (("inputs", self.program.inputs), ("outputs", self.program.outputs)):
            if ports:
                lines.append(
                    f"for (size_t i = 0; i < {len(ports)}; ++i) {{\n"
                    f"    if (!{kind}[i]) {{\n        return QVIT_NULL_POINTER;\n    }}\n}}"
                )
        lines += [text for k, port in enumerate(self.program.inputs) if (text := _range_check(k, port))]
        lines.append("const run job = {model->arena, model->weights, inputs, outputs};")
        lines.append(
            "#if QVIT_THREADS > 1\nqk_run_all(POOL(model), walk, &job);\n#else\nwalk(&job, 0, 1);\n#endif\nreturn QVIT_OK;"
        )
        head = "int qvit_run(const qvit_model *model, const void *const *inputs, void *const *outputs) {"
        return f"{head}\n{_body(lines)}}}\n"

    def _walk(self) -> str:
        """All steps, of each that can be divided one part."""
        lines = [
            "const run *const r = (const run *)job;",
            "unsigned char *const arena = r->arena;\nconst unsigned char *const weights = r->weights;",
            "const void *const *const inputs = r->inputs;\nvoid *const *const outputs = r->outputs;",
            *(f"(void){name};" for name in ("arena", "weights", "inputs", "outputs", "part", "parts")),
        ]
        number = 0
        for i, step in enumerate(self.program.steps):
            lines += self._call(i, step)
            lines.append("MEET();")
            for value in step.results.values():
                lines.append(f"TRACE({number}, {self._place(value, True)}, {bytes_of(value)});")
                number += 1
        if copies := list(self._copies()):
            lines += ["ONE {", *(f"    {copy}" for copy in copies), "}"]
        if copies or not self.program.steps:
            lines.append("MEET();")
        sizes = (
            f"enum {{ PLANNED = {max(self.plan.size, ALIGNMENT)}, SCRATCHES = {self.scratch} }};\n\n"
            "typedef struct {\n    unsigned char *arena;\n    const unsigned char *weights;\n"
            "    const void *const *inputs;\n    void *const *outputs;\n} run;\n\n"
        )
        return f"{sizes}static void walk(const void *job, size_t part, size_t parts) {{\n{_body(lines)}}}\n"

    def _call(self, i: int, step: Step) -> Iterator[str]:
        private = {name: self.plan.offsets[i, name] for name, _ in _private(self.program, self.blob, step)}
        arguments: list[str] = []
        unpacked = False
        for name, value in step.operands.items():
            if name in private:
                place = self.blob.places[self.program.home(value)]
                yield _unpacked(private[name], place, value)
                unpacked = True
                arguments.append(f"ARENA({c_type(type_of(value))}, {private[name]})")
            else:
                arguments.append(self._place(value, True))
        arguments += [
            f"WEIGHTS({c_type(array.dtype)}, {self.blob.places[i, name].offset})"
            for name, array in step.constants.items()
        ]
        arguments += [self._place(value, False) for value in step.results.values()]
        if unpacked:
            yield "MEET();"
        if step.scratch:
            arguments.append(f"{'SCRATCH' if step.share else 'arena + '}({private['scratch']})")
        if step.share:
            arguments.append(_share(step.share))
        one = "" if step.share else "ONE "
        call = f"{one}{self._name(i)}({', '.join(arguments)});"
        yield call if len(call) <= 116 else f"{one}{self._name(i)}(\n    {(',' + chr(10) + '    ').join(arguments)});"

    def _copies(self) -> Iterator[str]:
        """Results that are arguments, constants, or results once more."""
        for k, port in enumerate(self.program.outputs):
            home = self.program.home(port.value)
            if self.outputs.get(home) != k and (size := bytes_of(port.value)):
                yield f"memcpy(outputs[{k}], {self._place(port.value, True)}, {size});"

    # --- model.h ---

    def header(self) -> str:
        ports = [
            f" * {kind} {k}: {port.name}, {port.value.type}"
            for kind, found in (("input", self.program.inputs), ("output", self.program.outputs))
            for k, port in enumerate(found)
        ]
        lines = [_comment(line) for line in [*ports, *self._ends()]]
        rank = max([1, *(len(shape_of(p.value)) for p in (*self.program.inputs, *self.program.outputs))])
        template = (TEMPLATES / "model.h.in").read_text(encoding="utf-8")
        return template.replace("@PORTS@", "\n".join(lines)).replace("@RANK@", str(rank))

    def _ends(self) -> Iterator[str]:
        """How real numbers become the codes of inputs, and the codes of outputs real numbers: the operations around @main."""
        for function in stages(self.module):
            if (name := function.sym_name.data) in (QUANTIZE_INPUTS, DEQUANTIZE_OUTPUTS):
                yield f" * @{name}:"
                yield from (f" *   {text}" for op, text in texts(function) if not isinstance(op, ReturnOp))


def _share(share: Share) -> str:
    return f"SHARE({share.extent}, {share.grain})"


def _body(lines: Sequence[str]) -> str:
    """The statements of a function; what the preprocessor reads stands at the margin."""
    return indented("\n".join(lines)).replace("\n    #", "\n#")


def _comment(text: str) -> str:
    """A text that cannot end a comment, begin one, or continue a line."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")


def _string(text: str) -> str:
    """A C string; what is no plain character as octal digits."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(plain)}"'


def _row(port: Port) -> str:
    shape = shape_of(port.value)
    sizes = ", ".join(map(str, shape)) or "0"
    return f"{{{_string(port.name)}, {_string(str(type_of(port.value)))}, {bytes_of(port.value)}, {len(shape)}, {{{sizes}}}}}"


def _range_check(k: int, port: Port) -> str:
    """Codes of fewer bits than their C type index tables: one that does not fit is refused."""
    held = type_of(port.value)
    if held.bits == held.dtype.itemsize * 8 or not size_of(port.value):
        return ""
    outside = [f"x > {literal(held.hi)}", *([f"x < {literal(held.lo)}"] if held.signed else [])]
    return (
        f"for (size_t i = 0; i < {size_of(port.value)}; ++i) {{\n"
        f"    const {c_type(held)} x = ((const {c_type(held)} *)inputs[{k}])[i];\n"
        f"    if ({' || '.join(outside)}) {{\n        return QVIT_OUT_OF_RANGE;\n    }}\n}}"
    )


def _unpacked(offset: int, place: Constant, value: SSAValue) -> str:
    assert place.packed is not None
    held = place.packed
    return (
        f"qk_unpack(arena + {offset}, WEIGHTS(uint8_t, {place.offset}), {held.bits}, {int(held.signed)},"
        f" {_share(Share(size_of(value), ALIGNMENT))});"
    )
