"""Compares two builds of the training benchmark, run in turns.

    cargo build --release --bench train_step
    RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=target/native cargo build --release --bench train_step
    python benches/compare_builds.py PLAIN NATIVE --shape a192 --mode train --pairs 9

The ratio is the first build's images per second divided by the second's: above 1 the first is faster. A pair is one run of each
build, in alternating order; each run is a fresh process.
"""

import argparse
import json
import statistics
import subprocess


def rate(binary, options):
    command = [binary, "--shape", options.shape, "--mode", options.mode]
    command += ["--steps", str(options.steps), "--warmup", str(options.warmup)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["images_per_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs=2, metavar="BENCH")
    parser.add_argument("--shape", default="a192")
    parser.add_argument("--mode", default="train")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    ratios = []
    for pair in range(options.pairs):
        order = [0, 1] if pair % 2 == 0 else [1, 0]
        rates = {which: rate(options.builds[which], options) for which in order}
        ratios.append(rates[0] / rates[1])
        print(f"pair {pair + 1}: {rates[0]:.1f} and {rates[1]:.1f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(f"{options.shape} {options.mode}: ratio quartiles {low:.3f}, {middle:.3f}, {high:.3f} over {len(ratios)} pairs")


if __name__ == "__main__":
    main()
