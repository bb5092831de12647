#!/usr/bin/env python3
"""Cut the small real sample of Fashion-MNIST that the tests read.

Usage: sample.py FULL_SET_DIR

FULL_SET_DIR holds the four upstream .gz files. The script keeps the first 100 training and 50 test images of each class, in the
order of the full set. It writes them to its own folder, as gzip without a name and with time stamp 0.
"""

import gzip
import pathlib
import struct
import sys

CLASSES = 10
PIXELS = 28 * 28


def cut(full: pathlib.Path, out: pathlib.Path, prefix: str, per_class: int) -> None:
    images = gzip.decompress((full / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((full / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    assert images[:4] == b"\0\0\x08\x03" and labels[:4] == b"\0\0\x08\x01"
    images, labels = images[16:], labels[8:]
    assert len(images) == len(labels) * PIXELS

    kept, left = [], [per_class] * CLASSES
    for item, label in enumerate(labels):
        if left[label]:
            left[label] -= 1
            kept.append(item)
    assert not any(left)

    pixels = b"".join(images[item * PIXELS : (item + 1) * PIXELS] for item in kept)
    write(out / f"{prefix}-images-idx3-ubyte.gz", b"\0\0\x08\x03" + struct.pack(">3I", len(kept), 28, 28) + pixels)
    write(
        out / f"{prefix}-labels-idx1-ubyte.gz",
        b"\0\0\x08\x01" + struct.pack(">I", len(kept)) + bytes(labels[item] for item in kept),
    )


def write(path: pathlib.Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))


def main() -> None:
    full = pathlib.Path(sys.argv[1])
    out = pathlib.Path(__file__).parent / "fashion-mnist"
    out.mkdir(exist_ok=True)
    cut(full, out, "train", 100)
    cut(full, out, "t10k", 50)
    (out / "LICENSE").write_bytes((full / "LICENSE").read_bytes())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
