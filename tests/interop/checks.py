"""Checks of unmodified Hub clients against a server. Each check returns what it saw, and raises if it fails.

A check returns None if its client lacks the feature.
"""

import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL, NATIVE = "genebank/fashion-any-d6-w48", "genebank/fashion-any-d6-w48-hf"
# Longer than the 10 MiB that a client writes at once, so that an interrupted download can resume.
LONG = "genebank/fashion-any-d24-w96"
# A model of a private gene, and the token that opens it.
PRIVATE, TOKEN = "genebank/fashion-s-d6-w96", "hf_interop"
FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]

LABELS = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")

CHECKS = []


def check(needs):
    def register(function):
        CHECKS.append((function.__name__.replace("_", " "), needs, function))
        return function

    return register


def requests():
    """Returns the requests since the last call: method, path, status and range of each."""
    with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/__log") as answer:
        seen = json.load(answer)
    return [request for request in seen if "agent-harnesses" not in request[1]]


def shape(seen):
    return ", ".join(f"{method} {status}" for method, _, status, *_ in seen) or "no request"


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def run(*command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"} | environment)
    expect(done.returncode == 0, f"{command}: {done.stdout[-800:]}{done.stderr[-1500:]}")
    return done.stdout + done.stderr


def hf():
    """Returns the command-line program if it is installed and starts; version 1.0.0 lacks one of its dependencies."""
    beside = pathlib.Path(sys.executable).parent
    for name in ("hf", "huggingface-cli"):
        if (beside / name).exists():
            started = subprocess.run([beside / name, "--help"], capture_output=True).returncode == 0
            return str(beside / name) if started else None
    return None


@check("huggingface_hub")
def hf_hub_download_cold():
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url

    path = hf_hub_download(MODEL, "model.safetensors")
    seen = requests()
    expect([s[0] for s in seen] == ["HEAD", "GET"], seen)
    etag = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=os.environ["HF_ENDPOINT"])).etag
    expect(pathlib.Path(path).resolve().name == etag, "the blob's name is not the ETag")
    info = next(iter(HfApi().get_paths_info(MODEL, "model.safetensors")))
    expect(info.lfs.sha256 == sha256(path), "the digest in the tree is not the file's")
    hf_hub_download(MODEL, "config.json")
    requests()
    return shape(seen)


@check("huggingface_hub")
def hf_hub_download_warm():
    from huggingface_hub import hf_hub_download

    hf_hub_download(MODEL, "model.safetensors")
    seen = requests()
    expect([s[0] for s in seen] == ["HEAD"], seen)
    return shape(seen)


@check("huggingface_hub")
def download_by_full_commit():
    from huggingface_hub import HfApi, hf_hub_download

    commit = HfApi().model_info(MODEL).sha
    requests()
    path = hf_hub_download(MODEL, "model.safetensors", revision=commit)
    seen = requests()
    expect(not seen and commit in path, seen)
    return shape(seen)


@check("huggingface_hub")
def offline_after_one_download():
    code = f"import huggingface_hub as h; print(h.hf_hub_download({MODEL!r}, 'model.safetensors'))"
    run(sys.executable, "-c", code, HF_HUB_OFFLINE="1")
    seen = requests()
    expect(not seen, seen)
    return shape(seen)


@check("huggingface_hub")
def download_by_tag():
    from huggingface_hub import HfApi, hf_hub_download

    tag = HfApi().list_repo_refs(MODEL).tags[0].name
    return pathlib.Path(hf_hub_download(MODEL, "config.json", revision=tag)).name + f" at {tag}"


@check("huggingface_hub")
def snapshot_download():
    from huggingface_hub import snapshot_download

    requests()
    folder = pathlib.Path(snapshot_download(NATIVE))
    cold = requests()
    expect(sorted(p.name for p in folder.iterdir()) == FILES, list(folder.iterdir()))
    snapshot_download(NATIVE)
    warm = requests()
    return f"{len(cold)} requests, warm: {shape(warm)}"


