"""A relay between Hub clients and a server that records requests and can interrupt a download."""

import http.server
import json
import socket
import threading


class Recorder(http.server.ThreadingHTTPServer):
    """Forwards requests to `upstream`, records them, and can interrupt the next download of weights."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Relay)
        self.upstream, self.seen, self.cut_at, self.lock = upstream, [], None, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Relay(http.server.BaseHTTPRequestHandler):
    """Handles one client connection; opens a new connection to the server for each request."""

    protocol_version = "HTTP/1.1"

    def relay(self):
        if self.path.startswith("/__"):
            return self.control()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kept = [f"{k}: {v}" for k, v in self.headers.items() if k.lower() not in ("connection", "keep-alive")]
        head = "\r\n".join([f"{self.command} {self.path} HTTP/1.1", *kept, "connection: close", "", ""])
        with socket.create_connection(self.server.upstream) as upstream:
            upstream.sendall(head.encode("latin-1") + body)
            answer = upstream.makefile("rb")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = answer.readline()
                if not line:
                    break
                head += line
            status = int(head.split(b" ")[1])
            with self.server.lock:
                asked = self.headers.get("range")
                self.server.seen.append([self.command, self.path, status] + ([asked] if asked else []))
                left = None
                if self.command == "GET" and self.path.endswith("model.safetensors"):
                    left, self.server.cut_at = self.server.cut_at, None
            self.close_connection = True
            self.wfile.write(head)
            while chunk := answer.read1(1 << 16):
                if left is not None:
                    chunk, left = chunk[:left], left - len(chunk)
                self.wfile.write(chunk)
                if left is not None and left <= 0:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return

    do_GET = do_HEAD = do_POST = relay

    def control(self):
        """`/__log` returns the requests since the last call; `/__cut/N` also cuts the next download after N bytes."""
        with self.server.lock:
            if self.path.startswith("/__cut/"):
                self.server.cut_at = int(self.path.removeprefix("/__cut/"))
            text, self.server.seen = json.dumps(self.server.seen).encode(), []
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass
