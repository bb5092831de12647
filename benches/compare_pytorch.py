"""Compares this program's training with PyTorch's: the same vision transformer on the same machine, in turns.

    pip install torch numpy safetensors          # end-to-end: torchvision as well
    cargo build --release --bench train_step     # prints the path of the binary BENCH
    python benches/compare_pytorch.py --bench BENCH --shape a192 --mode train --pairs 9
    python benches/compare_pytorch.py --bench BENCH --shape a192 --mode curve
    python benches/compare_pytorch.py --bench BENCH --shape a192 --mode end-to-end --data DIR

train, forward, end-to-end: each measurement is a fresh process. A pair is one run of ours and one of
PyTorch's, in alternating order. The ratio is our images per second divided by PyTorch's; above 1 this
program is faster. train and forward compare the median step. end-to-end compares the mean, so that
waiting for data counts.

curve: this program trains, and writes its first values and its batches to disk. PyTorch repeats the run
in float32 and in float64. The float64 run shows how much of the difference is rounding.

PyTorch runs in float32, eagerly or with --compiled through torch.compile, with fused AdamW,
scaled_dot_product_attention, and gradients set to None. As in this program, the last block computes the
class token alone. The script uses the fastest of these alternatives: clipping with or without foreach,
default or enlarged allocator thresholds, and 0, 1 or 2 DataLoader workers. In train and forward PyTorch's
images are already in memory; in train ours come from the loader.
"""

import argparse
import gzip
import itertools
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

SHAPES = {
    # image, patch, channels, classes, width, batch
    "a192": (28, 7, 1, 10, 192, 128),
    "b192": (32, 4, 3, 100, 192, 128),
    "a384": (28, 7, 1, 10, 384, 128),
    "b384": (32, 4, 3, 100, 384, 64),
}
DEPTH, HEAD_DIM, MLP_RATIO = 12, 64, 4
LABEL_SMOOTHING, LEARNING_RATE, WEIGHT_DECAY, CLIP = 0.1, 1e-3, 0.05, 1.0
# By default glibc returns large buffers to the system at every free, and must map them again page by page.
LARGE_THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
# If other processes use more cores than this, the measurement is invalid.
QUIET = 0.1
MEAN, STD = 0.2860, 0.3530  # of Fashion-MNIST


