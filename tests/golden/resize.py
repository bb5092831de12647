"""Writes resize.safetensors: position embeddings and patch kernels, resized by timm.

Run with: pip install torch timm safetensors && python tests/golden/resize.py
"""

import pathlib

import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed

torch.manual_seed(0)
torch.set_num_threads(1)

POSITIONS = [(7, 14), (7, 4), (4, 9), (1, 3), (5, 1), (14, 16), (16, 14)]
KERNELS = [(4, 7), (4, 8), (7, 4), (1, 5), (5, 1), (16, 14), (14, 16), (8, 20)]

tensors = {}
for old, new in POSITIONS:
    stored = torch.randn(1, 1 + old * old, 3)
    name = f"positions/{old}/{new}"
    tensors |= {f"{name}/stored": stored, f"{name}/resized": resample_abs_pos_embed(stored, [new, new])}
for old, new in KERNELS:
    stored = torch.randn(2, 1, old, old)
    name = f"kernels/{old}/{new}"
    tensors |= {f"{name}/stored": stored, f"{name}/resized": resample_patch_embed(stored, [new, new])}

path = pathlib.Path(__file__).with_name("resize.safetensors")
save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"torch": torch.__version__, "timm": timm.__version__, "schema": "1"})
print(path, path.stat().st_size, "bytes")
