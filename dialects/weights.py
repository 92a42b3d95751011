"""Weights by reference: safetensors files with digests, named by the module's attribute `qvit.weights`.

A module lists a base file and overlays; every key lives in exactly one of them. Passes never write files: a tensor that
a pass makes is an inline constant until the tool writes the module, and then moves into an overlay (`externalize`).
In memory the paths of the files are absolute or relative to the working directory; in a .mlir file they are relative to
that file (`rebase`).
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute, Operation, ParametrizedAttribute, SSAValue
from xdsl.rewriter import Rewriter
from xdsl.utils.hints import isa

from qvit.dialects.atomic import replacing
from qvit.dialects.attributes import (
    Dense,
    DyadicAttr,
    Form,
    PotAttr,
    ScaleAttr,
    Value,
    WeightFileAttr,
    WeightRefAttr,
    ZeroPointAttr,
    dense,
    dense_array,
)
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import Tensor, element_dtype, is_float

FILES = "qvit.weights"
INLINE_LIMIT = 64
"""Tensors up to this many elements stay in the text, where people and tests can see them."""


class WeightError(Exception):
    """A weight file or key that is missing, damaged, or not what the module says."""


def weight_files(module: ModuleOp) -> tuple[WeightFileAttr, ...]:
    """The files that the module lists, base first."""
    attr = module.attributes.get(FILES)
    return tuple(f for f in attr if isinstance(f, WeightFileAttr)) if isa(attr, ArrayAttr) else ()


def _set_weight_files(module: ModuleOp, files: Sequence[WeightFileAttr]) -> None:
    module.attributes[FILES] = ArrayAttr(files)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; computed again only when its size or time of change differ."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise WeightError(f"weight file {path} is missing; it is listed in the module's {FILES}")


def _open(path: Path) -> Any:
    """A safetensors file, also a context manager; cast because its own types leave keys() and get_tensor() open."""
    try:
        return cast("Any", safe_open)(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise WeightError(f"weight file {path} cannot be read as safetensors: {error}") from error


class Weights:
    """Reads the constants of one module; files are opened, and their digests checked, when first needed."""

    def __init__(self, module: ModuleOp) -> None:
        self._listed = weight_files(module)
        self._homes: dict[str, Any] | None = None

    @staticmethod
    def of(op: Operation) -> "Weights":
        """The weights of the module that `op` stands in; of nested ones, the innermost that lists weight files."""
        top: Operation = op
        while FILES not in top.attributes and (parent := top.parent_op()) is not None:
            top = parent
        return Weights(cast(ModuleOp, top))

    def _home(self, key: str) -> Any:
        if self._homes is None:
            self._homes = {}
            for file in self._listed:
                path = Path(file.path.data)
                _require_file(path)
                if digest(path) != file.sha256.data:
                    raise WeightError(
                        f"weight file {path} is not the one that the module was made with: its SHA-256 differs"
                    )
                handle = _open(path)
                for name in handle.keys():
                    if name in self._homes:
                        raise WeightError(f"weight {name!r} is in more than one file, the last is {path}")
                    self._homes[name] = handle
        if key not in self._homes:
            files = ", ".join(f.path.data for f in self._listed) or "none"
            raise WeightError(f"weight {key!r} is in none of the module's weight files ({files})")
        return self._homes[key]

    def _read(self, key: str, type_: Tensor) -> Array:
        array = cast(Array, self._home(key).get_tensor(key))
        if array.shape != type_.get_shape() or array.dtype != element_dtype(type_.element_type):
            found = f"{array.dtype}{list(array.shape)}"
            raise WeightError(f"weight {key!r} is {found} in its file, the module says {type_}")
        return array

    def array(self, value: SSAValue) -> Array | None:
        """The contents of a constant, None if `value` is not one."""
        match value.owner:
            case WeightOp() as op:
                return self._read(op.key.data, op.result.type)
            case ConstantOp() as op:
                return dense_array(op.value)
            case _:
                return None

    def values(self, value: Value) -> Array:
        """A number (0-d) or vector as an array, in the type it is stored in."""
        if isinstance(value, WeightRefAttr):
            return self._read(value.key.data, value.type)
        if isinstance(value, FloatAttr):
            return np.array(value.value.data, element_dtype(value.type))
        if isinstance(value, IntegerAttr):
            return np.array(value.value.data, np.int64)
        return dense_array(value)

    def zero_point(self, zero_point: ZeroPointAttr | None) -> Array:
        """int64, 0-d or a vector; 0 where there is none."""
        return np.array(0, np.int64) if zero_point is None else self.values(zero_point.value).astype(np.int64)

    def scale(self, scale: ScaleAttr, dtype: DTypeLike = np.float64) -> Array:
        """The factors multiplied in the precision `dtype`: 0-d or a vector."""
        product = np.array(1, dtype)
        for values, below in self._factors(scale):
            product = product / values.astype(dtype) if below else product * values.astype(dtype)
        return product

    def _factors(self, scale: ScaleAttr) -> Iterator[tuple[Array, bool]]:
        """(numbers, whether they divide) of each factor; WeightError for what verifiers cannot see in a file."""
        sides = [(factor, False) for factor in scale.above] + [(factor, True) for factor in scale.below]
        for factor, below in sides:
            values = self.values(factor)
            if not np.isfinite(values).all():
                raise WeightError(f"the factor {factor} of a scale holds numbers that are not finite")
            if below and not values.all():
                raise WeightError(f"the factor {factor} divides a scale, and holds 0")
            yield values, below

    def exact_scale(self, scale: ScaleAttr) -> list[Fraction]:
        """The scale as rational numbers: one, or one for each element of its vectors."""
        product = [Fraction(1)] * (scale.length or 1)
        for values, invert in self._factors(scale):
            numbers = [Fraction(float(v)) for v in np.atleast_1d(values)]
            if len(numbers) == 1:
                numbers *= len(product)
            product = [p / n if invert else p * n for p, n in zip(product, numbers, strict=True)]
        return product

    def exact_factors(self, form: Form) -> list[Fraction]:
        """The factor of a requantize as rational numbers: one, or one for each element of its vectors."""
        match form:
            case DyadicAttr():
                multipliers, shifts = np.broadcast_arrays(self.values(form.multiplier), self.values(form.shift))
            case PotAttr():
                shifts = self.values(form.shift)
                multipliers = np.ones_like(shifts)
            case _:
                return self.exact_scale(form.scale)
        pairs = zip(multipliers.ravel().tolist(), shifts.ravel().tolist(), strict=True)
        return [multiplier / Fraction(2) ** shift for multiplier, shift in pairs]


def rebase(module: ModuleOp, move: Callable[[Path], Path]) -> None:
    """Rewrite the paths of the module's weight files."""
    if files := weight_files(module):
        _set_weight_files(module, [WeightFileAttr(StringAttr(str(move(Path(f.path.data)))), f.sha256) for f in files])


