"""Makes image folders for the transfer study from Fashion-MNIST and CIFAR-100: other classes, another format, few images.

    python recipes/transfer_sets.py DATA OUT

DATA holds fashion-mnist/*.gz and cifar-100/ (binary version) as genebank reads them. The script writes four folders to OUT, and
`--data OUT` then finds them by name:

    fashion-groups   5 groups of Fashion-MNIST's classes, 105 training images each, and all test images
    cifar-grey       every fifth class of CIFAR-100 in grey at 28x28 pixels, 105 training images and 100 test images each
    *-choice         the same training images; other training images are used for testing, to choose learning rates

genebank holds out one in twenty of the 105 training images of a class, so about 100 are trained on. Needs numpy and Pillow.
"""

import gzip
import pathlib
import sys

import numpy as np
from PIL import Image

TRAINED = 105
CHOICE = 200
GROUPS = {
    "bag": [8],
    "dress": [3],
    "footwear": [5, 7, 9],
    "top": [0, 2, 4, 6],
    "trousers": [1],
}


def idx(folder, part):
    def read(kind, offset):
        path = folder / f"{part}-{kind}-ubyte"
        packed = path.with_name(path.name + ".gz")
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
        return np.frombuffer(data, np.uint8, offset=offset)

    return read("images-idx3", 16).reshape(-1, 28, 28), read("labels-idx1", 8)


def cifar(folder, part):
    file = next(folder.rglob(f"{part}.bin"))
    items = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, 2 + 3072)
    return items[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), items[:, 1]


def grey(image):
    return np.asarray(Image.fromarray(image).convert("L").resize((28, 28), Image.Resampling.BICUBIC))


def write(folder, images):
    """`images`: class name -> list of [28, 28] arrays."""
    for name, items in images.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number, item in enumerate(items):
            Image.fromarray(item).save(place / f"{number:05}.png")


def sets(out, name, licence, train, test):
    """`train` and `test`: class name -> array of images. A fixed seed decides the order of the training images."""
    random = np.random.default_rng(0)
    train = {name: items[random.permutation(len(items))] for name, items in sorted(train.items())}
    first = {name: items[:TRAINED] for name, items in train.items()}
    other = {name: items[TRAINED : TRAINED + CHOICE] for name, items in train.items()}
    for folder, tested in [(out / name, test), (out / f"{name}-choice", other)]:
        write(folder / "train", first)
        write(folder / "test", tested)
        (folder / "dataset.toml").write_text(f'licence = "{licence}"\n')


def main(data, out):
    def fashion(part):
        images, labels = idx(data / "fashion-mnist", part)
        return {name: images[np.isin(labels, classes)] for name, classes in GROUPS.items()}

    sets(out, "fashion-groups", "MIT", fashion("train"), fashion("t10k"))

    def coarse(part):
        images, labels = cifar(data / "cifar-100", part)
        chosen = range(0, 100, 5)
        return {f"class-{c:02}": np.stack([grey(image) for image in images[labels == c]]) for c in chosen}

    sets(out, "cifar-grey", "unknown", coarse("train"), coarse("test"))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
