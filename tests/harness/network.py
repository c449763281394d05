# SPDX-License-Identifier: GPL-3.0-or-later
"""A network of its own for one test: a switch in a namespace, this machine's end of it, and tap devices for guests.

Nothing of it can be reached from outside, and it is gone with the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass

from tests.harness.programs import call

SERVER, ROUTER = "192.0.2.1", "192.0.2.254"


@dataclass(frozen=True)
class Network:
    """A switch with this machine's end at SERVER and a router at ROUTER."""

    name: str

    @property
    def router(self):
        return f"{self.name}-router"

    def words(self, command, *, router=False):
        """The command, run in the namespace of the server, or of the router."""
        return ["ip", "netns", "exec", self.router if router else self.name, *map(str, command)]

    @contextlib.contextmanager
    def running(self, command, log, *, router=False):
        """A program that serves as long as the block takes; what it says goes to a file."""
        with log.open("wb") as said:
            process = subprocess.Popen(
                self.words(command, router=router), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                time.sleep(0.5)
                assert process.poll() is None, log.read_text(errors="replace")
                yield
            finally:
                process.terminate()
                process.wait()


@contextlib.contextmanager
def network():
    """Make the namespaces; needs root."""
    made = Network(f"imager-{os.getpid()}")
    try:
        for name in (made.name, made.router):
            call("ip", "netns", "add", name)
        inside = made.words(["ip"])
        call(*inside, "link", "set", "lo", "up")
        call(*inside, "link", "add", "switch", "type", "bridge")
        call(*inside, "tuntap", "add", "guest", "mode", "tap")
        call(*inside, "link", "add", "cable", "type", "veth", "peer", "name", "lan", "netns", made.router)
        for port in ("guest", "cable"):
            call(*inside, "link", "set", port, "master", "switch", "up")
        call(*inside, "addr", "add", f"{SERVER}/24", "dev", "switch")
        call(*inside, "link", "set", "switch", "up")
        at_router = made.words(["ip"], router=True)
        call(*at_router, "addr", "add", f"{ROUTER}/24", "dev", "lan")
        call(*at_router, "link", "set", "lan", "up")
        yield made
    finally:
        for name in (made.name, made.router):
            subprocess.run(["ip", "netns", "delete", name], check=False)
