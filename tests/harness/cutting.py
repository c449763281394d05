# SPDX-License-Identifier: GPL-3.0-or-later
"""A cable to a server on loopback that is cut in the middle: with a bang, or so that nobody hears anything any more."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

_AT_ONCE_BYTES = 1 << 16
_RESETS = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket whose end is told with a reset, see socket(7) and tcp(7)."""


class Cut(Enum):
    """How a server is lost."""

    RESET = "its connections are reset, and new ones are refused: it was killed"
    SILENCE = "nothing comes any more, and new connections are never answered: packets are dropped"


class Cable:
    """Passes bytes on between clients and a server, until it is cut.

    Attributes:
        port: Where clients find the server.
        is_cut: Somebody can wait for the cut.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._cut: Cut | None = None
        self._left_bytes = 0
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.is_cut = threading.Event()
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._listen(0)
        self.port: int = self._listening.getsockname()[1]

    def cut_after(self, size_bytes: int, cut: Cut) -> None:
        """Cut it as soon as so many more bytes have come from the server."""
        with self._lock:
            self.is_cut.clear()
            self._left_bytes, self._cut = size_bytes, cut

    def mend(self) -> None:
        """The server is back; connections from before are lost."""
        self._stop_listening()
        self._reset()
        self._listen(self.port)
        self._is_whole.set()

    def close(self) -> None:
        """Nobody is served any more."""
        self._cut = None
        self._is_whole.set()
        self._stop_listening()
        self._reset()

    def _listen(self, port: int) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", port))
        self._listening.listen()
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listening.close()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            self._sockets.append(client)
            if not self._is_whole.is_set():
                continue  # the kernel has answered; nobody else will
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            self._sockets.append(server)
            for ends, counts in (((client, server), False), ((server, client), True)):
                threading.Thread(target=self._pass_on, args=(*ends, counts), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_AT_ONCE_BYTES):
                if counts:
                    self._count(len(data))
                if not self._is_whole.is_set():
                    return  # dropped
                sink.sendall(data)
            if self._is_whole.is_set():
                sink.shutdown(socket.SHUT_WR)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._left_bytes -= size_bytes
            if self._cut is None or self._left_bytes > 0:
                return
            self._is_whole.clear()
            if self._cut is Cut.RESET:
                self._stop_listening()
                self._reset()
            self._cut = None
            self.is_cut.set()

    def _reset(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
                each.shutdown(socket.SHUT_RD)  # wakes who waits in recv
            each.close()


@contextmanager
def cable(server_port: int) -> Iterator[Cable]:
    """A cable that is gone with the block."""
    made = Cable(server_port)
    try:
        yield made
    finally:
        made.close()