@check("huggingface_hub")
def file_exists():
    from huggingface_hub import file_exists, repo_exists

    expect(file_exists(MODEL, "config.json") and not file_exists(MODEL, "pytorch_model.bin"), "wrong")
    expect(repo_exists(MODEL) and not repo_exists("genebank/fashion-any-d99-w48"), "wrong repository")
    return shape(requests())


@check("huggingface_hub")
def model_info():
    from huggingface_hub import HfApi

    info = HfApi().model_info(MODEL)
    blobs = HfApi().model_info(MODEL, files_metadata=True)
    weights = next(s for s in blobs.siblings if s.rfilename == "model.safetensors")
    expect(len(info.sha) == 40 and weights.lfs["sha256"] and weights.size > 0, blobs)
    expect(sorted(s.rfilename for s in info.siblings) == FILES, info.siblings)
    return f"{info.library_name}, {getattr(info.safetensors, 'total', info.safetensors)} parameters"


@check("huggingface_hub")
def list_repo_files_and_tree():
    from huggingface_hub import HfApi

    files, tree = HfApi().list_repo_files(MODEL), list(HfApi().list_repo_tree(MODEL))
    expect(sorted(files) == FILES and sorted(f.path for f in tree) == FILES, files)
    return f"{len(tree)} files"


@check("huggingface_hub")
def get_paths_info():
    from huggingface_hub import HfApi

    found = HfApi().get_paths_info(MODEL, ["config.json", "model.safetensors", "none"])
    expect([f.path for f in found] == ["config.json", "model.safetensors"], found)
    return f"{len(found)} of 3"


@check("huggingface_hub")
def list_repo_refs_and_commits():
    from huggingface_hub import HfApi

    refs, commits = HfApi().list_repo_refs(MODEL, include_pull_requests=True), HfApi().list_repo_commits(MODEL)
    expect(refs.branches[0].target_commit == commits[0].commit_id == refs.tags[0].target_commit, refs)
    return f"{refs.branches[0].name}, tag {refs.tags[0].name}"


@check("huggingface_hub")
def get_safetensors_metadata():
    from huggingface_hub import HfApi

    metadata = HfApi().get_safetensors_metadata(MODEL)
    return f"{sum(metadata.parameter_count.values())} parameters"


@check("huggingface_hub")
def hf_file_system():
    from huggingface_hub import HfFileSystem

    files = HfFileSystem()
    expect(sorted(pathlib.Path(p).name for p in files.ls(MODEL, detail=False)) == FILES, files.ls(MODEL))
    with files.open(f"{MODEL}/model.safetensors") as file:
        length = int.from_bytes(file.read(8), "little")
    expect("depth" in files.read_text(f"{MODEL}/config.json"), "config.json")
    return f"header of {length} bytes"


@check("huggingface_hub")
def list_models():
    from huggingface_hub import HfApi

    api = HfApi()
    every = [m.id for m in api.list_models(author="genebank")]
    found = [m.id for m in api.list_models(search="fashion-any", limit=3)]
    expect(len(found) == 3 and len(every) == len(set(every)) > 50, (found, every))
    return f"{len(every)} models"


@check("huggingface_hub")
def list_models_within_a_budget():
    import inspect

    from huggingface_hub import HfApi

    if "num_parameters" not in inspect.signature(HfApi.list_models).parameters:
        return None
    found = list(HfApi().list_models(num_parameters="min:200K,max:300K", search="fashion-any"))
    sizes = [m.safetensors.total for m in found]
    expect(found and all(200_000 <= size <= 300_000 for size in sizes), sizes)
    return f"{len(found)} models"


@check("huggingface_hub")
def models_by_data_set_and_gene():
    from huggingface_hub import HfApi

    api = HfApi()
    found = list(api.list_models(trained_dataset="fashion-mnist", filter="license:mit", search="fashion-any"))
    expect(found and not list(api.list_models(filter="dataset:none")), found)
    model = api.model_info("genebank/fashion-any")
    expect(model.last_modified.year > 2000 and model.model_index, model)
    return f"{len(found)} models, {model.id}"


