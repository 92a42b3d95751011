"""Weights by reference: files written by `externalize`, read back, checked, and combined."""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, ModuleOp, StringAttr, f32, f64
from xdsl.ir import Operation
from xdsl.parser import Parser

from qvit.backends.interpreter import ExecutionError, run
from qvit.dialects import weights
from qvit.dialects.attributes import (
    DyadicAttr,
    QParamsAttr,
    ScaleAttr,
    WeightFileAttr,
    WeightRefAttr,
    ZeroPointAttr,
    dense,
)
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import set_sources, sources
from qvit.dialects.weights import (
    FILES,
    INLINE_LIMIT,
    WeightError,
    Weights,
    digest,
    externalize,
    has_large_tensors,
    inline,
    rebase,
    weight_files,
)

N = INLINE_LIMIT + 1
VECTOR = f"tensor<{N}xf32>"


def constant(name: str, array: NDArray[Any], source: str | None = None) -> str:
    attribute = f' {{qvit.src = ["{source}"]}}' if source else ""
    return f"%{name} = qvit.constant {dense(array)}{attribute}"


def module_of(*lines: str) -> ModuleOp:
    return ir_text.parse("\n".join(lines))


def listed(*files: tuple[Path, str], body: str = "") -> ModuleOp:
    """A module with these weight files (path, digest)."""
    module = module_of(body or '"test.op"() : () -> ()')
    module.attributes[FILES] = ArrayAttr([WeightFileAttr(StringAttr(str(p)), StringAttr(d)) for p, d in files])
    return module


def ops(module: ModuleOp, kind: type[Operation]) -> list[Any]:
    return [op for op in module.walk() if isinstance(op, kind)]


def reopen(module: ModuleOp) -> ModuleOp:
    """The module, printed and read again."""
    return ir_text.parse(str(module))


# --- externalize ---


def test_nothing_to_move(tmp_path: Path) -> None:
    module = module_of(constant("a", np.arange(INLINE_LIMIT, dtype=np.int8)))
    before = str(module)
    assert not has_large_tensors(module)
    assert externalize(module, tmp_path / "w.safetensors") is False
    assert str(module) == before
    assert list(tmp_path.iterdir()) == []


def test_large_constants_move(tmp_path: Path) -> None:
    large, small = np.arange(N, dtype=np.float32), np.arange(3, dtype=np.int8)
    module = module_of(constant("a", large, "fc1"), constant("b", small, "fc2"), f'"test.op"(%a) : ({VECTOR}) -> ()')
    path = tmp_path / "w.safetensors"
    assert has_large_tensors(module)
    assert externalize(module, path) is True
    module.verify()
    assert not has_large_tensors(module)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    (weight,) = ops(module, WeightOp)
    assert weight.key.data == "fc1"
    assert sources(weight) == ("fc1",)
    assert weight.result.name_hint == "a"
    assert [use.operation.name for use in weight.result.uses] == ["test.op"]
    assert len(ops(module, ConstantOp)) == 1  # the small one stays
    (file,) = weight_files(module)
    assert (file.path.data, file.sha256.data) == (str(path), digest(path))
    stored = load_file(path)
    assert list(stored) == ["fc1"]
    assert stored["fc1"].dtype == np.float32
    assert stored["fc1"].tolist() == large.tolist()
    again = reopen(module)
    found = Weights(again).array(ops(again, WeightOp)[0].result)
    assert found is not None
    assert found.tobytes() == large.tobytes()
    assert Weights(again).array(ops(again, ConstantOp)[0].result).tolist() == [0, 1, 2]  # pyright: ignore


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "int32", "uint32", "int64", "float32", "float64"])
def test_every_stored_type(name: str, tmp_path: Path) -> None:
    array = np.arange(2 * N).reshape(2, N).astype(name)
    module = module_of(constant("a", array))
    externalize(module, tmp_path / "w")
    (weight,) = ops(module, WeightOp)
    found = Weights(reopen(module)).values(WeightRefAttr(weight.key, weight.result.type))
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


def test_narrow_integers_keep_their_type(tmp_path: Path) -> None:
    array = (np.arange(N) % 16 - 8).astype(np.int8)
    i4 = Parser(ir_text.context(), "i4").parse_type()
    module = module_of(f"%a = qvit.constant {dense(array, i4)}")
    externalize(module, tmp_path / "w")
    again = reopen(module)
    (weight,) = ops(again, WeightOp)
    assert str(weight.result.type) == f"tensor<{N}xi4>"
    assert Weights(again).array(weight.result).tolist() == array.tolist()  # pyright: ignore


