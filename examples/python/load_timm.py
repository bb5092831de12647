"""Loads a model file of genebank into timm, with nothing missing and nothing left over.

    pip install torch timm safetensors
    python examples/python/load_timm.py m.safetensors
    python examples/python/load_timm.py m.safetensors --data DIR
    python examples/python/load_timm.py m.safetensors --compare other.safetensors

DIR holds the Fashion-MNIST test set (t10k-*-ubyte, with or without .gz), or a folder fashion-mnist with it.
"""

import argparse
import gzip
import json
import pathlib

import safetensors
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer


def load(path):
    """The network of the file at `path`, and the record that genebank keeps in its metadata."""
    with safetensors.safe_open(path, framework="pt") as file:
        info = json.loads(file.metadata()["genebank"])
    if "stages" in info:
        raise SystemExit(f"{path} is a gene; make a model of it with: genebank init {info['name']} -o m.safetensors")
    config = info["config"]
    model = VisionTransformer(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        in_chans=config["channels"],
        num_classes=config["classes"],
        embed_dim=config["width"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        class_token=True,
        global_pool="token",
    )
    # Half-precision files are cast up on loading.
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return model.eval(), info


def idx(folder, name):
    """The values of an IDX file, as a tensor of bytes."""
    for place in (folder / "fashion-mnist", folder):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                data = path.read_bytes()
                data = gzip.decompress(data) if path.suffix == ".gz" else data
                axes = data[3]
                shape = [int.from_bytes(data[4 + 4 * a : 8 + 4 * a], "big") for a in range(axes)]
                return torch.frombuffer(bytearray(data[4 + 4 * axes :]), dtype=torch.uint8).reshape(shape)
    raise SystemExit(f"{folder} does not hold {name} or {name}.gz")


def pixels(images, info):
    """Bytes `[images, height, width]` as the network's input `[images, channels, height, width]`."""
    mean, std = (torch.tensor(info["preprocessing"][key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (images[:, None].float() / 255 - mean) / std


@torch.no_grad()
def accuracy(model, info, folder):
    """Right answers and images of the Fashion-MNIST test set."""
    images, labels = idx(folder, "t10k-images-idx3-ubyte"), idx(folder, "t10k-labels-idx1-ubyte")
    right = 0
    for part, truth in zip(images.split(250), labels.split(250)):
        right += (model(pixels(part, info)).argmax(1) == truth).sum().item()
    return right, len(labels)


@torch.no_grad()
def compare(model, info, path):
    """Largest difference of the logits of two files on seeded noise, and the largest logit."""
    other, other_info = load(path)
    config = info["config"]
    shapes = [tuple(i["config"][key] for key in ("channels", "image_size", "classes")) for i in (info, other_info)]
    if shapes[0] != shapes[1]:
        raise SystemExit(f"(channels, image_size, classes) differ: {shapes[0]} and {shapes[1]}")
    torch.manual_seed(0)
    images = torch.randn(16, config["channels"], config["image_size"], config["image_size"])
    ours, theirs = model(images), other(images)
    return (ours - theirs).abs().max().item(), ours.abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="measure accuracy on the test set")
    parser.add_argument("--compare", type=pathlib.Path, metavar="FILE", help="compare logits with another model file")
    options = parser.parse_args()

    model, info = load(options.file)
    config, parameters = info["config"], sum(p.numel() for p in model.parameters())
    print(f"{options.file}: depth {config['depth']}, width {config['width']}, {parameters} parameters, all keys matched")
    if options.data:
        right, images = accuracy(model, info, options.data)
        print(f"{right / images:.2%}: {right} of {images} images")
    if options.compare:
        difference, largest = compare(model, info, options.compare)
        print(f"largest difference of logits {difference:.3e}, largest logit {largest:.3e}")


if __name__ == "__main__":
    main()