@check("huggingface_hub")
def errors():
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    for error, repository, path, revision, words in [
        (RepositoryNotFoundError, "genebank/fashion-any-d99-w48", "config.json", None, "1..=24"),
        (RepositoryNotFoundError, "genebank/none-d6-w48", "config.json", None, "fashion-any"),
        (RevisionNotFoundError, MODEL, "config.json", "refs/pr/5", "Invalid rev id"),
        (EntryNotFoundError, MODEL, "none.bin", None, "model.safetensors"),
    ]:
        try:
            hf_hub_download(repository, path, revision=revision)
        except error as raised:
            text = f"{raised} {getattr(raised, 'server_message', '')}"
            expect(words in text, f"{words} is not in {text}")
        else:
            raise AssertionError(f"{repository} {path} {revision} was found")
    return "repository, revision, file"


@check("huggingface_hub")
def private_gene_and_token():
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError, RepositoryNotFoundError

    for token, error in ((False, RepositoryNotFoundError), ("hf_wrong", HfHubHTTPError)):
        try:
            HfApi().model_info(PRIVATE, token=token)
        except error as raised:
            found = type(raised)
            expect(found is error, found)
        else:
            raise AssertionError(f"token {token} opened {PRIVATE}")
    expect("depth" in pathlib.Path(hf_hub_download(PRIVATE, "config.json", token=TOKEN)).read_text(), "config.json")
    return HfApi().whoami(token=TOKEN)["name"]


@check("huggingface_hub")
def model_card():
    from huggingface_hub import ModelCard

    data = ModelCard.load(MODEL).data
    return f"accuracy {data.eval_results[0].metric_value} on {data.eval_results[0].dataset_type}"


@check("timm")
def programs_of_the_card():
    from huggingface_hub import ModelCard

    if importlib.util.find_spec("transformers") is None:
        return None
    seen = []
    for repository in (MODEL, NATIVE):
        for program in re.findall(r"```python\n(.*?)```", ModelCard.load(repository).text, re.DOTALL):
            # Progress bars go to standard error.
            done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
            label, share = done.stdout.strip().rsplit(" ", 1)
            expect(label in LABELS and 0 < float(share) <= 1, f"{label} {share}")
            seen.append(label)
    expect(len(seen) == 3 and len(set(seen)) == 1, seen)
    return f"{len(seen)} programs: {seen[0]}"


@check("huggingface_hub")
def command_line_download():
    if hf() is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        run(hf(), "download", MODEL, "--local-dir", folder)
        expect(all((pathlib.Path(folder) / name).is_file() for name in FILES), os.listdir(folder))
    return pathlib.Path(hf()).name


@check("huggingface_hub")
def command_line_cache_verify():
    if hf() is None or "verify" not in subprocess.run([hf(), "cache", "--help"], capture_output=True, text=True).stdout:
        return None
    lines = run(hf(), "cache", "verify", NATIVE).splitlines()
    return next(line.strip().split(" for ")[0] for line in lines if "erified" in line)


@check("huggingface_hub")
def interrupted_download_resumes():
    from huggingface_hub import HfApi, hf_hub_download

    info = next(iter(HfApi().get_paths_info(LONG, "model.safetensors")))
    size = info.size
    expect(size > 10 << 20, f"{LONG} has {size} bytes only")
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/__cut/{size - 1000}").read()
    requests()
    try:
        path, note = hf_hub_download(LONG, "model.safetensors"), ""
    except Exception as error:  # clients before version 2 do not retry by themselves
        path, note = hf_hub_download(LONG, "model.safetensors"), f" (after {type(error).__name__})"
    seen = requests()
    expect(info.lfs.sha256 == sha256(path), "the bytes are others")
    return ", ".join(" ".join(map(str, [s[0], s[2], *s[3:]])) for s in seen) + note