def test_equal_contents_share_a_key_and_others_do_not(tmp_path: Path) -> None:
    a = np.arange(N, dtype=np.int32)
    module = module_of(
        constant("a", a, "x"),
        constant("b", a, "y"),  # equal
        constant("c", a.view(np.float32), "x"),  # equal bytes, another type
        constant("d", a[::-1].copy(), "x"),
        constant("e", a.reshape(1, N), "x"),  # another shape
    )
    externalize(module, tmp_path / "w")
    found = ops(module, WeightOp)
    assert [w.key.data for w in found] == ["x", "x", "x.1", "x.2", "x.3"]
    assert [sources(w) for w in found] == [("x",), ("y",), ("x",), ("x",), ("x",)]
    assert sorted(load_file(tmp_path / "w")) == ["x", "x.1", "x.2", "x.3"]
    read = Weights(module)
    for weight, expected in zip(found, [a, a, a.view(np.float32), a[::-1], a.reshape(1, N)], strict=True):
        assert read.array(weight.result).tobytes() == expected.tobytes()  # pyright: ignore


def test_constants_without_sources(tmp_path: Path) -> None:
    module = module_of(constant("a", np.zeros(N, np.int8)), constant("b", np.ones(N, np.int8)))
    externalize(module, tmp_path / "w")
    assert [w.key.data for w in ops(module, WeightOp)] == ["constant", "constant.1"]


def test_large_vectors_inside_attributes_move(tmp_path: Path) -> None:
    scale, other = np.linspace(0.5, 1, N, dtype=np.float32), np.linspace(1, 2, N, dtype=np.float64)
    shift, zero = np.arange(N, dtype=np.int32) % 60, np.arange(N, dtype=np.int32) - 30
    module = module_of(
        f'%q, %x = "test.op"() : () -> (tensor<{N}xi8>, {VECTOR})',
        f"%y = qvit.dequantize %q <1.0, axis = 0, zero_point = [{', '.join(map(str, zero))}]>"
        f' {{qvit.src = ["node"]}} : tensor<{N}xi8> -> {VECTOR}',
        f"%r = qvit.requantize %q by #qvit.dyadic<3, [{', '.join(map(str, shift))}]> axis 0"
        f" : tensor<{N}xi8> -> tensor<{N}xi8>",
        f"%s = qvit.quantize %x <0.5, zero_point = 3> : {VECTOR} -> tensor<{N}xi8>",
    )
    dequantize, requantize, _ = list(module.body.block.ops)[1:]
    factors = ScaleAttr.of(FloatAttr(0.25, f32), dense(scale), over=[dense(other), FloatAttr(3.0, f64)])
    dequantize.properties["params"] = QParamsAttr.of(factors, dequantize.params.zero_point, 0)  # pyright: ignore
    exact = Weights(module).exact_scale(factors)
    externalize(module, tmp_path / "w")
    module.verify()
    assert not has_large_tensors(module)
    params: Any = reopen(module).body.block.first_op.next_op.properties["params"]  # pyright: ignore
    first, second = params.scale.above
    assert first == FloatAttr(0.25, f32)  # numbers stay, and so does the order
    assert isinstance(second, WeightRefAttr)
    assert isinstance(params.scale.below[0], WeightRefAttr)
    assert params.scale.below[1] == FloatAttr(3.0, f64)
    assert second.key.data.startswith("node.")
    assert params.axis_index == 0
    read = Weights(module)
    assert read.values(second).tobytes() == scale.tobytes()
    assert read.zero_point(params.zero_point).tolist() == zero.tolist()
    assert read.exact_scale(params.scale) == exact
    form: Any = requantize.properties["form"]
    assert form.multiplier == DyadicAttr.of(3, 1).multiplier
    assert read.values(form.shift).tolist() == shift.tolist()
    assert len(load_file(tmp_path / "w")) == 4


def test_equal_vectors_share_a_key_across_operations(tmp_path: Path) -> None:
    scale = "[" + ", ".join(["0.5"] * N) + "]"
    line = f"qvit.dequantize %q <{scale}, axis = 0> : tensor<{N}xi8> -> {VECTOR}"
    body = [f'%q = "test.op"() : () -> tensor<{N}xi8>', f"%a = {line}", f"%b = {line}"]
    module = module_of(*body, constant("c", np.full(N, 0.5, np.float32)))
    externalize(module, tmp_path / "w")
    assert len(load_file(tmp_path / "w")) == 1


