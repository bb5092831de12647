#!/usr/bin/env python3
"""Write the sample of Fashion-MNIST in the formats of users' data sets.

Usage: pip install pillow pyarrow && formats.py

The script reads fashion-mnist/ in its own folder. It writes fashion-folder/ (three classes, PNG) and fashion-parquet/ (all
classes, in the form of the `datasets` library).
"""

import gzip
import io
import json
import pathlib
import shutil

import pyarrow
import pyarrow.parquet
from PIL import Image

HERE = pathlib.Path(__file__).parent
SIZE = 28
NAMES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]


def sample(prefix: str) -> list[tuple[bytes, int]]:
    """Return the encoded images and their labels, in order."""
    images = gzip.decompress((HERE / "fashion-mnist" / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((HERE / "fashion-mnist" / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return [(encode(images[i * SIZE * SIZE : (i + 1) * SIZE * SIZE]), label) for i, label in enumerate(labels)]


def encode(pixels: bytes) -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", (SIZE, SIZE), pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def write_folder(part: str, items: list[tuple[bytes, int]], per_class: int) -> None:
    for name in ["Trouser", "Sneaker", "Bag"]:
        folder = HERE / "fashion-folder" / part / name.lower()
        folder.mkdir(parents=True)
        chosen = [(i, image) for i, (image, label) in enumerate(items) if label == NAMES.index(name)]
        for i, image in chosen[:per_class]:
            (folder / f"{i:04}.png").write_bytes(image)


def write_parquet(part: str, items: list[tuple[bytes, int]]) -> None:
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": image, "path": None} for image, _ in items], image_type)
    labels = pyarrow.array([label for _, label in items], pyarrow.int64())
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([("image", image_type), ("label", pyarrow.int64())], metadata)
    folder = HERE / "fashion-parquet" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    # Two row groups, so that the tests also read across their border.
    pyarrow.parquet.write_table(
        pyarrow.table([images, labels], schema=schema),
        folder / f"{part}-00000-of-00001.parquet",
        row_group_size=len(items) // 2 + 1,
    )


def main() -> None:
    for folder in ["fashion-folder", "fashion-parquet"]:
        shutil.rmtree(HERE / folder, ignore_errors=True)
    train, test = sample("train"), sample("t10k")
    write_folder("train", train, 6)
    write_folder("test", test, 3)
    (HERE / "fashion-folder" / "dataset.toml").write_text('licence = "MIT"\n')
    write_parquet("train", train[:24])
    write_parquet("test", test[:12])


if __name__ == "__main__":
    main()
