# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server on loopback that serves from memory, takes reports, and misbehaves on request."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Web:
    """What the server has, how it behaves, and what it was sent.

    Attributes:
        url: Of its root.
        files: Content by path.
        takes_ranges: Whether it can begin in the middle.
        breaks_at: It ends each of the next answers after so many bytes, one number an answer.
        claims: The length that it names, where that is not the right one.
        claims_in_words: The same as a text, only in the header.
        statuses: It gives these instead of the next answers.
        redirects: Paths that lead elsewhere.
        changes_after_break: Whether the file is another one, as its ETag says, once an answer broke off.
        asked: Method, path and Range of every request.
        sent: Path, content type and body of every POST.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    takes_ranges: bool = True
    breaks_at: list[int] = field(default_factory=list)
    claims: int | None = None
    claims_in_words: str = ""
    statuses: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    changes_after_break: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    version: int = 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_: object) -> None:
        pass

    def _begin(self) -> bool:
        self.close_connection = True
        self.web.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if self.web.statuses:
            self._answer(self.web.statuses.pop(0))
            return False
        return True

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._begin():
            self.web.sent.append((self.path, self.headers["Content-Type"], body))
            self._answer(204)

    def do_GET(self) -> None:
        if not self._begin():
            return
        if self.path in self.web.redirects:
            self._answer(302, {"Location": self.web.redirects[self.path]})
            return
        content = self.web.files.get(self.path)
        if content is None:
            self._answer(404)
            return
        self._send(content)

    def _send(self, content: bytes) -> None:
        web = self.web
        size = len(content) if web.claims is None else web.claims
        asked = self.headers.get("Range", "")
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and web.takes_ranges else 0
        headers = {"Content-Length": web.claims_in_words or str(size - begin), "ETag": f'"{web.version}"'}
        if begin >= size:
            self._answer(416)
            return
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self._answer(206 if begin else 200, headers)
        end = len(content) if web.claims is None else min(size, len(content))
        if web.breaks_at:
            end = min(end, begin + web.breaks_at.pop(0))
            web.version += web.changes_after_break
        self.wfile.write(content[begin:end])


@contextmanager
def serving(certificate: Path | None = None, *, port: int = 0) -> Iterator[Web]:
    """A server; with TLS when there is a file with key and certificate, and on any port unless one is given."""
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that goes away is part of the test
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