def externalize(module: ModuleOp, path: Path, temporary: Path | None = None) -> bool:
    """Move every inline tensor above INLINE_LIMIT elements into the new weight file `path`, and list it.

    Equal contents share one key. Keys are the names of the source nodes. Returns whether there was anything to move;
    the file is written under a temporary name and renamed; where the caller gives `temporary`, it is written there and the
    caller renames it.
    """
    if path.resolve() in {Path(file.path.data).resolve() for file in weight_files(module)}:
        raise WeightError(f"weight file {path} is one that the module reads; new weights need a file of their own")
    moved: dict[str, Array] = {}
    by_content: dict[tuple[Attribute, bytes], str] = {}

    def key_for(tensor: Dense, name: str) -> str:
        content = (tensor.type, tensor.data.data)
        if content not in by_content:
            key, count = name, 1
            while key in moved or key in taken:
                key, count = f"{name}.{count}", count + 1
            moved[key] = dense_array(tensor)
            by_content[content] = key
        return by_content[content]

    taken: set[str] = set()
    for file in weight_files(module):
        _require_file(Path(file.path.data))
        with _open(Path(file.path.data)) as handle:
            taken |= set(handle.keys())
    for op in list(module.walk()):
        if isinstance(op, ConstantOp):
            if _is_large(op.value):
                weight = WeightOp(key_for(op.value, (sources(op) or ("constant",))[-1]), op.result.type)
                if sources(op) != sources(weight):
                    set_sources(weight, sources(op))
                weight.result.name_hint = op.result.name_hint
                block = op.parent_block()
                assert block is not None
                block.insert_op_before(weight, op)
                op.result.replace_all_uses_with(weight.result)
                op.detach()
                op.erase()
            continue
        if not _is_ours(op):
            continue
        name = (sources(op) or (op.name,))[-1]
        for key, attr in op.properties.items():
            op.properties[key] = _replace_large(attr, lambda t, k=key, n=name: key_for(t, f"{n}.{_role(t, k)}"))
    if not moved:
        return False
    with replacing(path) if temporary is None else nullcontext(temporary) as target:
        try:
            save_file(moved, target)
        except SafetensorError as error:  # a full disk, among others
            raise WeightError(f"weight file {path} cannot be written: {error}") from error
        sha256 = digest(target)
    file = WeightFileAttr(StringAttr(str(path)), StringAttr(sha256))
    _set_weight_files(module, [*weight_files(module), file])
    return True


