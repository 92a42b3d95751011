"""Train the Fashion-MNIST ViT on integers of 8, 4 or 3 bits, and compare float, training and the compiled C program.

    python -m fashion_mnist.qat --bits 3     # in the folder above; needs qvit[torch], the data (data.py) and a C compiler

Starts at vit.safetensors, writes qat_<bits>.safetensors, then runs all 10,000 test images through the model that was trained
and through C, and counts logits that differ. `--bits 32` trains the float model as long and at the same rates, to compare
with. `--budget 0.735` lets each head learn how many bits it has, and brings their bit operations down to that part of what
`--bits` in all heads would cost (0.735 of 4: as much as 3 in all of them). Resumable; one thread and fixed seeds. `--evaluate`
only compares what is there.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fashion_mnist.data import load, normalize
from fashion_mnist.model import ViT
from fashion_mnist.train import augment
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from qvit.backends.c import load as load_c
from qvit.backends.interpreter import run
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, QUANTIZE_INPUTS
from qvit.tools.qat import convert, prepare_qat
from qvit.tools.qat.model import QuantizedModel

HERE = Path(__file__).parent
BATCH = 128
CALIBRATION = 8  # batches
PRICE = 1.0
"""Of bit operations beyond the budget, in the loss: about what a bit is worth to it, so that heads differ in what they keep."""


@dataclass(frozen=True)
class Recipe:
    """scheme: see qvit-compile. rate: of the weights at its highest; step_rate: of log2 of the scales."""

    scheme: str
    epochs: int
    rate: float
    step_rate: float = 0.01


RECIPES = {
    8: Recipe("best", 4, 2e-4),
    4: Recipe("best", 4, 5e-4),
    3: Recipe("lin-shah", 4, 1e-3),
    32: Recipe("float", 4, 5e-4),
}


def images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    pixels, labels = load(folder, split)
    return torch.from_numpy(normalize(pixels)), torch.from_numpy(labels.astype(np.int64))


def float_model() -> ViT:
    model = ViT()
    model.load_state_dict(load_file(HERE / "vit.safetensors"))
    return model.eval()


def prepared(bits: int, train_set: tuple[Tensor, Tensor], learn_widths: bool = False) -> nn.Module:
    """The model that trains: quantized with the first training images as samples."""
    if bits == 32:
        return float_model()
    samples = list(train_set[0][: CALIBRATION * BATCH].split(BATCH))
    scheme = RECIPES[bits].scheme
    return prepare_qat(float_model(), samples, scheme, weights=bits, activations=bits, learn_widths=learn_widths)


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Logits, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(10 * BATCH)])


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def train(
    model: nn.Module, recipe: Recipe, train_set: tuple[Tensor, Tensor], checkpoint: Path, budget: float | None = None
) -> None:
    """AdamW with a one-cycle rate and label smoothing, as train.py; the last finished epoch lies in `checkpoint`."""
    pixels, labels = train_set
    steps = len(pixels) // BATCH
    if isinstance(model, QuantizedModel):
        groups = model.parameter_groups(recipe.rate, recipe.step_rate, weight_decay=0.05)
    else:
        groups = [{"params": list(model.parameters()), "lr": recipe.rate, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=recipe.epochs * steps, pct_start=0.1)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["epoch"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        print(f"resuming after epoch {first} of {recipe.epochs}")
    for epoch in range(first, recipe.epochs):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(pixels), generator=generator)
        model.train()
        start, total = time.process_time(), 0.0
        for step, batch in enumerate(order[: steps * BATCH].split(BATCH)):
            loss = F.cross_entropy(model(augment(pixels[batch], generator)), labels[batch], label_smoothing=0.05)
            if budget is not None:
                loss = loss + PRICE * F.relu(model.bit_operations() - budget)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 10 == 0:
                print(f"\repoch {epoch + 1}/{recipe.epochs} step {step}/{steps}", end="", flush=True)
        spent = time.process_time() - start
        print(f"\repoch {epoch + 1}/{recipe.epochs}  loss {total / steps:.4f}  {spent:.0f} CPU s", flush=True)
        state = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)


def compiled_logits(model: QuantizedModel, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the C program: the integers that it computes, and the real numbers that they stand for."""
    module = convert(model)
    program = load_c(module)
    integers, reals = [], []
    for (part,), count in model.batches([x]):
        codes = run(module, [part.numpy()], function=QUANTIZE_INPUTS)
        (logits,) = program(*codes.values())
        integers.append(logits[:count])
        reals.append(next(iter(run(module, [logits], function=DEQUANTIZE_OUTPUTS).values()))[:count])
    return np.concatenate(integers), np.concatenate(reals)


def trained_integers(model: QuantizedModel, x: Tensor) -> np.ndarray:
    """The integers of the logits in the model that was trained."""
    found = []
    for part, count in model.batches([x]):
        _, codes = model.integers([p.numpy() for p in part])
        found.append(next(iter(codes.values()))[:count])
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=RECIPES, required=True)
    parser.add_argument("--budget", type=float, help="learn the widths of heads: bit operations, over those of --bits")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument(
        "--output", type=Path, help="default: qat_<bits>.safetensors or qat_<bits>_widths.safetensors beside this file"
    )
    parser.add_argument("--checkpoint", type=Path, help="default: as the output, .pt, in the current folder")
    parser.add_argument("--evaluate", action="store_true", help="compare what was trained before")
    args = parser.parse_args()
    if args.budget is not None and (args.bits == 32 or not 0 < args.budget <= 1):
        parser.error(
            f"--budget is a part, above 0 and at most 1, of the bit operations of 8, 4 or 3 bits; found {args.budget:g}"
        )
    name = f"qat_{args.bits}" if args.budget is None else f"qat_{args.bits}_widths"
    output = args.output or HERE / f"{name}.safetensors"
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on every machine with the same vector width

    train_set, (x, labels) = images(args.data, "train"), images(args.data, "t10k")
    print(f"float        {accuracy(predict(float_model(), x), labels):.2f} %", flush=True)
    model = prepared(args.bits, train_set, args.budget is not None)
    if not args.evaluate:
        print(f"before       {accuracy(predict(model, x), labels):.2f} %", flush=True)
        train(model, RECIPES[args.bits], train_set, args.checkpoint or Path(f"{name}.pt"), args.budget)
        if isinstance(model, QuantizedModel):
            model.save(output)
    elif isinstance(model, QuantizedModel):
        model.restore(output)
    logits = predict(model, x)
    print(f"trained      {accuracy(logits, labels):.2f} %", flush=True)
    if not isinstance(model, QuantizedModel):
        return
    if args.budget is not None:
        for source, widths in model.head_widths():
            print(f"{source:>34}  {' '.join(map(str, widths))} bits")
        print(
            f"bit operations of heads: {model.bit_operations().item():.4f} of those of {args.bits} bits in all of them"
        )
    mine, (theirs, reals) = trained_integers(model, x), compiled_logits(model, x)
    print(f"C            {accuracy(torch.from_numpy(reals), labels):.2f} %")
    differ = int((mine != theirs).sum())
    print(f"{differ} of {mine.size:,} integers at the logits differ between the trained model and C")


if __name__ == "__main__":
    main()
