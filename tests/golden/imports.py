"""Small checkpoints as timm and transformers save them, and what these libraries compute with them.

    python tests/golden/imports.py tests/golden/imports

Needs torch, timm, transformers and safetensors. The values are seeded. Biases, norms and scales are far from their
usual first values, so that a mistake with one of them shows.
"""

import pathlib
import sys

import timm
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1])
SIZE = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, image_size=8, patch_size=4)


def seeded(model):
    """The model with values like those of a trained one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "gamma" in name or "lambda1" in name:
                parameter.copy_(0.4 + 0.2 * noise)
            elif parameter.ndim < 2:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return model.eval()


def expected(name, compute, channels=3):
    images = torch.randn(2, channels, 8, 8)
    with torch.no_grad():
        outputs = compute(images)
    save_file({"images": images, "outputs": outputs.float().contiguous()}, OUT / f"{name}.safetensors")


def timm_model(name, **more):
    args = dict(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, mlp_ratio=2, **more)
    classes = args.pop("num_classes", 3)
    model = seeded(timm.create_model("vit_tiny_patch16_224", num_classes=classes, **args))
    timm.models.save_for_hf(model, OUT / name, model_args=args, safe_serialization=True)
    expected(name, model)


OUT.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
timm_model("timm")
timm_model("timm-headless-scaled", num_classes=0, init_values=1.0)

config = transformers.ViTConfig(intermediate_size=24, num_labels=3, **SIZE)
vit = seeded(transformers.ViTForImageClassification(config))
vit.save_pretrained(OUT / "vit")
transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(OUT / "vit")
expected("vit", lambda images: vit(images).logits)

bare = seeded(transformers.ViTModel(config))
bare.save_pretrained(OUT / "vit-model")
expected("vit-model", lambda images: bare(images).last_hidden_state[:, 0])

dino = seeded(transformers.Dinov2Model(transformers.Dinov2Config(mlp_ratio=2, **SIZE)))
dino.save_pretrained(OUT / "dinov2")
expected("dinov2", lambda images: dino(images).last_hidden_state[:, 0])

for name, dtype in [("vit-f16-shards", torch.float16), ("vit-bf16-shards", torch.bfloat16)]:
    half = transformers.ViTForImageClassification.from_pretrained(OUT / "vit").to(dtype)
    half.save_pretrained(OUT / name, max_shard_size="3KB")
    single = half.float()
    expected(name, lambda images: single(images).logits)
