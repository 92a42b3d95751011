"""From torch to integers in C: any module that torch.export takes, some inputs, and a folder to compile.

python torch_to_c.py     # needs qvit[torch]; then: make -C vit_c
"""

from pathlib import Path

import torch
from fashion_mnist.model import ViT

from qvit.backends.c import emit
from qvit.backends.interpreter import find_function, input_names
from qvit.frontends.torch import from_exported
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

images = torch.rand(8, 1, 1, 28, 28) * 2 - 1
module, _ = from_exported(torch.export.export(ViT().eval(), (images[0],)))
(name,) = input_names(find_function(module))
compile_model(module, [{name: image.numpy()} for image in images], SCHEMES["best"])
(folder := Path("vit_c")).mkdir(exist_ok=True)
emit(module).write(folder)