@check("hf_transfer")
def hf_transfer_in_parallel_ranges():
    import hf_transfer
    from huggingface_hub import HfApi

    # Called directly, because huggingface_hub uses it only for files beyond 50 MiB.
    expected = next(f.lfs.sha256 for f in HfApi().get_paths_info(LONG, "model.safetensors"))
    requests()
    with tempfile.TemporaryDirectory() as folder:
        url, path = f"{os.environ['HF_ENDPOINT']}/{LONG}/resolve/main/model.safetensors", f"{folder}/file"
        hf_transfer.download(url=url, filename=path, max_files=8, chunk_size=1 << 20)
        expect(expected == sha256(path), "the bytes are others")
    seen = requests()
    return f"{seen[0][0]} {seen[0][2]} {seen[0][3]}, then {len(seen) - 1} ranges"


def images():
    """Returns the test images of the sample as the network's input."""
    import torch

    data = gzip.decompress((ROOT / "tests/data/fashion-mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = torch.frombuffer(bytearray(data[16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28)
    return (pixels.float() / 255 - 0.286) / 0.353


def labels():
    import torch

    data = gzip.decompress((ROOT / "tests/data/fashion-mnist/t10k-labels-idx1-ubyte.gz").read_bytes())
    return torch.frombuffer(bytearray(data[8:]), dtype=torch.uint8).long()


LOGITS = {}


def keep(name, logits):
    """Compares the logits of a client with the first ones; returns accuracy and difference."""
    first = LOGITS.setdefault("first", logits)
    difference = (logits - first).abs().max().item()
    expect(difference < 1e-5, f"{name} differs by {difference}")
    right = (logits.argmax(1) == labels()).float().mean().item()
    return f"{right:.1%} of {len(logits)} images, difference {difference:.1e}"


@check("timm")
def timm_hf_hub():
    import timm
    import torch

    requests()
    timm.create_model("hf-hub:genebank/fashion-any-d3-w24", pretrained=True)
    seen = requests()
    model = timm.create_model(f"hf-hub:{MODEL}", pretrained=True).eval()
    with torch.no_grad():
        return keep("timm", model(images())) + f"; {shape(seen)}"


@check("timm")
def timm_at_a_commit():
    import timm
    from huggingface_hub import HfApi

    commit = HfApi().model_info(MODEL).sha
    requests()
    timm.create_model(f"hf-hub:{MODEL}@{commit}", pretrained=True)
    return shape(requests())


@check("transformers")
def auto_model_of_timm_layout():
    import timm  # noqa: F401
    import torch
    from transformers import AutoModelForImageClassification

    model, report = AutoModelForImageClassification.from_pretrained(MODEL, output_loading_info=True)
    expect(not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report)
    with torch.no_grad():
        return type(model).__name__ + ": " + keep("wrapper", model.eval()(images()).logits)


@check("transformers")
def auto_model_of_hf_layout():
    import torch
    from transformers import AutoModelForImageClassification

    requests()
    model, report = AutoModelForImageClassification.from_pretrained(NATIVE, output_loading_info=True)
    seen = requests()
    expect(not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report)
    expect(model.config.id2label[9] == "Ankle boot", model.config.id2label)
    with torch.no_grad():
        return type(model).__name__ + ": " + keep("native", model.eval()(images()).logits) + f"; {shape(seen)}"


@check("transformers")
def auto_image_processor():
    import numpy
    from PIL import Image
    from transformers import AutoImageProcessor

    data = gzip.decompress((ROOT / "tests/data/fashion-mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = numpy.frombuffer(data[16 : 16 + 784], dtype=numpy.uint8).reshape(28, 28)
    expected, found = images()[0].numpy(), []
    native = AutoImageProcessor.from_pretrained(NATIVE)
    values = numpy.asarray(native(pixels[None], return_tensors="np", input_data_format="channels_first")["pixel_values"])
    expect(abs(values[0] - expected).max() < 1e-5, abs(values[0] - expected).max())
    found.append(type(native).__name__)
    if importlib.util.find_spec("timm"):
        wrapper = AutoImageProcessor.from_pretrained(MODEL)
        values = numpy.asarray(wrapper(Image.fromarray(pixels, "L"))["pixel_values"])
        expect(abs(values[0] - expected).max() < 1e-5, values.shape)
        found.append(type(wrapper).__name__)
    return ", ".join(found)