# --- overlays ---


def test_overlays(tmp_path: Path) -> None:
    first, second = np.arange(N, dtype=np.int8), np.arange(N, dtype=np.int8) * 2
    module = module_of(constant("a", first, "x"))
    externalize(module, tmp_path / "base")
    base_bytes = (tmp_path / "base").read_bytes()
    op = ConstantOp(second)
    set_sources(op, ["x"])
    module.body.block.add_op(op)
    assert externalize(module, tmp_path / "overlay") is True
    assert externalize(module, tmp_path / "another") is False
    assert (tmp_path / "base").read_bytes() == base_bytes
    assert [Path(f.path.data).name for f in weight_files(module)] == ["base", "overlay"]
    a, b = ops(module, WeightOp)
    assert (a.key.data, b.key.data) == ("x", "x.1")  # unique over all files
    read = Weights(reopen(module))
    assert read.array(a.result).tolist() == first.tolist()  # pyright: ignore
    assert read.array(b.result).tolist() == second.tolist()  # pyright: ignore


def test_an_overlay_does_not_replace_its_base(tmp_path: Path) -> None:
    module = module_of(constant("a", np.arange(N, dtype=np.int8), "x"))
    externalize(module, tmp_path / "w")
    module.body.block.add_op(ConstantOp(np.ones(N, np.int8)))
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(WeightError, match="/w is one that the module reads; new weights need a file of their own$"):
        externalize(module, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == before


def test_rebase(tmp_path: Path) -> None:
    module = module_of(constant("a", np.arange(N, dtype=np.int8)))
    externalize(module, tmp_path / "w")
    rebase(module, lambda p: p.relative_to(tmp_path))
    (file,) = weight_files(module)
    assert file.path.data == "w"
    rebase(module, lambda p: tmp_path / p)
    assert weight_files(module)[0].path.data == str(tmp_path / "w")
    assert weight_files(module)[0].sha256.data == digest(tmp_path / "w")
    plain = module_of('"test.op"() : () -> ()')
    rebase(plain, lambda p: p / "x")
    assert FILES not in plain.attributes


def test_the_interpreter_reads_them(tmp_path: Path) -> None:
    array = np.arange(N, dtype=np.int8)
    text = ir_text.function(
        [constant("w", array), f"%y = qvit.add %x, %w : (tensor<{N}xi8>, tensor<{N}xi8>) -> tensor<{N}xi32>"],
        {"%x": f"tensor<{N}xi8>"},
    )
    module = ir_text.parse(text)
    externalize(module, tmp_path / "w")
    (weight,) = ops(module, WeightOp)
    assert Weights.of(weight).array(weight.result).tolist() == array.tolist()  # pyright: ignore
    assert run(module, [array])["output0"].tolist() == (2 * array.astype(int)).tolist()


# --- what can be wrong with a file ---

KEY = 'qvit.weight "k" : tensor<3xi8>'


def read_key(module: ModuleOp) -> NDArray[Any] | None:
    return Weights(module).array(ops(module, WeightOp)[0].result)


def make_file(path: Path, **tensors: NDArray[Any]) -> tuple[Path, str]:
    save_file(tensors, path)
    return path, digest(path)


def three(dtype: str = "int8") -> NDArray[Any]:
    return np.array([1, 2, 3], dtype)


def missing_file(tmp_path: Path) -> ModuleOp:
    return listed((tmp_path / "w", "00"), body=f"%k = {KEY}")


def damaged_file(tmp_path: Path) -> ModuleOp:
    path, sha = make_file(tmp_path / "w", k=three())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    return listed((path, sha), body=f"%k = {KEY}")


def no_files(tmp_path: Path) -> ModuleOp:
    return module_of(f"%k = {KEY}")


def missing_key(tmp_path: Path) -> ModuleOp:
    return listed(make_file(tmp_path / "w", j=three()), body=f"%k = {KEY}")


def wrong_type(tmp_path: Path) -> ModuleOp:
    return listed(make_file(tmp_path / "w", k=three("uint8")), body=f"%k = {KEY}")


def wrong_shape(tmp_path: Path) -> ModuleOp:
    return listed(make_file(tmp_path / "w", k=three()[None]), body=f"%k = {KEY}")


def key_in_two_files(tmp_path: Path) -> ModuleOp:
    files = make_file(tmp_path / "w", k=three()), make_file(tmp_path / "v", k=three(), j=three())
    return listed(*files, body=f"%k = {KEY}")


def no_safetensors(tmp_path: Path) -> ModuleOp:
    (tmp_path / "w").write_bytes(b"no header")
    return listed((tmp_path / "w", digest(tmp_path / "w")), body=f"%k = {KEY}")


def a_directory(tmp_path: Path) -> ModuleOp:
    (tmp_path / "w").mkdir()
    return listed((tmp_path / "w", "00"), body=f"%k = {KEY}")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (missing_file, "weight file {}/w is missing; it is listed in the module's qvit.weights"),
        (damaged_file, "weight file {}/w is not the one that the module was made with: its SHA-256 differs"),
        (no_files, "weight 'k' is in none of the module's weight files (none)"),
        (missing_key, "weight 'k' is in none of the module's weight files ({}/w)"),
        (wrong_type, "weight 'k' is uint8[3] in its file, the module says tensor<3xi8>"),
        (wrong_shape, "weight 'k' is int8[1, 3] in its file, the module says tensor<3xi8>"),
        (no_safetensors, "weight file {}/w cannot be read as safetensors: "),
        (a_directory, "weight file {}/w is missing"),
        (key_in_two_files, "weight 'k' is in more than one file, the last is {}/v"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_errors(build: Callable[[Path], ModuleOp], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=f"^{re.escape(message.format(tmp_path))}"):
        read_key(build(tmp_path))


def test_an_overlay_for_a_missing_base(tmp_path: Path) -> None:
    module = listed((tmp_path / "base", "00"), body=constant("a", np.arange(N, dtype=np.int8)))
    with pytest.raises(WeightError, match="is missing"):
        externalize(module, tmp_path / "overlay")


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path, sha = make_file(tmp_path / "w", k=three())
    module = listed((path, sha), body=f"%k = {KEY}")
    assert read_key(module).tolist() == [1, 2, 3]  # pyright: ignore
    make_file(path, k=three(), j=three())
    with pytest.raises(WeightError, match="its SHA-256 differs"):
        read_key(module)


def test_files_are_opened_only_when_needed(tmp_path: Path) -> None:
    module = listed((tmp_path / "missing", "00"), body=constant("a", three()))
    read = Weights(module)
    assert read.array(ops(module, ConstantOp)[0].result).tolist() == [1, 2, 3]  # pyright: ignore
    assert read.values(FloatAttr(0.5, f32)).dtype == np.float32


@pytest.mark.parametrize(
    ("params", "values", "message"),
    [
        ('1.0, zero_point = @"v" : tensor<2xi32>', np.array([0, 300], np.int32), "zero points 0..300 are outside i8"),
        ('1.0, zero_point = @"v" : tensor<2xi32>', np.array([-129, 0], np.int32), "zero points -129..0 are outside i8"),
        ('@"v" : tensor<2xf32>', np.array([1, -1], np.float32), "must be positive and finite, found -1.0..1.0"),
        ('@"v" : tensor<2xf32>', np.array([1, 0], np.float32), "must be positive and finite, found 0.0..1.0"),
        ('@"v" : tensor<2xf32>', np.array([1, np.inf], np.float32), "holds numbers that are not finite"),
        ('@"v" : tensor<2xf32>', np.array([1, np.nan], np.float32), "holds numbers that are not finite"),
        ('1.0 / @"v" : tensor<2xf32>', np.array([1, 0], np.float32), "scale must be positive and finite, found 0.0"),
    ],
)
def test_parameters_in_files_are_checked_when_they_are_read(
    params: str, values: NDArray[Any], message: str, tmp_path: Path
) -> None:
    text = ir_text.function(f"%q = qvit.quantize %x <{params}, axis = 0> : tensor<2xf32> -> tensor<2xi8>")
    module = listed(make_file(tmp_path / "w", v=values), body=text)
    with pytest.raises((WeightError, ExecutionError), match=message):
        run(module, [np.array([1.0, 2.0])])


def test_other_values_are_no_constants() -> None:
    op = ir_text.parse_op("%y = qvit.relu %x : tensor<2xf32>")
    assert Weights.of(op).array(op.results[0]) is None
    assert Weights.of(op).array(op.operands[0]) is None


# --- nothing half-written ---


@pytest.mark.parametrize("before", [None, b"old content"])
def test_a_failed_write_leaves_nothing(before: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    if before is not None:
        path.write_bytes(before)

    def fail(tensors: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        externalize(module_of(constant("a", np.arange(N, dtype=np.int8))), path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_module_lists_no_file_that_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, file: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    module = module_of(constant("a", np.arange(N, dtype=np.int8)))
    with pytest.raises(OSError, match="no space left"):
        externalize(module, tmp_path / "w")
    assert weight_files(module) == ()


# --- scales ---


def scale_of(text: str) -> ScaleAttr:
    scale = Parser(ir_text.context(), f"#qvit.scale<{text}>").parse_attribute()
    assert isinstance(scale, ScaleAttr)
    return scale


SINGLE_TENTH = Fraction(float(np.float32(0.1)))


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("0.5", [Fraction(1, 2)]),
        ("0.1", [SINGLE_TENTH]),
        ("0.1 : f64", [Fraction(0.1)]),
        ("1.0 / 3.0", [Fraction(1, 3)]),
        ("-0.1 * 0.1 / 0.1 : f64", [-(SINGLE_TENTH**2) / Fraction(0.1)]),
        ("0.0 * 3.0", [Fraction(0)]),
        ("[0.1, 2.0]", [SINGLE_TENTH, Fraction(2)]),
        ("[0.1, 2.0] : f64 / 3.0", [Fraction(0.1) / 3, Fraction(2, 3)]),
        ("0.5 * [1.0, 3.0] / [3.0, 7.0]", [Fraction(1, 6), Fraction(3, 14)]),
        ("[0.5]", [Fraction(1, 2)]),
        ('0.5 * @"s" : tensor<2xf32>', [Fraction(1, 2) * SINGLE_TENTH, Fraction(3, 2)]),
        ('1.0 / @"s" : tensor<2xf32>', [1 / SINGLE_TENTH, Fraction(1, 3)]),
        ("1.0e-45 * 1.0e-45", [Fraction(1, 2**149) ** 2]),  # no float has it
    ],
)
def test_scales(text: str, exact: list[Fraction], tmp_path: Path) -> None:
    module = listed(make_file(tmp_path / "w", s=np.array([0.1, 3], np.float32)))
    scale, read = scale_of(text), Weights(module)
    assert read.exact_scale(scale) == exact
    for dtype, bound in ((np.float64, 1e-15), (np.float32, 5e-7)):
        found = read.scale(scale, dtype)
        assert found.dtype == dtype
        assert found.shape == (() if scale.length is None else (scale.length,))
        np.testing.assert_allclose(np.atleast_1d(found), [float(v) for v in exact], rtol=bound, atol=1e-45)


def test_zero_points() -> None:
    read = Weights(module_of('"test.op"() : () -> ()'))
    for given, expected in [(None, 0), (ZeroPointAttr.of(7), 7), (ZeroPointAttr.of(np.array([1, -2])), [1, -2])]:
        found = read.zero_point(given)
        assert found.dtype == np.int64
        assert found.tolist() == expected


# --- back into the module ---


def listing(values: NDArray[Any]) -> str:
    return f"[{', '.join(map(str, values.tolist()))}]"


def test_inline_is_the_inverse_of_externalize(tmp_path: Path) -> None:
    """Tensors, and vectors inside scales and requantize forms; the names of source nodes stay."""
    ramp = np.arange(1, N + 1, dtype=np.float32)
    lines = [
        constant("w", ramp, "fc.weight"),
        f"%q = qvit.quantize %w <{listing(ramp / 8)}, axis = 0> : {VECTOR} -> tensor<{N}xi8>",
        f"%r = qvit.requantize %q by #qvit.dyadic<{listing(np.arange(N) + 3)}, {listing(np.arange(N) % 9)}> axis 0"
        f" : tensor<{N}xi8> -> tensor<{N}xi8>",
    ]
    module = module_of(*lines)
    before = str(module)
    assert externalize(module, tmp_path / "w.safetensors")
    assert not has_large_tensors(module)
    inline(module)
    (tmp_path / "w.safetensors").unlink()
    module.verify()
    assert weight_files(module) == ()
    assert str(module) == before


def test_inline_without_weight_files() -> None:
    module = module_of(constant("w", np.ones(3, np.float32)))
    before = str(module)
    inline(module)
    assert str(module) == before