def memory(field):
    """Returns a field of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


# PyTorch's side. Only child processes import torch.


def build(image, patch, channels, classes, width, depth=DEPTH, head_dim=HEAD_DIM, mlp_ratio=MLP_RATIO):
    """Builds timm's VisionTransformer with a class token, with timm's names."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)
            self.proj = nn.Linear(width, width)

        def forward(self, x):
            b, n, _ = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, width // head_dim, head_dim).permute(2, 0, 3, 1, 4)
            x = F.scaled_dot_product_attention(*qkv.unbind(0))
            return self.proj(x.transpose(1, 2).reshape(b, n, width))

    class ClassAttention(Attention):
        """Attention of the class token to all tokens. Nothing reads the others after the last block."""

        def forward(self, x):
            def part(x, of, rows):
                values = F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
                return values.reshape(len(x), x.shape[1], of, width // head_dim, head_dim).permute(2, 0, 3, 1, 4)

            (q,), (k, v) = part(x[:, :1], 1, slice(width)), part(x, 2, slice(width, None))
            x = F.scaled_dot_product_attention(q, k, v)
            return self.proj(x.transpose(1, 2).reshape(len(x), 1, width))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(width, mlp_ratio * width)
            self.act = nn.GELU()
            self.fc2 = nn.Linear(mlp_ratio * width, width)

        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    class Block(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.norm1 = nn.LayerNorm(width, eps=1e-6)
            self.last = last
            self.attn = ClassAttention() if last else Attention()
            self.norm2 = nn.LayerNorm(width, eps=1e-6)
            self.mlp = Mlp()

        def forward(self, x):
            x = (x[:, :1] if self.last else x) + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class PatchEmbed(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            tokens = 1 + (image // patch) ** 2
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
            self.patch_embed = PatchEmbed()
            self.blocks = nn.Sequential(*(Block(last=i == depth - 1) for i in range(depth)))
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.head = nn.Linear(width, classes)

        def forward(self, x):
            x = self.patch_embed(x)
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
            return self.head(self.norm(self.blocks(x))[:, 0])

    return Vit()


def optimizer_of(model, learning_rate, weight_decay, betas=(0.9, 0.999)):
    """Returns fused AdamW; only matrices decay."""
    import torch

    decays, rest = [], []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        (decays if matrix else rest).append(parameter)
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas), fused=True)


def fastest_clip(parameters):
    """Returns whether clipping is faster with foreach; the measurement does not change the gradients."""
    from torch.nn.utils import clip_grad_norm_

    def seconds(foreach):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            clip_grad_norm_(parameters, 1e9, foreach=foreach)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return seconds(True) < seconds(False)


class Training:
    """A model, its optimiser, and a step."""

    def __init__(self, model):
        self.model, self.optimizer = model, optimizer_of(model, LEARNING_RATE, WEIGHT_DECAY)
        self.parameters, self.foreach = list(model.parameters()), None

    def step(self, images, labels):
        import torch
        import torch.nn.functional as F

        loss = F.cross_entropy(self.model(images), labels, label_smoothing=LABEL_SMOOTHING)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.foreach is None:
            self.foreach = fastest_clip(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=self.foreach)
        self.optimizer.step()
        return loss.item()


def fashion_mnist(root):
    """Returns the training images `[60000, 28, 28]` and labels."""
    import numpy

    def read(name, skip):
        for path in (root / "fashion-mnist" / name, root / name):
            for file, opener in ((path, open), (path.with_name(path.name + ".gz"), gzip.open)):
                if file.exists():
                    with opener(file, "rb") as stream:
                        return numpy.frombuffer(stream.read(), numpy.uint8, offset=skip)
        raise SystemExit(f"no {name} in {root}")

    labels = read("train-labels-idx1-ubyte", 8)
    return read("train-images-idx3-ubyte", 16).reshape(-1, 28, 28), labels.astype(numpy.int64)


def augmented(root, batch, workers):
    """Returns a loader of Fashion-MNIST with random crop and flip, written in the usual way."""
    import torch
    from PIL import Image
    from torchvision import transforms

    class FashionMnist(torch.utils.data.Dataset):
        def __init__(self):
            self.images, self.labels = fashion_mnist(root)
            self.transform = transforms.Compose(
                [
                    transforms.RandomCrop(28, padding=2),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    transforms.Normalize((MEAN,), (STD,)),
                ]
            )

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, i):
            return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])

    keep = {"persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(
        FashionMnist(), batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, **keep
    )


def endless(loader):
    while True:
        yield from loader


def torch_speed(options):
    """Measures images per second as benches/train_step.rs does; prints one line of JSON."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    image, patch, channels, classes, width, batch = SHAPES[options.shape]
    imported = memory("VmRSS")
    if options.mode == "end-to-end":
        batches = endless(augmented(options.data, batch, options.workers))
    else:
        made = [
            (torch.randn(batch, channels, image, image), torch.randint(classes, (batch,))) for _ in range(20)
        ]
        batches = endless(made)
    before = memory("VmRSS")
    model, times = build(image, patch, channels, classes, width), []
    if options.mode == "forward":
        model.eval()
    if options.compiled:
        model.compile()
    training = None if options.mode == "forward" else Training(model)
    for step in range(1, options.warmup + options.steps + 1):
        images, labels = next(batches)
        if training is None:
            with torch.inference_mode():
                value = model(images)[0, 0].item()
        else:
            value = training.step(images, labels)
        if not math.isfinite(value):
            raise SystemExit("not finite")
        if step >= options.warmup:
            times.append(time.perf_counter())
    seconds = [later - earlier for earlier, later in itertools.pairwise(times)]
    result = {
        "torch": torch.__version__,
        "foreach_clip": training and training.foreach,
        "images_per_s": batch / statistics.median(seconds),
        "mean_images_per_s": batch * len(seconds) / sum(seconds),
        "rss_imported_bytes": imported,
        "rss_before_bytes": before,
        "peak_rss_bytes": memory("VmHWM"),
    }
    print(json.dumps(result), flush=True)


def learning_rate(run, step):
    """Linear warm-up, then half a cosine."""
    peak, least, warmup = run["learning_rate"], run["min_learning_rate"], run["warmup_steps"]
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(run["steps"] - warmup, 1)
    return least + (peak - least) * (1 + math.cos(math.pi * progress)) / 2


def torch_curve(options):
    """Repeats the run in a dump; prints one line of JSON."""
    import numpy
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    torch.set_num_threads(options.threads)
    run = json.loads((options.dump / "run.json").read_text())
    config = run["config"]
    model = build(
        config["image_size"],
        config["patch_size"],
        config["channels"],
        config["classes"],
        config["width"],
        config["depth"],
        config["width"] // config["heads"],
        config["mlp_ratio"],
    )
    dtype = torch.float64 if options.double else torch.float32
    model.load_state_dict(load_file(options.dump / "model.safetensors"), strict=True)
    model.to(dtype)
    pixels = numpy.fromfile(options.dump / "images.u8", numpy.uint8).reshape(run["images"])
    mean, std = (torch.tensor(run[key], dtype=dtype).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(pixels).to(dtype) / 255 - mean) / std
    labels = torch.tensor(run["labels"])
    optimizer = optimizer_of(model, run["learning_rate"], run["weight_decay"], run["betas"])
    losses = []
    for step, order in enumerate(run["order"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        logits = model(images[order])
        loss = F.cross_entropy(logits, labels[order], label_smoothing=run["label_smoothing"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run["clip"])
        optimizer.step()
        losses.append(loss.item())
    print(json.dumps({"torch": torch.__version__, "losses": losses}), flush=True)


# The comparison.


def busy():
    """Returns the seconds that all cores have worked, and the share of ended child processes."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, interrupts, soft, *_ = (int(word) for word in stat.readline().split()[1:])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = user + nice + system + interrupts + soft
    return ticks / os.sysconf("SC_CLK_TCK"), children.ru_utime + children.ru_stime


