"""Train the decoder on integers of 8 bits, compile it to C, and compare float, training and C digit by digit.

    python -m multiplication.evaluate [--train]     # in the folder above; needs qvit[torch] and a C compiler

`--train` makes decoder_8.safetensors again, from decoder.safetensors. The tables are of problems that were never trained on:
the share whose digits are all right, each digit predicted behind the right ones; the same where the model goes on from its
own digits (greedy decoding); and each digit, by its place and by its subtask (data.py).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from multiplication.data import ANSWER, LENGTH, PROMPT, draw, encode, subtasks
from multiplication.model import Decoder
from multiplication.train import BATCH, batch, run
from safetensors.torch import load_file
from torch import Tensor

from qvit.backends.c import load as load_c
from qvit.backends.interpreter import run as interpret
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS
from qvit.tools.qat import convert, prepare_qat
from qvit.tools.qat.model import QuantizedModel

HERE = Path(__file__).parent
STEPS, RATE = 300, 1e-4
PROBLEMS = 10_000

Predict = Callable[[Tensor], Tensor]
"""Tokens [B, 13] -> logits [B, 6, 12]."""


def float_model(path: Path = HERE / "decoder.safetensors") -> Decoder:
    model = Decoder()
    model.load_state_dict(load_file(path))
    return model.eval()


def prepared() -> QuantizedModel:
    """The decoder on integers of 8 bits, its first scales from training problems."""
    return prepare_qat(float_model(), [batch(1_000_000 + i)[0] for i in range(8)], "best")


def in_c(model: QuantizedModel) -> Predict:
    """The compiled program."""
    module = convert(model)
    program = load_c(module)

    def predict(tokens: Tensor) -> Tensor:
        found = []
        for (part,), count in model.batches([tokens]):
            (logits,) = program(part.numpy())
            reals = interpret(module, [logits], function=DEQUANTIZE_OUTPUTS)
            found.append(torch.from_numpy(next(iter(reals.values()))[:count]))
        return torch.cat(found)

    return predict


def in_parts(predict: Predict, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([predict(part) for part in tokens.split(4 * BATCH)])


def greedy(predict: Predict, tokens: Tensor) -> Tensor:
    """Answers [B, 6] where each digit follows the model's own; what comes later is not seen, so any digit may stand there."""
    written = tokens.clone()
    written[:, PROMPT:] = 0
    for i in range(ANSWER):
        answer = in_parts(predict, written).argmax(-1)
        if PROMPT + i < LENGTH:
            written[:, PROMPT + i] = answer[:, i]
    return answer


def table(ways: dict[str, Predict]) -> str:
    """What each way gets right, in percent."""
    a, b = draw(np.random.default_rng(0), PROBLEMS, testing=True)
    tokens, answers = (torch.from_numpy(x) for x in encode(a, b))
    parts = subtasks(a, b)
    columns: dict[str, list[float]] = {}
    for name, predict in ways.items():
        right = in_parts(predict, tokens).argmax(-1) == answers
        own = (greedy(predict, tokens) == answers).all(-1)
        digits = [right[:, i] for i in range(ANSWER)]
        tasks = [right[torch.from_numpy(mask)] for mask in parts.values()]
        columns[name] = [100 * float(x.double().mean()) for x in (right.all(-1), own, *digits, *tasks)]
    rows = ["exact match", "greedy decoding", *(f"digit {i}" for i in range(ANSWER))]
    rows += [f"{name}, {int(mask.sum()):,} digits" for name, mask in parts.items()]
    lines = [f"{PROBLEMS:,} problems, percent right" + "".join(f"{name:>12}" for name in ways)]
    for i, row in enumerate(rows):
        lines.append(f"{row:<33}" + "".join(f"{columns[name][i]:>12.2f}" for name in ways))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train again on integers")
    parser.add_argument("--checkpoint", type=Path, default=Path("decoder_8.pt"))
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, path = prepared(), HERE / "decoder_8.safetensors"
    if args.train:
        run(model, model.parameter_groups(RATE), STEPS, args.checkpoint)
        model.save(path)
    model.restore(path)
    print(table({"float": float_model(), "trained": model.eval(), "C": in_c(model)}))


if __name__ == "__main__":
    main()
