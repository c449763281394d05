# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows views as ordinary files, by a FUSE server in a process of its own (`imager.overlay.serving`).

A process of its own, because a program that has a file of its own server open can come to wait for itself: CPython
holds its lock while a program that it starts closes the files that it inherited.

The server takes the file system that it shows out of its folder as soon as it stands in it (umount --lazy). The files
are reached by /proc/PID/cwd, and are gone with that process. It ends when its standard input does, which the kernel
sees to, however this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import imager
from imager.blocks import BlockReader
from imager.errors import UsageError, VolumeFailed
from imager.extents import Extents
from imager.overlay.base import Base
from imager.overlay.store import Place, Store
from imager.overlay.view import Overlay
from imager.process import PIPE, Running, start, wait_for

_PATIENCE_SECONDS: Final = 60.0
"""How long the server may take to give its files back."""


@dataclass(frozen=True)
class View:
    """A file to show.

    Attributes:
        name: Its name.
        base: What is read where nothing was written.
        store: Where written bytes go; None for a file that can only be read.
    """

    name: str
    base: Base
    store: Store | None = None


class Shown:
    """Files that other programs can open, and what they did to them."""

    def __init__(self, server: Running, views: Sequence[View]) -> None:
        self._server = server
        self._views = {view.name: view for view in views}

    def path(self, name: str) -> str:
        """Where a file is found, as long as it is shown."""
        return f"/proc/{self._server.pid}/cwd/{name}"

    def size(self, name: str) -> int:
        """How long a file is now."""
        return self._state(name)[0]

    def dirty(self, name: str) -> Extents:
        """What was written until now, in whole pages."""
        return self._state(name)[1]

    def after(self, name: str, stack: ExitStack, base: BlockReader | None = None) -> Overlay:
        """The file as it is now, readable in this process until the stack is closed, also when it is shown no more.

        Args:
            name: Its name.
            stack: Holds the base.
            base: The base's bytes, where this process has them open already: an index of an image takes memory.

        Raises:
            ImagerError: The base cannot be opened.
        """
        view = self._views[name]
        size, dirty, _ = self._state(name)
        after = Overlay(base or view.base.opened(stack), view.store, dirty)
        after.truncate(size)
        return after

    def problem(self, name: str) -> str:
        """The first thing that went wrong below a file, such as a damaged chunk of the image; "" when nothing did."""
        return self._state(name)[2]

    def cause(self, name: str) -> str:
        """What that lies in: "image", "room", or "" for anything else."""
        cause: str = ask(self._server, {"state": name})["cause"]
        return cause

    def _state(self, name: str) -> tuple[int, Extents, str]:
        answer = ask(self._server, {"state": name})
        return answer["size"], Extents(answer["starts"], answer["ends"]), answer["problem"]


def ask(server: Running, question: object) -> dict[str, Any]:
    """Send a line to the server and wait for its answer.

    Raises:
        VolumeFailed: It has ended.
    """
    talk, listen = server.stdin, server.stdout
    if talk is None or listen is None:
        raise ValueError("the server must be started with pipes")
    try:
        talk.write(json.dumps(question).encode() + b"\n")
        talk.flush()
        line = listen.readline()
    except BrokenPipeError:
        line = b""
    if not line:
        raise VolumeFailed(
            "the program that shows the image as files has ended",
            hint="Look at the kernel's messages (dmesg): it may have run out of memory.",
        )
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def shown(views: Sequence[View]) -> Iterator[Shown]:
    """Show files until the block is left; what was written to them is in their stores.

    Raises:
        UsageError: FUSE is not there: /dev/fuse, libfuse or the Python package mfusepy.
        ImagerError: A base cannot be opened.
        VolumeFailed: The server does not end.
    """
    command = [sys.executable, "-P", "-m", "imager.overlay.serving"]
    fds = sorted({fd for view in views if view.store for fd in view.store.fds})
    where = {"PYTHONPATH": str(Path(imager.__file__).parent.parent)}
    with start(command, input_from=PIPE, output_to=PIPE, environment=where, pass_fds=fds, own_session=True) as server:
        answer = ask(server, [_told(view) for view in views])
        if "error" in answer:
            raise UsageError(
                f"the image cannot be shown to other programs: {answer['error']}",
                hint="It needs FUSE: /dev/fuse, and Debian's fuse3. The boot medium has both.",
            )
        try:
            yield Shown(server, views)
        finally:
            _end(server)


def _told(view: View) -> dict[str, Any]:
    """A view, as the server is told of it."""
    base = view.base
    return {
        "name": view.name,
        "kind": base.kind,
        "path": base.path and os.fspath(Path(base.path).absolute()),
        "pieces": base.pieces,
        "container": base.container,
        "uuid": base.uuid,
        "key": base.key.hex(),
        "places": [_told_place(place) for place in view.store.places] if view.store else None,
    }


def _told_place(place: Place) -> list[Any]:
    seal = asdict(place.seal) | {"key": place.seal.key.hex()} if place.seal else None
    return [place.start, place.end, place.fd, place.offset, seal]


def _end(server: Running) -> None:
    """Have the server end, by the end of its input."""
    if server.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            server.stdin.close()
    with contextlib.suppress(TimeoutError):  # then it is killed
        wait_for(server, _PATIENCE_SECONDS)
