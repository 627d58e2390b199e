"""One site on a port of its own, on the box's loopback.

Owns: HTTP around ``site.respond``, and serving a folder of files. Refuses: pages (sites), browsers (``driver``).
"""

from __future__ import annotations

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from worldmodel.domains.web.inside import forum, shop, wiki
from worldmodel.domains.web.inside.pages import Page, Redirect, html
from worldmodel.domains.web.inside.site import Request, Route, State, respond

SITES: dict[str, tuple[Route, ...]] = {"forum": forum.ROUTES, "shop": shop.ROUTES, "wiki": wiki.ROUTES}
MAX_BODY = 64 * 1024
POLICY = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def read_request(method: str, target: str, body: str = "") -> Request:
    """``target``: path and query as they are sent."""
    address = urlsplit(target)
    pairs = parse_qsl(body if method == "POST" else address.query, keep_blank_values=True)
    return Request(method, unquote(address.path), dict(reversed(pairs)))


class Site:
    """A running server; ``state`` is its own once it has started."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.lock = threading.Lock()
        self._server = _started(partial(_Pages, self))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> State:
        """No request is answered after this; the state they left."""
        _stopped(self._server)
        with self.lock:
            return self.state


class Files:
    """A running server of a folder."""

    def __init__(self, folder: str) -> None:
        self._server = _started(partial(_Silent, directory=folder))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> State:
        _stopped(self._server)
        return {}


def _started(handler: object) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def _stopped(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


class _Silent(SimpleHTTPRequestHandler):
    timeout = 30
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written."""


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one write

    def __init__(self, site: Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(read_request("GET", self.path))

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > MAX_BODY:
            self.send_error(413)
            return
        self._answer(read_request("POST", self.path, self.rfile.read(int(size)).decode("utf-8", "replace")))

    def _answer(self, request: Request) -> None:
        with self.site.lock:
            found = respond(self.site.state, request, SITES[self.site.state["site"]])
        body = html(found).encode() if isinstance(found, Page) else b""
        self.send_response(found.code if isinstance(found, Page) else 303)
        if isinstance(found, Redirect):
            self.send_header("Location", found.path)
        for name, value in (("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body))),
                            ("Content-Security-Policy", POLICY), ("Cache-Control", "no-store")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written."""
