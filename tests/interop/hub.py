"""Runs unmodified Hub clients against a server of this repository, and prints a table with a column for each.

    cargo build
    pip install huggingface_hub timm transformers torch
    python tests/interop/hub.py
    python tests/interop/hub.py --python OTHER_VENV/bin/python --python …

Each --python names an interpreter with installed clients; the default is the current interpreter. The script starts the program
--server on a free port with the genes in models/. A recorder between server and clients counts requests and, for one check,
interrupts a download. Every client has an empty HF_HOME. The script exits with 1 if a check fails; a check is shown as absent
if its client is not installed.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

from checks import CHECKS, ROOT, TOKEN
from recorder import Recorder

PACKAGES = ["huggingface_hub", "hf_transfer", "timm", "transformers", "torch"]


@contextlib.contextmanager
def server(binary):
    """Starts a server of the genes in models/; yields its address as (host, port)."""
    with tempfile.TemporaryDirectory() as store:
        tokens, digest = pathlib.Path(store) / "tokens.toml", hashlib.sha256(TOKEN.encode()).hexdigest()
        tokens.write_text(f'private = ["fashion-s"]\n[[token]]\nname = "interop"\nsha256 = "{digest}"\n')
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--models", ROOT / "models", "--store", store]
        command += ["--tokens", tokens]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            if "http://" not in line:
                raise SystemExit(f"{binary} did not start: {line!r}")
            host, port = line.strip().rsplit("/", 1)[1].rsplit(":", 1)
            yield host, int(port)
        finally:
            process.terminate()
            process.wait(30)


def client():
    """Runs every check with the clients of this interpreter; prints one JSON object on the last line."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    results = {}
    for name, needs, function in CHECKS:
        if needs not in versions or ("layout" in name and "torch" not in versions):
            results[name] = None
            continue
        try:
            seen = function()
            results[name] = None if seen is None else ["ok", str(seen)]
        except ImportError as error:
            results[name] = None
            print(f"{name}: {error}", file=sys.stderr)
        except Exception as error:  # run the other checks as well
            traceback.print_exc()
            results[name] = ["failed", f"{type(error).__name__}: {error}"[:300]]
    print(json.dumps({"versions": versions, "results": results}))


def cell(result):
    if result is None:
        return "absent"
    return result[1].replace("|", "/").replace("\n", " ") if result[0] == "ok" else f"**failed** {result[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = [ROOT / "target" / profile / "genebank" for profile in ("release", "debug")]
    newest = max((path for path in built if path.exists()), key=lambda path: path.stat().st_mtime, default=built[0])
    parser.add_argument("--server", type=pathlib.Path, default=newest, help="the program")
    parser.add_argument("--python", action="append", help="an interpreter with installed clients; can be repeated")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        return client()
    columns = []
    with server(options.server) as upstream:
        for python in options.python or [sys.executable]:
            recorder, home = Recorder(upstream), tempfile.mkdtemp()
            host, port = recorder.server_address
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
            environment |= {"HF_ENDPOINT": f"http://{host}:{port}", "HF_HOME": home, "NO_PROXY": "127.0.0.1"}
            done = subprocess.run(
                [python, __file__, "--client"], stdout=subprocess.PIPE, text=True, env=environment
            )
            recorder.shutdown()
            shutil.rmtree(home, ignore_errors=True)
            columns.append(json.loads(done.stdout.strip().splitlines()[-1]))
    names = [", ".join(f"{k} {v}" for k, v in column["versions"].items()) for column in columns]
    print("| check | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, _, _ in CHECKS:
        print(f"| {name} | " + " | ".join(cell(column["results"][name]) for column in columns) + " |")
    failed = [name for c in columns for name, result in c["results"].items() if result and result[0] == "failed"]
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
