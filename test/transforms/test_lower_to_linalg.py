"""--lower-to-linalg computes what the interpreter computes: every case, by an evaluator of plain MLIR in NumPy."""

import ir_text
import numpy as np
import plain_mlir
import pytest
from linalg_cases import CASES, Case, in_memory, inputs_of

from qvit.backends.interpreter import find_function, run
from qvit.transforms.lower_to_linalg import lower_to_linalg


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_to_the_last_bit(case: Case) -> None:
    module = ir_text.parse(case.text)
    function = find_function(module, case.name)
    inputs, types = inputs_of(function), [argument.type for argument in function.args]
    result_type = function.function_type.outputs.data[0]
    precision = np.float64 if "f64" in case.text else np.float32
    (expected,) = run(module, inputs, function=case.name, float_dtype=precision).values()
    assert lower_to_linalg(module) == []
    module.verify()
    assert "qvit." not in str(module)
    (found,) = plain_mlir.run(module, case.name, [in_memory(x, t) for x, t in zip(inputs, types, strict=True)])
    np.testing.assert_array_equal(found, in_memory(expected, result_type), strict=False)
