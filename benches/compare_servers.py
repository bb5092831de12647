"""Compares two builds of the server, run in turns: throughput, first bytes, and memory.

    cargo build --release
    target/release/genebank synthesize MODELS/big.safetensors --widths 192,384,576
    python benches/compare_servers.py NEW OLD --models MODELS --gene big --depth 12 --width 768 --pairs 9

The ratio is the first build's figure divided by the second's. A pair is one measurement of each build, in alternating order; both
servers run all the time. Needs curl and h2load (nghttp2).
"""

import argparse
import http.client
import statistics
import struct
import subprocess
import tempfile
import time


class Server:
    """A server process on a free port."""

    def __init__(self, binary, models):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--models", models]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().rsplit("//", 1)[1].strip()

    def get(self, path, headers=None):
        """The whole body, and how long it took in seconds, over a fresh connection."""
        connection = http.client.HTTPConnection(self.address)
        start = time.perf_counter()
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        elapsed = time.perf_counter() - start
        assert answer.status in (200, 206), (path, answer.status)
        connection.close()
        return body, elapsed

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def close(self):
        self.process.terminate()
        self.process.wait()


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def init_model(gene, depth, width):
    """A framed InitModelRequest: gene = 1, depth = 2, width = 3."""
    body = b"\x0a" + varint(len(gene)) + gene.encode() + b"\x10" + varint(depth) + b"\x18" + varint(width)
    return b"\x00" + struct.pack(">I", len(body)) + body


def seconds(command):
    start = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    elapsed = time.perf_counter() - start
    assert "h2load" not in command[0] or " 0 3xx, 0 4xx, 0 5xx" in output, output
    return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs=2, metavar="GENEBANK")
    parser.add_argument("--models", required=True)
    parser.add_argument("--gene", required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--times", type=int, default=6, help="transfers a measurement")
    options = parser.parse_args()
    servers = [Server(build, options.models) for build in options.builds]
    path = f"/v1/models/{options.gene}/d{options.depth}-w{options.width}.safetensors"
    with tempfile.NamedTemporaryFile() as message:
        message.write(init_model(options.gene, options.depth, options.width))
        message.flush()

        def curl(server, _):
            command = ["curl", "--silent", "--fail", "--http1.1"]
            return seconds(command + ["--output", "/dev/null", f"http://{server.address}{path}"] * options.times)

        def grpc(frame):
            def call(server, _):
                command = ["h2load", "-H", "content-type: application/grpc", "-H", "te: trailers"]
                command += [f"--max-frame-size={frame}", "--data", message.name]
                command += ["--clients=1", "--max-concurrent-streams=1", f"--requests={options.times}"]
                return seconds(command + [f"http://{server.address}/genebank.v1.GeneBank/InitModel"])

            return call

        def first_byte(server, pair):
            # Other classes make another model: each is planned and rendered, and one byte of it is read.
            ways = [f"{path}?labels=%5B%22{pair}-{model}%22%5D" for model in range(100)]
            return sum(server.get(way, {"Range": "bytes=0-0"})[1] for way in ways)

        def small(server, _):
            start = time.perf_counter()
            for _ in range(200):
                server.get("/v1/genes")
            return time.perf_counter() - start

        rows = [
            ("HTTP/1.1 (curl)", curl),
            ("gRPC, 1 MiB frames (h2load)", grpc(1 << 20)),
            ("gRPC, 16 KiB frames (h2load)", grpc(16 << 10)),
            ("first bytes of 100 new models", first_byte),
            ("200 small requests", small),
        ]
        sizes = [len(server.get(path)[0]) for server in servers]
        print(f"{sizes[0]} bytes, {options.times} transfers a measurement, {options.pairs} pairs")
        print("| measured | time, first / second: lower quartile | median | upper quartile |")
        print("| --- | ---: | ---: | ---: |")
        for name, measure in rows:
            ratios = []
            for server in servers:
                measure(server, "warm-up")
            for pair in range(options.pairs):
                order = [0, 1] if pair % 2 == 0 else [1, 0]
                times = {which: measure(servers[which], pair) for which in order}
                ratios.append(times[0] / times[1])
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            print(f"| {name} | {low:.3f} | {middle:.3f} | {high:.3f} |", flush=True)
        print(f"resident memory at the end: {servers[0].resident() / servers[1].resident():.3f}")
    for server in servers:
        server.close()


if __name__ == "__main__":
    main()