def inline(module: ModuleOp) -> None:
    """Move every tensor out of the module's weight files into the module, in place, and list no file any more."""
    weights = Weights(module)

    def stored(attr: Attribute) -> Attribute:
        if isinstance(attr, WeightRefAttr):
            return dense(weights.values(attr), attr.type.element_type)
        if isa(attr, ArrayAttr):
            return ArrayAttr([stored(a) for a in attr])
        if isinstance(attr, ParametrizedAttribute) and attr.name.startswith("qvit."):
            return type(attr).new([stored(a) for a in attr.parameters])
        return attr

    for op in list(module.walk()):
        if isinstance(op, WeightOp):
            array = weights.array(op.result)
            assert array is not None
            constant = ConstantOp(array, op.result.type.element_type)
            set_sources(constant, sources(op))
            Rewriter.replace_op(op, constant)
        elif _is_ours(op):
            for key, attr in op.properties.items():
                op.properties[key] = stored(attr)
    module.attributes.pop(FILES, None)


def free_path(module: ModuleOp, path: Path, taken: Collection[Path] = ()) -> Path:
    """Where a new weight file may go: `path`, or if the module reads that or it is taken, path.1, path.2, and so on."""
    taken = {Path(file.path.data).resolve() for file in weight_files(module)} | {*taken}
    free, number = path, 1
    while free.resolve() in taken:
        free, number = path.with_suffix(f".{number}{path.suffix}"), number + 1
    return free


def _role(tensor: Dense, property_name: str) -> str:
    """What a vector inside a property is for, as a part of its key: float vectors are factors of scales."""
    return "scale" if is_float(tensor.get_element_type()) else property_name


def _is_large(attr: Attribute) -> bool:
    return isa(attr, Dense) and len(attr) > INLINE_LIMIT


def _replace_large(attr: Attribute, key_for: Callable[[Dense], str]) -> Attribute:
    """The attribute with every large vector inside it replaced by a reference."""
    if isa(attr, Dense) and _is_large(attr):
        return WeightRefAttr(StringAttr(key_for(attr)), TensorType(attr.get_element_type(), attr.get_shape()))
    if isa(attr, ArrayAttr):
        return ArrayAttr([_replace_large(a, key_for) for a in attr])
    if isinstance(attr, ParametrizedAttribute) and attr.name.startswith("qvit."):
        return type(attr).new([_replace_large(a, key_for) for a in attr.parameters])
    return attr


def has_large_tensors(module: ModuleOp) -> bool:
    """Whether `externalize` would move anything."""
    return any(_contains_large(attr) for op in module.walk() if _is_ours(op) for attr in op.properties.values())


def _is_ours(op: Operation) -> bool:
    """Operations of other dialects know nothing of weight files: their constants stay inline."""
    return op.name.startswith("qvit.")


def _contains_large(attr: Attribute) -> bool:
    if isa(attr, ArrayAttr):
        return any(_contains_large(a) for a in attr)
    if isinstance(attr, ParametrizedAttribute) and attr.name.startswith("qvit."):
        return any(_contains_large(a) for a in attr.parameters)
    return _is_large(attr)