def measure(command, environment=None):
    """Runs a process that prints JSON on its last line; adds how many cores other processes used meanwhile."""
    start, (all_before, children_before) = time.perf_counter(), busy()
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    all_after, children_after = busy()
    others = (all_after - all_before) - (children_after - children_before)
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "others": max(others, 0.0) / (time.perf_counter() - start)}


def common(options):
    words = ["--shape", options.shape, "--mode", options.mode, "--threads", options.threads]
    return words + (["--data", options.data] if options.data else [])


def ours(options, steps):
    words = ["--steps", steps, "--warmup", options.warmup]
    return measure([options.bench, *common(options), *words])


def pytorch(options, steps, variant):
    words = ["--child", "--steps", steps, "--warmup", options.warmup, "--workers", variant["workers"]]
    words += ["--compiled"] if options.compiled else []
    return measure([sys.executable, __file__, *common(options), *words], variant["environment"])


def best_variant(options, key):
    """Returns PyTorch's fastest setting, found with one run of each."""
    allocators = [("default allocation", {}), ("large malloc thresholds", LARGE_THRESHOLDS)]
    workers = [0, 1, 2] if options.mode == "end-to-end" else [0]
    found = []
    for name, environment in allocators:
        for count in workers:
            variant = {"name": name, "environment": environment, "workers": count}
            if options.mode == "end-to-end":
                variant["name"] += f", {count} workers"
            speed = pytorch(options, options.steps, variant)[key]
            print(f"PyTorch with {variant['name']}: {speed:.1f} images/s", flush=True)
            found.append((speed, variant))
    return max(found, key=lambda pair: pair[0])[1]


