"""The interpreter on the whole network of I-ViT's authors, stage by stage."""

from typing import Any

import ir_text
import numpy as np
from ivit_network import IMAGE, STAGES, build
from xdsl.ir import Operation

from qvit.backends.interpreter import run
from qvit.dialects.provenance import describe


def test_every_stage_is_met_bit_for_bit() -> None:
    module, found = build(), {}

    def observe(op: Operation, value: np.ndarray[Any, Any]) -> None:
        found[describe(op)] = value

    module.verify()
    outputs = run(module, {"image": IMAGE}, observe=observe)
    assert len(STAGES) == 30
    for name, exact in STAGES.items():
        assert np.array_equal(found[name].reshape(exact.shape), exact), name
    assert np.array_equal(outputs["head"], STAGES["head"])


def test_it_is_text_too() -> None:
    module = build()
    assert ir_text.parse(str(module)).is_structurally_equivalent(module)
