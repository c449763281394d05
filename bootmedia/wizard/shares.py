# SPDX-License-Identifier: GPL-3.0-or-later
"""Shares of other machines, the commands that mount them, and what their servers' refusals mean.

Words that somebody must not see (passwords) never stand in a command line: everybody on the machine can read those.

References: mount.cifs(8), nfs(5), sshfs(1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.volumes import SAFE, folder_of

_SSH_PORT: Final = 22
_LAST_PORT: Final = 65535


@dataclass(frozen=True)
class Share:
    r"""A share of an SMB or NFS server, or a folder of an SSH server.

    Attributes:
        kind: smb, nfs or ssh.
        server: Name or address.
        path: Name of the share, or the folder.
        user: For SMB also as DOMAIN\user; "" for a guest.
        key: File with a private SSH key.
        known_hosts: File with the keys of the SSH server that were accepted.
        is_writable: For a capture.
    """

    kind: str
    server: str
    path: str
    user: str = ""
    password: str = ""
    domain: str = ""
    port: int = _SSH_PORT
    key: str = ""
    known_hosts: str = ""
    is_writable: bool = False

    def __str__(self) -> str:
        """For people, and as the mount commands take it."""
        if self.kind == "smb":
            return f"//{self.server}/{self.path.replace(_BACKSLASH, '/').strip('/')}"
        return f"{self.server}:{self.path}"

    @property
    def folder(self) -> Path:
        """Where it is mounted: another user, or leave to write, is another mount."""
        what = "-rw" if self.is_writable else ""
        server = self.server if self.port == _SSH_PORT else f"{self.server}:{self.port}"
        who = f",{self.domain}{_BACKSLASH}{self.user}" if self.domain else f",{self.user}" if self.user else ""
        return folder_of(f"{self.kind}{what}-{server}/{self.path.strip('/')}{who}")

    def secret(self) -> bytes:
        """What the mount command reads on standard input."""
        return f"{self.password}\n".encode() if self.kind == "ssh" and self.password else b""

    def credentials(self) -> str:
        """The content of the file that mount.cifs reads them from."""
        domain, _, user = self.user.rpartition(_BACKSLASH)
        lines = (("username", user or "guest"), ("password", self.password), ("domain", self.domain or domain))
        return "".join(f"{name}={value}\n" for name, value in lines if value or name == "username")

    def fault(self) -> str:
        """What is wrong with the words, as a sentence; "" when nothing is."""
        if not self.server or self.server.startswith("-") or any(c.isspace() or c in r"/\," for c in self.server):
            return "The server is a name or an address, such as 192.168.1.10."
        if not self.path:
            return "The name of the share is missing." if self.kind == "smb" else "The folder is missing."
        if self.kind in ("nfs", "ssh") and not self.path.startswith("/"):
            return "The folder begins with a /."
        if "\n" in self.user + self.password + self.domain:
            return "User and password are one line each."
        if self.kind == "smb" and self.password and not self.user:
            return "Whose password is it? The user is missing."
        if not 0 < self.port <= _LAST_PORT:
            return "The port is a number; SSH servers mostly have 22."
        return ""

    def mount(self, credentials: str = "") -> Pipeline:
        """The command that mounts it.

        Args:
            credentials: Path of the file with user and password, for SMB.
        """
        mode = "rw" if self.is_writable else "ro"
        if self.kind == "ssh":
            return self._sshfs(mode)
        options = f"{mode},{SAFE}"
        if self.kind == "smb":
            options += f",credentials={credentials}" if self.user else ",guest"
            # A server that leaves three echoes without an answer is taken for lost, and soft makes that an error.
            options += ",soft,echo_interval=15"
            return Pipeline.of("mount", "--mkdir", "-t", "cifs", "-o", options, "--", str(self), str(self.folder))
        # soft: a server that is gone ends in an error, not in a wizard that hangs. retry: that is told at once, and not
        # after two minutes. nolock: NFS 3 has locks through rpc.statd only, and that does not run here.
        options += ",soft,timeo=100,retrans=3,retry=0,nolock"
        return Pipeline.of("mount", "--mkdir", "-t", "nfs", "-o", options, "--", str(self), str(self.folder))

    def _sshfs(self, mode: str) -> Pipeline:
        options = [f"{mode},{SAFE}", f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "reconnect"]
        options += ["ServerAliveInterval=15", "GlobalKnownHostsFile=/dev/null", "ConnectTimeout=20"]
        if self.password:
            options += ["password_stdin", "NumberOfPasswordPrompts=1", "PubkeyAuthentication=no"]
        else:
            options += ["BatchMode=yes", *([f"IdentityFile={self.key}", "IdentitiesOnly=yes"] if self.key else [])]
        words = [word for option in options for word in ("-o", option)]
        source = f"{self.user or 'root'}@{self.server}:{self.path}"
        return Pipeline.of("sshfs", "-p", str(self.port), *words, source, str(self.folder))


_BACKSLASH: Final = "\\"
_SILENT: Final = ("the server does not answer", 'Is it on? "Network", on the first screen, tests the way to it.')
_NAMELESS: Final = ("nobody knows the address of this name", "Give the server's address, such as 192.168.1.10.")
_NO_LOGIN: Final = (
    "the server refuses this user or password, or keeps this user out of the share",
    "Look at both, at capital letters and at the keyboard's layout.",
)
_NO_SHARE: Final = ("the server has no such share, or no such folder in it", "Look at its name where it is shared.")
_SMB_1: Final = (
    "the server ends the connection: it speaks SMB 1 only, or no SMB",
    "For SMB 1, in a shell: the same command, with vers=1.0 among its options.",
)
_NO_EXPORT: Final = (
    "the server does not export this folder, or not to this machine",
    "On the server, `exportfs -v` lists what it exports, and to whom.",
)
_NO_NFS: Final = ("the server does not speak NFS 3 or 4", "Look whether its NFS service runs.")
_NO_SFTP: Final = (
    "the server refuses this user with this password or key, or has no SFTP",
    "A key that needs a passphrase cannot be used here.",
)
_NO_FOLDER: Final = ("the server has no such folder", "Look at its name there.")
_MEANINGS: Final = {
    "smb": (
        (r"could not resolve", _NAMELESS),
        # Numbers as in errno(3); the kernel tells more, in `dmesg`.
        (r"\((101|110|111|113|115)\)", _SILENT),
        (r"\(13\)", _NO_LOGIN),
        (r"\(2\)", _NO_SHARE),
        (r"\((95|112)\)", _SMB_1),
    ),
    "nfs": (
        (r"Resource temporarily unavailable|not known|failure in name resolution", _NAMELESS),
        (r"access denied|No such file", _NO_EXPORT),
        (r"not supported", _NO_NFS),
        (r"No route|timed out|refused|unreachable", _SILENT),
    ),
    "ssh": (
        (r"reset by peer|Broken pipe", _NO_SFTP),  # that it answers was known before, by its keys
        (r"No such file|Not a directory", _NO_FOLDER),
    ),
}


def refusal(share: Share, said: str) -> tuple[str, str]:
    """What it means when a share was not mounted: a sentence and what to do; its own words where nothing is known."""
    if share.kind == "smb" and not share.user and "(13)" in said:
        return "the server wants a user and a password", "Fill in both."
    for words, (meaning, hint) in _MEANINGS[share.kind]:
        if re.search(words, said):
            return meaning, hint
    return said, ""
