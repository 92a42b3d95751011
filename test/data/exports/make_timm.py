"""Export the transformers of timm: one matrix for query, key and value; two blocks, random weights."""

import importlib.util
import sys
from functools import partial
from typing import Any
from unittest.mock import MagicMock

if importlib.util.find_spec("torchvision") is None:  # timm imports it for its data pipeline alone
    for module in ("transforms", "transforms.functional", "datasets", "ops.misc", "utils", "models.feature_extraction"):
        sys.modules[f"torchvision.{module}"] = MagicMock()
    sys.modules["torchvision"] = MagicMock()

import timm.models
from exporting import Dims, Export, Model, awkward, image, main
from timm.layers import set_fused_attn

for module in [name for name, module in sys.modules.items() if isinstance(module, MagicMock)]:
    del sys.modules[module]  # or torch's exporter would take it for the real one


def vit(dims: Dims, fused: bool = False, model: str = "VisionTransformer", **fields: Any) -> Model:
    """fused: scaled_dot_product_attention, whose scale a legacy export computes from the shape."""
    set_fused_attn(fused, experimental=fused)
    patch = dims.pick(4, [3, 5, 8])
    rows, columns = dims.grid((4, 3))
    heads = dims.heads(3)
    size = (rows * patch, columns * patch)
    made = getattr(timm.models, model)(
        img_size=size,
        patch_size=patch,
        embed_dim=heads * dims.head_size(6),
        num_heads=heads,
        depth=2,
        mlp_ratio=dims.pick(1.5, [1, 2, 3]),
        num_classes=dims.classes(5),
        **fields,
    )
    return awkward(made), {"pixels": image(dims.batch(), *size)}


def swin(dims: Dims, depths: tuple[int, ...] = (2, 2), grid: int = 12, fused: bool = False) -> Model:
    """Windows of 3 x 3 (fixed), shifted in every second block of all stages but those of one window."""
    set_fused_attn(fused, experimental=fused)
    patch, window = dims.pick(2, [2, 3]), dims.pick(3, [2, 3, 4])
    rows, columns = dims.pick(grid, [2, 3, 4]), dims.pick(grid, [2, 3, 4])
    if dims.fresh is not None:  # stages halve the grid, and timm wants whole windows
        rows, columns = rows * window * 2 ** (len(depths) - 1), columns * window * 2 ** (len(depths) - 1)
    heads = dims.pick(2, [1, 2, 3])
    size = (rows * patch, columns * patch)
    made = timm.models.SwinTransformer(
        img_size=size,
        patch_size=patch,
        window_size=window,
        embed_dim=heads * dims.head_size(5),
        depths=depths,
        num_heads=[heads * 2**i for i in range(len(depths))],
        mlp_ratio=2.0,
        num_classes=dims.classes(5),
    )
    return awkward(made), {"pixels": image(dims.batch(), *size)}


fused = partial(vit, fused=True)
RECIPES = {
    "timm_vit_legacy14": Export(vit, "legacy", 14),
    "timm_vit_legacy17": Export(vit, "legacy", 17),
    "timm_vit_dynamo20": Export(vit, "dynamo", 20),
    "timm_vit_fused_legacy17": Export(fused, "legacy", 17),
    "timm_vit_fused_dynamo20": Export(fused, "dynamo", 20),
    "timm_vit_fused_dynamo23": Export(fused, "dynamo", 23),
    "timm_vit_mean_dynamo20": Export(
        partial(vit, class_token=False, global_pool="avg", init_values=0.1, qk_norm=True), "dynamo", 20
    ),
    "timm_vit_mean_legacy17": Export(
        partial(fused, class_token=False, global_pool="avg", init_values=0.1, qk_norm=True), "legacy", 17
    ),
    "timm_deit_legacy17": Export(partial(fused, model="VisionTransformerDistilled"), "legacy", 17),
    "timm_swin_dynamo20": Export(swin, "dynamo", 20),
    "timm_swin_legacy17": Export(swin, "legacy", 17),
    "timm_swin_fused_legacy17": Export(partial(swin, fused=True), "legacy", 17),
    "timm_swin_12_blocks_legacy17": Export(partial(swin, depths=(2, 2, 6, 2), grid=48), "legacy", 17, bench=True),
}

if __name__ == "__main__":
    main(__doc__, RECIPES)
