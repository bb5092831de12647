"""Writes vit_checkpoint.json: names, shapes and configuration of a small ViTForImageClassification checkpoint.

Run with: pip install torch transformers safetensors && python tests/golden/vit_checkpoint.py
"""

import json
import pathlib
import tempfile

from safetensors import safe_open
from transformers import ViTConfig, ViTForImageClassification

# The test gene at depth 2 and width 24 (tests/it/support.rs).
CONFIG = dict(
    image_size=8, patch_size=4, num_channels=1, encoder_stride=4, hidden_size=24, num_hidden_layers=2,
    num_attention_heads=3, intermediate_size=96, hidden_act="gelu", qkv_bias=True, layer_norm_eps=1e-6,
    id2label=dict(enumerate("abc")), label2id={label: index for index, label in enumerate("abc")},
)
# Keys that describe the program that wrote the configuration, and keys of the pooler, which this model lacks.
LEFT_OUT = ["transformers_version", "pooler_act", "pooler_output_size"]

with tempfile.TemporaryDirectory() as folder:
    ViTForImageClassification(ViTConfig(**CONFIG)).save_pretrained(folder)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        tensors = {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())

config = {key: value for key, value in config.items() if key not in LEFT_OUT}
text = json.dumps({"config": config, "tensors": tensors}, indent=1, sort_keys=True)
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
