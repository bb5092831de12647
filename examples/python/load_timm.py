"""Loads a model file of genebank into timm; every key must match.

    pip install torch timm safetensors
    python examples/python/load_timm.py m.safetensors
    python examples/python/load_timm.py m.safetensors --data DIR
    python examples/python/load_timm.py m.safetensors --data DIR --logits logits.safetensors
    python examples/python/load_timm.py m.safetensors --compare models/fashion-s.safetensors

DIR holds the Fashion-MNIST test set (t10k-*-ubyte, with or without .gz), or a folder fashion-mnist that holds it.
--logits compares timm's logits on the test set with those that `genebank eval m.safetensors --logits FILE` wrote.
A gene carries a probe: the logits of its trained network for a seeded input. If --compare names a gene, timm computes the
logits of the same input; the model must have the trained depth. If --compare names a model, both run on noise.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import struct

import safetensors
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer


def record(path):
    """Returns genebank's record of the file at `path`."""
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["genebank"])


def load(path):
    """Returns the network in the file at `path`, and its record."""
    info = record(path)
    if "stages" in info:
        raise SystemExit(f"{path} is a gene; make a model from it with: genebank init {info['name']} -o m.safetensors")
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
    # Loading casts half-precision files up to float32.
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return model.eval(), info


def idx(folder, name):
    """Returns the values of an IDX file as a tensor of bytes."""
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
    """Turns bytes `[images, height, width]` into the network's input `[images, channels, height, width]`."""
    mean, std = (torch.tensor(info["preprocessing"][key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    return (images[:, None].float() / 255 - mean) / std


@torch.no_grad()
def accuracy(model, info, folder):
    """Returns the number of correct answers on the Fashion-MNIST test set, and the logits `[images, classes]`."""
    images, labels = idx(folder, "t10k-images-idx3-ubyte"), idx(folder, "t10k-labels-idx1-ubyte")
    logits = torch.cat([model(pixels(part, info)) for part in images.split(250)])
    return (logits.argmax(1) == labels).sum().item(), logits


def chacha20(key, words):
    """Returns the first `words` 32-bit words of the ChaCha20 stream of `key`; counter and nonce start at 0."""
    constants, mask, out = struct.unpack("<4I", b"expand 32-byte k"), 0xFFFFFFFF, []
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    quarters += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for counter in range(-(-words // 16)):
        start = [*constants, *struct.unpack("<8I", key), counter, 0, 0, 0]
        x = start.copy()
        for a, b, c, d in quarters * 10:
            for i, j, k, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[i] = (x[i] + x[j]) & mask
                x[k] ^= x[i]
                x[k] = (x[k] << bits | x[k] >> (32 - bits)) & mask
        out += [(a + b) & mask for a, b in zip(x, start)]
    return out[:words]


def probe_input(seed, shape):
    """Returns the input of a gene's probe: uniform in [-1, 1), in multiples of 2^-23."""
    key = hashlib.sha256(struct.pack("<Q", seed) + b"probe").digest()
    words = torch.tensor(chacha20(key, torch.Size(shape).numel()))
    return ((words >> 8).double() / 2**23 - 1).float().reshape(shape)


@torch.no_grad()
def compare(model, info, path):
    """Returns the largest difference between `model`'s logits and those of the file at `path`, and the file's largest logit."""
    theirs_info, config = record(path), info["config"]
    image = (config["channels"], config["image_size"], config["image_size"])
    if "stages" not in theirs_info:
        theirs, _ = load(path)
        images = torch.randn(16, *image, generator=torch.Generator().manual_seed(0))
        expected = theirs(images)
    elif theirs_info["config"] == config:
        probe = theirs_info["probe"]
        images = probe_input(probe["seed"], (probe["batch"], *image))
        expected = torch.tensor(probe["logits"]).reshape(probe["batch"], -1)
    else:
        trained = theirs_info["config"]
        raise SystemExit(f"the probe is for depth {trained['depth']} and width {trained['width']}")
    return (model(images) - expected).abs().max().item(), expected.abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="measure accuracy on the test set")
    parser.add_argument("--logits", type=pathlib.Path, metavar="FILE", help="compare with logits written by genebank eval; needs --data")
    parser.add_argument("--compare", type=pathlib.Path, metavar="FILE", help="compare logits with a gene's probe, or with another model")
    options = parser.parse_args()

    model, info = load(options.file)
    config, parameters = info["config"], sum(p.numel() for p in model.parameters())
    print(f"{options.file}: depth {config['depth']}, width {config['width']}, {parameters} parameters, all keys matched")
    if options.data:
        right, logits = accuracy(model, info, options.data)
        print(f"{right / len(logits):.2%}: {right} of {len(logits)} images")
        if options.logits:
            difference = (logits - safetensors.torch.load_file(options.logits)["logits"]).abs().max().item()
            print(f"largest difference of logits {difference:.3e}, largest logit {logits.abs().max().item():.3e}")
    if options.compare:
        difference, largest = compare(model, info, options.compare)
        print(f"largest difference of logits {difference:.3e}, largest logit {largest:.3e}")


if __name__ == "__main__":
    main()
