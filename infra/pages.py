"""Pages on loopback from a thread of ours: what the demo, the benchmarks and the tests show to browsers. Nothing for the internet."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from infra import ports


class Pages(BaseHTTPRequestHandler):
    """Answers with whole pages, and logs nothing."""

    def answer(self, body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """`kind`: the Content-Type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def served(pages: type[Pages], port: int = 0) -> Iterator[int]:
    """The port, by default any free one, on which the pages are there for as long as the block runs."""
    server = ThreadingHTTPServer((ports.LOOPBACK, port), pages)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
