"""Asks a genebank server for a model over gRPC, writes the file and checks its SHA-256.

    pip install grpcio grpcio-tools
    python examples/python/init_model.py fashion-s --depth 7 -o m.safetensors

The script compiles the protocol from proto/genebank/v1/genebank.proto when it starts.
"""

import argparse
import hashlib
import importlib
import os
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def compiled(name):
    """Returns the Python modules of a proto file: messages and stubs."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}", name]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"{name} does not compile")
        sys.path.insert(0, folder)
        try:
            module = name.removesuffix(".proto").replace("/", ".")
            return importlib.import_module(module + "_pb2"), importlib.import_module(module + "_pb2_grpc")
        finally:
            sys.path.remove(folder)


def receive(stream, file):
    """Writes the chunks of `stream` to `file`, checks them, and returns the header and the last message."""
    header, completed, sha256, offset = None, None, hashlib.sha256(), 0
    for message in stream:
        event = message.WhichOneof("event")
        if event == "header":
            # A tuned model has two headers: the first before tuning, the second, with the manifest, after it.
            header = message.header
        elif event == "progress":
            progress = message.progress
            print(f"step {progress.step} of {progress.total_steps}, loss {progress.loss:.4f}", file=sys.stderr)
        elif event == "chunk":
            if message.chunk.offset != offset:
                raise ValueError(f"chunk at {message.chunk.offset}, expected {offset}")
            file.write(message.chunk.data)
            sha256.update(message.chunk.data)
            offset += len(message.chunk.data)
        elif event == "completed":
            completed = message.completed
    if completed is None:
        raise ValueError("the stream ended before the model was complete")
    if (offset, sha256.hexdigest()) != (completed.size_bytes, completed.sha256):
        raise ValueError(f"{offset} bytes with sha256 {sha256.hexdigest()}, announced {completed}")
    return header, completed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gene", nargs="?", default="", help="default: the server's default gene")
    parser.add_argument("--depth", type=int, help="default: the trained depth")
    parser.add_argument("--width", type=int, help="default: the trained width")
    parser.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f32")
    parser.add_argument("--tune-dataset", help="tune for --tune-epochs on this data set of the server")
    parser.add_argument("--tune-epochs", type=int, default=1)
    parser.add_argument("--server", default="127.0.0.1:8080", help="HOST:PORT")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    options = parser.parse_args()

    messages, stubs = compiled("genebank/v1/genebank.proto")
    request = messages.InitModelRequest(
        gene=options.gene,
        # None leaves an optional field unset, which selects the trained value; 0 would be refused.
        depth=options.depth,
        width=options.width,
        dtype=messages.Dtype.Value(f"DTYPE_{options.dtype.upper()}"),
    )
    if options.tune_dataset:
        request.fine_tune.dataset = options.tune_dataset
        request.fine_tune.epochs = options.tune_epochs

    # The final name never shows an incomplete file.
    part = options.output.with_name(options.output.name + ".part")
    try:
        with grpc.insecure_channel(options.server) as channel, part.open("wb") as file:
            header, completed = receive(stubs.GeneBankStub(channel).InitModel(request), file)
        os.replace(part, options.output)
    except grpc.RpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}") from None
    finally:
        part.unlink(missing_ok=True)

    print(f"{options.output}: {header.gene} depth {header.depth} width {header.width}")
    print(f"{header.parameters} parameters, {completed.size_bytes} bytes, layers by stage {list(header.stage_layers)}")
    if header.HasField("expected"):
        print(f"measured accuracy before tuning {header.expected:.4f}")
    print(f"sha256 {completed.sha256} verified")


if __name__ == "__main__":
    main()
