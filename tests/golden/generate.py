"""Writes vit.safetensors: results of timm's VisionTransformer on fixed inputs, with every gradient and ten AdamW losses.

Run with: pip install torch timm safetensors && python tests/golden/generate.py
"""

import pathlib

import torch
import timm
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

CONFIG = dict(img_size=12, patch_size=4, in_chans=3, num_classes=5, embed_dim=24, depth=3, num_heads=3, mlp_ratio=4)
SMOOTHING, LEARNING_RATE, WEIGHT_DECAY, STEPS = 0.1, 1e-2, 0.05, 10

model = VisionTransformer(**CONFIG, class_token=True, global_pool="token")
with torch.no_grad():
    for parameter in model.parameters():
        # Move biases and norms away from 0 and 1, so that every parameter affects the result.
        parameter.add_(0.1 * torch.randn_like(parameter))

images = torch.randn(6, 3, 12, 12)
labels = torch.tensor([0, 4, 2, 1, 3, 2])
criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

tensors = {f"weight/{name}": p.detach().clone() for name, p in model.named_parameters()}
logits = model(images)
loss = criterion(logits, labels)
loss.backward()
tensors |= {f"gradient/{name}": p.grad.clone() for name, p in model.named_parameters()}
tensors |= {"images": images, "labels": labels.float(), "logits": logits.detach(), "loss": loss.detach().reshape(1)}

still = {"cls_token", "pos_embed"}
decay = [p for n, p in model.named_parameters() if p.ndim > 1 and n not in still]
rest = [p for n, p in model.named_parameters() if p.ndim <= 1 or n in still]
optimizer = torch.optim.AdamW(
    [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], lr=LEARNING_RATE
)
losses = []
for _ in range(STEPS):
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.detach())
tensors["losses"] = torch.stack(losses)

path = pathlib.Path(__file__).with_name("vit.safetensors")
save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"torch": torch.__version__, "timm": timm.__version__, "schema": "1"})
print(path, path.stat().st_size, "bytes")
