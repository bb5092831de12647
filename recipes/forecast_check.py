"""Compares the forecast for sizes that are missing from a gene's grid with their measured accuracy.

    genebank study recipes/any-size-left-out.toml --models COPY -o OUT --store-quality
    genebank plan fashion-any --models COPY --parameters 100M --limit 100 --json > plan.json
    python recipes/forecast_check.py plan.json docs/results/any-size/table.csv

COPY is a folder with copies of the gene and its ancestor. The first command replaces the grid in the gene's file by one that
lacks the odd depths from 5 on. The script prints a Markdown table.
"""

import csv
import json
import sys


def main(plan, table):
    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "gene" and row["epochs"] == "0"]
    measured = {(int(row["depth"]), int(row["width"])): float(row["test"]) for row in rows}
    with open(plan) as file:
        sizes = json.load(file)["sizes"]
    unknown = [s for s in sizes if not s["forecast"]["measured"] and (s["depth"], s["width"]) in measured]
    print("| width | depth | forecast | interval | measured | difference |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    differences, inside = [], 0
    for size in sorted(unknown, key=lambda size: (size["width"], size["depth"])):
        found, forecast = measured[size["depth"], size["width"]], size["forecast"]
        low, high = forecast["low"], forecast["high"]
        differences.append(abs(forecast["value"] - found))
        inside += low <= found <= high
        print(
            f"| {size['width']} | {size['depth']} | {forecast['accuracy']:.2%} | {low:.2%} to {high:.2%} "
            f"| {found:.2%} | {found - forecast['accuracy']:+.2%} |"
        )
    near = sum(difference <= 0.01 for difference in differences)
    print(f"\n{near} of {len(differences)} within 1 point, {inside} within the interval; largest {max(differences):.2%}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
