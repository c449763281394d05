# SPDX-License-Identifier: GPL-3.0-or-later
"""An SSH server on loopback, with keys that live as long as it does."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or ""


@dataclass
class SshServer:
    """A server that runs.

    Attributes:
        folder: Has the private keys: `user` opens it, `stranger` does not.
        fingerprint: Of its own key.
    """

    folder: Path
    port: int
    fingerprint: str
    process_id: int

    def url(self, path: Path, host: str = "127.0.0.1") -> str:
        return f"ssh://{getpass.getuser()}@{host}:{self.port}{path}"


def free_port() -> int:
    """Somebody else may be given it before it is used."""
    with kept_port() as port:
        return port


@contextmanager
def kept_port() -> Iterator[int]:
    """A free port of loopback that nobody is given as long as the block takes; a server that names it can have it.

    Linux lets a second socket have a port when both say SO_REUSEADDR, as servers do, and none listens yet (socket(7)).
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start sshd in the foreground; it ends with the block."""
    for name in ("host", "user", "stranger"):
        _make_key(folder / name)
    (folder / "user").chmod(0o644)  # as on a FAT stick
    with kept_port() as port:
        lines = [
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder}/host",
            f"AuthorizedKeysFile {folder}/user.pub",
            *("UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin yes", "PidFile none"),
        ]
        (folder / "config").write_text("\n".join(lines))
        Path("/run/sshd").mkdir(exist_ok=True)
        with subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL) as running:
            try:
                wait_for_port(port)
                yield SshServer(folder, port, _fingerprint(folder), running.pid)
            finally:
                running.terminate()


def password_server(folder: Path, address: str, password: str) -> tuple[list[str], str]:
    """The command of a server where root has a password, and the fingerprint of its key.

    It mounts a file over this machine's passwords: run it in a mount namespace of its own.
    """
    _make_key(folder / "host")
    hashed = ["openssl", "passwd", "-6", "-stdin"]
    made = subprocess.run(hashed, input=password, capture_output=True, text=True, check=True).stdout.strip()
    (folder / "shadow").write_text(f"root:{made}:1::::::\n")
    lines = [f"ListenAddress {address}", f"HostKey {folder}/host", "PermitRootLogin yes", "PasswordAuthentication yes"]
    lines += ["UsePAM no", "PidFile none", "Subsystem sftp internal-sftp"]
    (folder / "config").write_text("\n".join(lines))
    Path("/run/sshd").mkdir(exist_ok=True)
    serve = f"mount --bind '{folder}/shadow' /etc/shadow && exec {SSHD} -D -e -f '{folder}/config'"
    return ["sh", "-c", serve], _fingerprint(folder)


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _fingerprint(folder: Path) -> str:
    told = subprocess.run(["ssh-keygen", "-lf", folder / "host.pub"], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


def wait_for_port(port: int) -> None:
    for _ in range(6000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd does not answer")
