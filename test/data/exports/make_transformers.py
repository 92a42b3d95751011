"""Export the transformers of Hugging Face: their classes, two blocks, random weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from exporting import Dims, Export, Model, awkward, image, main
from torch import Tensor, nn


class Logits(nn.Module):
    """The model's logits as its only result."""

    def __init__(self, model: nn.Module, inputs: list[str]):
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self, first: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> Tensor:
        return self.model(**dict(zip(self.inputs, (first, second, third), strict=False))).logits


def finish(config: Any, attention: str, model_class: Callable[[Any], nn.Module], **inputs: Tensor) -> Model:
    config._attn_implementation = attention
    return Logits(awkward(model_class(config)), list(inputs)).eval(), inputs


def encoder(dims: Dims, heads: int = 3, head_size: int = 6, width: int = 30) -> dict[str, Any]:
    heads = dims.heads(heads)
    return {
        "hidden_size": heads * dims.head_size(head_size),
        "num_attention_heads": heads,
        "intermediate_size": dims.width(width),
        "num_hidden_layers": 2,
        "num_labels": dims.classes(5),
    }


def vit(dims: Dims, attention: str = "sdpa", activation: str = "gelu") -> Model:
    patch = dims.pick(4, [3, 5, 8])
    rows, columns = dims.grid((4, 4))
    size = (rows * patch, columns * patch)
    config = transformers.ViTConfig(image_size=size, patch_size=patch, hidden_act=activation, **encoder(dims))
    return finish(config, attention, transformers.ViTForImageClassification, pixel_values=image(dims.batch(), *size))


def deit(dims: Dims, attention: str = "eager") -> Model:
    """Two class tokens, and the mean of two classifiers."""
    patch = dims.pick(4, [3, 5, 8])
    rows, columns = dims.grid((4, 5))
    size = (rows * patch, columns * patch)
    config = transformers.DeiTConfig(image_size=size, patch_size=patch, **encoder(dims, 2, 9))
    model = transformers.DeiTForImageClassificationWithTeacher
    return finish(config, attention, model, pixel_values=image(dims.batch(), *size))


def dinov2(dims: Dims, attention: str = "sdpa", swiglu: bool = False) -> Model:
    """Layer scale; positions resized, as the image has not the size of the config."""
    patch = dims.pick(4, [3, 4, 7])
    rows, columns = dims.grid((6, 5))
    fields = encoder(dims, 2, 9)
    del fields["intermediate_size"]
    config = transformers.Dinov2Config(
        image_size=4 * patch, patch_size=patch, mlp_ratio=2, use_swiglu_ffn=swiglu, layerscale_value=0.3, **fields
    )
    pixels = image(dims.batch(), rows * patch, columns * patch)
    return finish(config, attention, transformers.Dinov2ForImageClassification, pixel_values=pixels)


def swin(dims: Dims, grid: tuple[int, int], depths: tuple[int, ...] = (2, 2), attention: str = "eager") -> Model:
    """Windows of 3 x 3 (fixed), shifted in every second block of both stages."""
    patch, window = dims.pick(2, [2, 3]), dims.pick(3, [2, 3, 4])
    if dims.fresh is not None:
        grid = dims.fresh.choice(range(9, 15)), dims.fresh.choice(range(9, 15))
    heads = dims.pick(2, [1, 2, 3])
    size = (grid[0] * patch, grid[1] * patch)
    config = transformers.SwinConfig(
        image_size=size,
        patch_size=patch,
        window_size=window,
        embed_dim=heads * dims.head_size(5),
        depths=list(depths),
        num_heads=[heads * 2**i for i in range(len(depths))],
        mlp_ratio=2.0,
        num_labels=dims.classes(5),
    )
    return finish(config, attention, transformers.SwinForImageClassification, pixel_values=image(dims.batch(), *size))


def mobilevit(dims: Dims, attention: str = "eager") -> Model:
    """Convolutions with SiLU, depthwise ones among them; attention between pixels of unfolded 2 x 2 patches."""
    heads = dims.pick(2, [1, 2, 4])
    config = transformers.MobileViTConfig(
        image_size=64,
        hidden_sizes=[heads * dims.pick(n, [3, 5, 6]) for n in (3, 3, 5)],
        neck_hidden_sizes=[dims.pick(n, [5, 7, 9, 10]) for n in (4, 4, 5, 6, 6, 7, 9)],
        num_attention_heads=heads,
        mlp_ratio=1.5,
        expand_ratio=2.0,
        num_labels=dims.classes(5),
    )
    pixels = image(dims.batch(), 64, dims.pick(64, [64, 128]))
    return finish(config, attention, transformers.MobileViTForImageClassification, pixel_values=pixels)


def bert(dims: Dims, attention: str = "sdpa", mask: bool = True, batch: int | None = None) -> Model:
    """Three embeddings; the mask of padding an input, or none."""
    batch, length = batch or dims.batch(), dims.pick(9, [5, 7, 11, 13])
    config = transformers.BertConfig(vocab_size=43, max_position_embeddings=17, **encoder(dims))
    inputs = {"input_ids": torch.randint(0, 43, (batch, length))}
    if mask:
        inputs["attention_mask"] = (torch.arange(length) < length - 2).long().expand(batch, length).contiguous()
        inputs["token_type_ids"] = (torch.arange(length) > 3).long().expand(batch, length).contiguous()
    return finish(config, attention, transformers.BertForSequenceClassification, **inputs)


EVEN, PADDED = (12, 12), (13, 10)
MODELS: dict[str, Callable[[Dims], Model]] = {
    "vit": vit,
    "deit": deit,
    "swin": partial(swin, grid=EVEN),
    "swin_padded": partial(swin, grid=PADDED),
    "dinov2": dinov2,
    "mobilevit": mobilevit,
    "bert": bert,
    "bert_no_mask": partial(bert, mask=False),
}

TOKENS = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask", "token_type_ids")}
PIXELS = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
RECIPES = {
    **{f"{name}_dynamo20": Export(build, "dynamo", 20) for name, build in MODELS.items()},
    **{f"{name}_legacy17": Export(build, "legacy", 17) for name, build in MODELS.items()},
    "vit_eager_legacy14": Export(partial(vit, attention="eager", activation="gelu_new"), "legacy", 14),
    "vit_quick_gelu_dynamo20": Export(partial(vit, attention="eager", activation="quick_gelu"), "dynamo", 20),
    "vit_dynamo23": Export(vit, "dynamo", 23),
    "dinov2_swiglu_dynamo20": Export(partial(dinov2, swiglu=True), "dynamo", 20),
    "dinov2_free_legacy17": Export(dinov2, "legacy", 17, dynamic=PIXELS),
    "swin_legacy14": Export(MODELS["swin"], "legacy", 14),
    "bert_dynamo23": Export(bert, "dynamo", 23),
    "bert_tokens_dynamo20": Export(partial(bert, batch=2), "dynamo", 20, dynamic=TOKENS),
    "bert_tokens_legacy17": Export(bert, "legacy", 17, dynamic=TOKENS),
    "swin_12_blocks_legacy17": Export(partial(swin, grid=(48, 48), depths=(2, 2, 6, 2)), "legacy", 17, bench=True),
}

if __name__ == "__main__":
    main(__doc__, RECIPES)
