"""One page, shown to a browser on this machine alone."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flambe_save.page.render import policy

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{policy()}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Answers ``GET /`` on 127.0.0.1 with one page, and anything else with an error.

    A request has to name this machine as its host, so that no other site can have its own name point here and read
    the page (DNS rebinding).

    Parameters
    ----------
    html : str
        The page, as :func:`render` makes it; its policy is that of every page.
    port : int
        The port; 0 takes one that is free.

    Raises
    ------
    OSError
        If the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, html: str, port: int = 0) -> None:
        self.body = html.encode()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away is not an error."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a silent connection keeps its thread

    def do_GET(self) -> None:
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
            self._answer(421, b"This is not the page's host.\n", "text/plain")
        elif self.path != "/":
            self._answer(404, b"There is one page, at /.\n", "text/plain")
        else:
            self._answer(200, self.server.body, "text/html")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not a GET, or no HTTP at all, without repeating any of it."""
        self._answer(405 if code == 501 else code, b"This is not a request for the page.\n", "text/plain")

    def _answer(self, code: int, body: bytes, kind: str) -> None:
        self.close_connection = self.close_connection or code != 200
        self.send_response(code)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **_HEADERS}
        if code == 405:
            headers["Allow"] = "GET"
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "flambe_save"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
