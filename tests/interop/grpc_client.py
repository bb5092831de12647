"""Checks Python's gRPC client, with modules compiled from the proto, against a server of this repository.

    cargo build
    pip install grpcio grpcio-tools
    python tests/interop/grpc_client.py

The script starts the program --server on a free port with the genes in models/; fashion-s is private. It prints a line for each
check and exits with 1 if one fails.
"""

import argparse
import hashlib
import importlib.metadata
import pathlib
import sys
import urllib.request

import grpc

from checks import ROOT, TOKEN
from hub import server

sys.path.insert(0, str(ROOT / "examples" / "python"))
from init_model import compiled  # noqa: E402

GENE, DEPTH, WIDTH = "fashion-any", 11, 72
BEARER = [("authorization", f"Bearer {TOKEN}")]


def whole(stream):
    """Returns header, bytes and last message of a stream."""
    header, data, completed = None, bytearray(), None
    for message in stream:
        event = message.WhichOneof("event")
        if event == "header":
            header = message.header
        elif event == "chunk":
            data += message.chunk.data
        elif event == "completed":
            completed = message.completed
    return header, bytes(data), completed


def code(call):
    """Returns the error of a call, which must fail."""
    try:
        list(call)
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def checks(stub, messages, file):
    request = messages.InitModelRequest(gene=GENE, depth=DEPTH, width=WIDTH, max_chunk_bytes=65536)

    def framed():
        header, data, completed = whole(stub.InitModel(request))
        assert data == file and completed.sha256 == hashlib.sha256(file).hexdigest()
        return f"{len(data)} bytes as over HTTP, identity {header.identity[:12]}"

    def generated():
        header, data, _ = whole(stub.InitModel(request, metadata=[("genebank-frames", "generated")]))
        assert data == file and header == whole(stub.InitModel(request))[0]
        return "the same header and bytes"

    def offset():
        identity = whole(stub.InitModel(request))[0].identity
        rest = messages.DownloadModelRequest(model=request, identity=identity, offset=100_001)
        assert whole(stub.DownloadModel(rest))[1] == file[100_001:]
        return "the rest from byte 100001"

    def layout():
        other = messages.InitModelRequest(gene=GENE, depth=DEPTH, width=WIDTH, layout=messages.LAYOUT_TRANSFORMERS)
        data = whole(stub.InitModel(other))[1]
        assert b"vit.encoder.layer.10." in data[:100_000] and data != file
        return "transformers' names"

    def refused():
        error = code(stub.InitModel(messages.InitModelRequest(gene=GENE, depth=1000)))
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert b"google.rpc" in details
        return f"{error.code().name} with google.rpc details: {error.details()[:60]}"

    def unknown():
        error = code(stub.InitModel(messages.InitModelRequest(gene="nobody")))
        assert error.code() == grpc.StatusCode.NOT_FOUND
        return error.code().name

    def private():
        mine = messages.InitModelRequest(gene="fashion-s", depth=7)
        error = code(stub.InitModel(mine))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        data = whole(stub.InitModel(mine, metadata=BEARER))[1]
        return f"{error.code().name} without a token, {len(data)} bytes with it"

    def cancelled():
        call = stub.InitModel(request)
        next(call)
        call.cancel()
        assert code(call).code() == grpc.StatusCode.CANCELLED
        assert whole(stub.InitModel(request))[1] == file
        return "and the next call is answered"

    def deadline():
        error = code(stub.InitModel(request, timeout=1e-4))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        return error.code().name

    def genes():
        names = [gene.name for gene in stub.ListGenes(messages.ListGenesRequest()).genes]
        assert names == [GENE], names
        gene = stub.GetGene(messages.GetGeneRequest(gene=GENE))
        return f"{len(gene.quality)} measured sizes, widths {list(gene.trained_widths)}"

    return [framed, generated, offset, layout, refused, unknown, private, cancelled, deadline, genes]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=pathlib.Path, default=ROOT / "target" / "debug" / "genebank")
    options = parser.parse_args()
    print("grpcio", importlib.metadata.version("grpcio"))
    messages, stubs = compiled("genebank/v1/genebank.proto")
    failed = 0
    with server(options.server) as (host, port):
        url = f"http://{host}:{port}/v1/models/{GENE}/d{DEPTH}-w{WIDTH}.safetensors"
        with urllib.request.urlopen(url) as answer:
            file = answer.read()
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            for check in checks(stubs.GeneBankStub(channel), messages, file):
                try:
                    print(f"| {check.__name__} | {check()} |")
                except Exception as error:  # run the other checks as well
                    failed += 1
                    print(f"| {check.__name__} | **failed** {type(error).__name__}: {error} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