def quartiles(values):
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def compare_speed(options):
    key = "mean_images_per_s" if options.mode == "end-to-end" else "images_per_s"
    variant = best_variant(options, key)
    mine, theirs, ratios = [], [], []
    for pair in range(options.pairs):
        turns = [
            lambda: mine.append(ours(options, options.steps)),
            lambda: theirs.append(pytorch(options, options.steps, variant)),
        ]
        for turn in turns if pair % 2 == 0 else reversed(turns):
            turn()
        a, b = mine[-1], theirs[-1]
        ratios.append(a[key] / b[key])
        print(
            f"pair {pair + 1}: ours {a[key]:.1f}, PyTorch {b[key]:.1f} images/s, ratio {ratios[-1]:.3f}; "
            f"peak {a['peak_rss_bytes'] / 1e9:.2f} and {b['peak_rss_bytes'] / 1e9:.2f} GB; "
            f"others used {a['others']:.2f} and {b['others']:.2f} cores",
            flush=True,
        )

    def middle(runs, what):
        return statistics.median(run[what] for run in runs)

    low, median, high = quartiles(ratios)
    a, b = mine[-1], theirs[-1]
    gigabytes = {
        name: (middle(runs, "peak_rss_bytes") / 1e9, middle(runs, "rss_before_bytes") / 1e9)
        for name, runs in (("ours", mine), ("PyTorch", theirs))
    }
    way = "compiled" if options.compiled else "eager"
    print(f"\nPyTorch {b['torch']}, {way}, {variant['name']}, clipping with foreach: {b['foreach_clip']}")
    print(f"batch {a['batch']}, {options.steps} steps after {options.warmup}, {options.threads} threads")
    for name, (peak, before) in gigabytes.items():
        print(f"{name}: peak {peak:.3f} GB; before there is a model {before:.3f} GB")
    print(f"PyTorch imported, nothing else: {middle(theirs, 'rss_imported_bytes') / 1e9:.3f} GB")
    if max(run["others"] for run in mine + theirs) > QUIET:
        print(f"NOT QUIET: other processes used more than {QUIET} cores; the ratio is invalid.")
    if variant["workers"]:
        print("Memory of PyTorch's workers is not counted.")
    columns = ["mode", "shape", "PyTorch", "pairs", "ours, images/s", "PyTorch, images/s", "ratio: quartiles", "peak GB"]
    row = [
        options.mode,
        options.shape,
        way,
        options.pairs,
        f"{middle(mine, key):.1f}",
        f"{middle(theirs, key):.1f}",
    ]
    row += [f"{low:.3f}, {median:.3f}, {high:.3f}"]
    row += [f"{gigabytes['ours'][0]:.2f} and {gigabytes['PyTorch'][0]:.2f}"]
    print()
    for cells in (columns, ["---"] * len(columns), row):
        print("|", " | ".join(str(cell) for cell in cells), "|")


def smooth(losses, window=10):
    return [statistics.fmean(losses[i : i + window]) for i in range(len(losses) - window + 1)]


def difference(name, mine, theirs):
    relative = [abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True)]
    where = relative.index(max(relative))
    print(f"{name}: largest {max(relative):.2e} at {where + 1} of {len(relative)}, last {relative[-1]:.2e}")


def compare_curve(options):
    with tempfile.TemporaryDirectory() as folder:
        dump = options.dump or pathlib.Path(folder)
        mine = measure([options.bench, *common(options), "--steps", options.steps, "--dump", dump])["losses"]
        child = [sys.executable, __file__, "--child", "--mode", "curve", "--dump", dump]
        child += ["--threads", options.threads]
        result = measure(child)
        theirs, exact = result["losses"], measure([*child, "--double"])["losses"]
    print("step: ours, PyTorch in float32, in float64")
    for step in sorted({0, 1, 2, *range(9, len(mine), 10), len(mine) - 1}):
        print(f"{step + 1}: {mine[step]:.6f}, {theirs[step]:.6f}, {exact[step]:.6f}")
    print(f"\nPyTorch {result['torch']}; relative difference of the losses of {len(mine)} steps")
    difference("ours from PyTorch: first step", mine[:1], theirs[:1])
    pairs = [
        ("ours from PyTorch", mine, theirs),
        ("ours from float64", mine, exact),
        ("PyTorch from float64", theirs, exact),
    ]
    for name, one, other in pairs:
        difference(f"{name}: each step", one, other)
        if len(one) > 10:
            difference(f"{name}: mean of ten steps", smooth(one), smooth(other))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bench", type=pathlib.Path, help="binary of benches/train_step.rs")
    parser.add_argument("--shape", choices=[*SHAPES, "tiny"], default="a192")
    parser.add_argument("--mode", choices=["train", "forward", "curve", "end-to-end"], default="train")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, help="measured steps; default: 12, for a curve 200")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=pathlib.Path, help="folder of the data sets")
    parser.add_argument("--dump", type=pathlib.Path, help="folder to keep a curve's first values and batches in")
    parser.add_argument("--compiled", action="store_true", help="compile PyTorch's model with torch.compile")
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--double", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.steps = options.steps or (200 if options.mode == "curve" else 12)
    curve = options.mode == "curve"
    if options.shape == "tiny" and not curve:
        parser.error("tiny is only for --mode curve: it is too small to compare speed")
    if options.mode == "end-to-end" and not options.data:
        parser.error("--mode end-to-end needs --data")
    if options.warmup < 1 or options.steps < 1 or options.pairs < 1:
        parser.error("--warmup, --steps and --pairs must be at least 1")
    if options.child:
        return torch_curve(options) if curve else torch_speed(options)
    if not options.bench:
        parser.error("--bench must name the binary made by cargo build --release --bench train_step")
    return compare_curve(options) if curve else compare_speed(options)


if __name__ == "__main__":
    main()
