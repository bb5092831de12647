"""Small checkpoints as timm, transformers and sentence-transformers save them, and what timm and transformers compute
with them.

    python tests/golden/imports.py tests/golden/imports

Needs torch, timm, transformers and safetensors. The values are seeded. Biases, norms and scales are far from their
usual first values, so that a mistake with one of them shows. The last bit of some outputs depends on the number of
threads of torch.
"""

import json
import pathlib
import sys

import timm
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1])
SIZE = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, image_size=8, patch_size=4)
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]"
WORDS = "a cat sat on the mat dog ran it is ##s ##t ##e ##ing ##ed ##a ##n"
VOCABULARY = f"{SPECIAL} {WORDS} b c d e i m n o r s t . , ! ' ? - 中".split()


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


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_vocabulary(folder):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY), encoding="utf-8")


def sentence_folder(folder, pooling, normalize):
    """Adds the files of sentence-transformers, in the form that it had up to version 5, to a folder of transformers."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * normalize
    kinds = [
        dict(idx=i, name=str(i), path=path, type=f"sentence_transformers.models.{kind}")
        for i, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", kinds)
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"]
    pools = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 12, **pools})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})


def expected_vectors(name, tokenizer, sentences, pooling, normalize):
    """The vectors that the saved folder makes of sentences of at most 7 tokens."""
    lines = [f"{sentence}\t{' '.join(map(str, tokenizer(sentence).input_ids))}\n" for sentence in sentences]
    (OUT / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    batch = tokenizer(sentences, padding="max_length", max_length=7, return_tensors="pt")
    ids, mask = batch.input_ids, batch.attention_mask
    saved = transformers.BertModel.from_pretrained(OUT / name, dtype=torch.float32, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = saved(input_ids=ids, attention_mask=mask).last_hidden_state
    mask = mask.float()
    attended = hidden * mask[:, :, None]
    vectors = hidden[:, 0] if pooling == "cls_token" else attended.sum(1) / mask.sum(1, keepdim=True)
    if normalize:
        vectors = torch.nn.functional.normalize(vectors)
    outputs = {"ids": ids, "mask": mask, "hidden": hidden.contiguous(), "vectors": vectors.contiguous()}
    save_file(outputs, OUT / f"{name}.safetensors")


SIZE = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24)
config = transformers.BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=16, **SIZE)

bert = seeded(transformers.BertModel(config))
bert.save_pretrained(OUT / "bert-mean")
write_vocabulary(OUT / "bert-mean")
tokenizer = transformers.BertTokenizerFast(str(OUT / "bert-mean" / "vocab.txt"), model_max_length=16)
tokenizer.save_pretrained(OUT / "bert-mean")
# Version 5 of transformers no longer writes this file, which most published folders have.
write_json(OUT / "bert-mean" / "special_tokens_map.json", tokenizer.special_tokens_map)
sentence_folder(OUT / "bert-mean", "mean_tokens", True)
expected_vectors("bert-mean", tokenizer, ["The cat's mat", "dogs ran", "sitting?"], "mean_tokens", True)

masked = seeded(transformers.BertForMaskedLM(config)).half()
masked.save_pretrained(OUT / "bert-cls", max_shard_size="4KB")
write_vocabulary(OUT / "bert-cls")
sentence_folder(OUT / "bert-cls", "cls_token", False)
tokenizer = transformers.BertTokenizerFast.from_pretrained(OUT / "bert-cls")
expected_vectors("bert-cls", tokenizer, ["Cat sat on mats", "Été", "is中it"], "cls_token", False)

bare = seeded(transformers.BertModel(config, add_pooling_layer=False)).bfloat16()
bare.save_pretrained(OUT / "bert-model")
# A tokenizer that has padded writes its padding too.
tokenizer = transformers.BertTokenizerFast(str(OUT / "bert-mean" / "vocab.txt"))
tokenizer.backend_tokenizer.save(str(OUT / "bert-model" / "tokenizer.json"))
tokenizer = transformers.AutoTokenizer.from_pretrained(OUT / "bert-model")
expected_vectors("bert-model", tokenizer, ["It is mating.", "DOGS,dog", "on xyz"], "mean_tokens", False)
