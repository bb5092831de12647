"""Compares the cost of learning fashion-any with that of learning models alone, in multiply-accumulates of training.

    python recipes/any_size_cost.py docs/results/any-size/table.csv

A training step counts as three forward passes (the backward pass costs two). Both ways need the ancestor, and both compute its
answers once for every image and its mirror image. The multiply-accumulates of each size come from the table.
"""

import csv
import itertools
import sys

IMAGES, EPOCHS, ANCESTOR_EPOCHS, VIEWS = 55_000, 20, 12, 2
WIDTHS, DEPTHS, DRAWS, TOWARD_SMALL = (24, 48, 72, 96), range(3, 17), 3, 1
FULL, SMALLEST, ANCESTOR = (8, 96), (3, 24), (16, 96)


def share(number, among):
    """Probability that a draw from `among` returns `number`."""
    return number**-TOWARD_SMALL / sum(n**-TOWARD_SMALL for n in among)


def drawn(macs):
    """Expected multiply-accumulates of the sizes drawn in a step; widths are drawn without repetition, depths with it."""
    of_width = {w: sum(share(d, DEPTHS) * macs[d, w] for d in DEPTHS) for w in WIDTHS}
    expected = 0
    for widths in itertools.permutations(WIDTHS, DRAWS):
        chance, left = 1, list(WIDTHS)
        for width in widths:
            chance *= share(width, left)
            left.remove(width)
        expected += chance * sum(of_width[width] for width in widths)
    return expected


def main(table):
    with open(table, newline="") as file:
        macs = {(int(row["depth"]), int(row["width"])): int(row["macs"]) for row in csv.DictReader(file)}
    grid = [(depth, width) for width in WIDTHS for depth in DEPTHS]
    mean = sum(macs[size] for size in grid) / len(grid)
    answers = VIEWS * IMAGES * macs[ANCESTOR]
    passes = 3 * EPOCHS * IMAGES
    ancestor = 3 * ANCESTOR_EPOCHS * IMAGES * macs[ANCESTOR]
    # A draw that repeats the full or the smallest size costs less than this counts.
    gene = answers + passes * (macs[FULL] + macs[SMALLEST] + drawn(macs))
    alone = answers + passes * mean
    print(f"ancestor            {ancestor / 1e12:8.1f} T multiply-accumulates")
    print(f"gene                {gene / 1e12:8.1f}")
    print(f"one size alone      {alone / 1e12:8.1f}   mean of the {len(grid)} sizes of the grid")
    for count in (10, len(grid)):
        ratio = count * alone / gene
        beside = (ancestor + count * alone) / (ancestor + gene)
        print(f"{count:3} sizes alone    {count * alone / 1e12:8.1f}   {ratio:.2f} of the gene; with the ancestor {beside:.2f}")
    print(f"break-even          {gene / alone:8.1f} sizes that are learned from the same ancestor")
    print(f"without a teacher   {(ancestor + gene) / (passes * mean):8.1f} sizes that need no ancestor")


if __name__ == "__main__":
    main(*sys.argv[1:])
