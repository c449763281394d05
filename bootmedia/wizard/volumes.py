# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that an image may lie on, and the commands that mount them; local disks and network shares.

Words that somebody must not see (passwords) never stand in a command line: everybody on the machine can read those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootmedia.recovery.facts import wait_for_devices
from bootmedia.recovery.places import blkid_paragraphs
from bootmedia.wizard.pipeline import Pipeline
from imager.devices.mounts import devices_of, own_mounts
from imager.devices.sysfs import System
from imager.process import run

MOUNTS: Final = Path("/run/recovery-wizard")
"""Where the wizard mounts what it looks into."""
_NO_MOUNT: Final = {
    "swap": "swap space",
    "crypto_LUKS": "encrypted: unlock it in a shell (cryptsetup open), then type a path",
    "LVM2_member": "part of a volume group: start it in a shell (vgchange -ay), then choose its volume",
    "linux_raid_member": "part of an array: start it in a shell (mdadm --assemble --scan)",
    "BitLocker": "encrypted by Windows",
}
_SAFE: Final = "nosuid,nodev,noexec"
_NO_REPLAY: Final = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery"}
"""Options without which even a read-only mount writes what the journal holds."""


@dataclass(frozen=True)
class FileSystem:
    """A device with something on it.

    Attributes:
        type: As blkid calls it.
        mounted_at: "" when it is not.
    """

    path: str
    type: str
    label: str = ""
    size_bytes: int = 0
    mounted_at: str = ""

    @property
    def refusal(self) -> str:
        """Why it cannot be looked into; "" when it can."""
        return _NO_MOUNT.get(self.type, "")


def list_file_systems() -> list[FileSystem]:
    """Everything that blkid finds, a slow look at every disk.

    Raises:
        ProgramFailed: blkid does not say.
    """
    wait_for_devices()
    said = run(["blkid", "-c", "/dev/null", "-o", "export"], allowed=(0, 2), timeout_seconds=120).output
    machine = System()
    mounted = {name: mount.point for mount in own_mounts(machine) for name in devices_of(mount, machine)}
    return file_systems(said.decode(errors="replace"), mounted, machine)


def file_systems(export: str, mounted: Mapping[str, str], machine: System) -> list[FileSystem]:
    """What `blkid -o export` printed, with where it is mounted."""
    found = []
    for known in blkid_paragraphs(export):
        name = machine.name_of_path(known["DEVNAME"]) if known.get("DEVNAME") else ""
        if known.get("TYPE") and known.get("DEVNAME"):
            about = (
                known["TYPE"],
                known.get("LABEL", ""),
                machine.size_bytes(name) if name else 0,
                mounted.get(name, ""),
            )
            found.append(FileSystem(known["DEVNAME"], *about))
    return sorted(found, key=lambda each: (bool(each.refusal), each.path))


def folder_of(name: str) -> Path:
    """Where something is mounted, by its name."""
    return MOUNTS / "".join(c if c.isalnum() or c in "-." else "_" for c in name).strip("_.")


def mount_local(found: FileSystem, *, is_writable: bool = False) -> Pipeline:
    """Mount a file system of a disk. Read-only, the disk is not changed at all."""
    options = f"{_SAFE},rw" if is_writable else ",".join(_quiet_options(found))
    return Pipeline.of("mount", "--mkdir", "-o", options, "--", found.path, str(folder_of(found.path)))


def _quiet_options(found: FileSystem) -> Iterator[str]:
    yield from ("ro", _SAFE)
    if found.type in _NO_REPLAY:
        yield _NO_REPLAY[found.type]


@dataclass(frozen=True)
class Share:
    """A share of an SMB or NFS server, or a folder of an SSH server.

    Attributes:
        kind: smb, nfs or ssh.
        server: Name or address.
        path: Name of the share, or the folder.
        key: File with a private SSH key.
        known_hosts: File with the keys of the SSH server that were accepted.
    """

    kind: str
    server: str
    path: str
    user: str = ""
    password: str = ""
    domain: str = ""
    port: int = 22
    key: str = ""
    known_hosts: str = ""

    def __str__(self) -> str:
        """For people."""
        if self.kind == "smb":
            return f"//{self.server}/{self.path.strip('/')}"
        return f"{self.server}:{self.path}"

    @property
    def folder(self) -> Path:
        """Where it is mounted."""
        return folder_of(f"{self.kind}-{self.server}-{self.path}")

    def secret(self) -> bytes:
        """What the mount command reads on standard input."""
        return f"{self.password}\n".encode() if self.kind == "ssh" and self.password else b""

    def credentials(self) -> str:
        """The content of the file that mount.cifs reads them from; see mount.cifs(8)."""
        lines = (("username", self.user or "guest"), ("password", self.password), ("domain", self.domain))
        return "".join(f"{name}={value}\n" for name, value in lines if value or name == "username")

    def fault(self) -> str:
        """What is wrong with the words, as a sentence; "" when nothing is."""
        if not self.server or self.server.startswith("-") or any(c.isspace() or c == "/" for c in self.server):
            return "The server is a name or an address, such as 192.168.1.10."
        if not self.path:
            return "The name of the share is missing." if self.kind == "smb" else "The folder is missing."
        if self.kind in ("nfs", "ssh") and not self.path.startswith("/"):
            return "The folder begins with a /."
        if "\n" in self.user + self.password + self.domain:
            return "User and password are one line each."
        return ""

    def mount(self, credentials: str = "", *, is_writable: bool = False) -> Pipeline:
        """The command that mounts it.

        Args:
            credentials: Path of the file with user and password, for SMB.
            is_writable: For a capture.
        """
        mode = "rw" if is_writable else "ro"
        if self.kind == "ssh":
            return self._sshfs(mode)
        options = f"{mode},{_SAFE}"
        if self.kind == "smb":
            options += f",credentials={credentials}" if self.user else ",guest"
            return Pipeline.of("mount", "--mkdir", "-t", "cifs", "-o", options, "--", str(self), str(self.folder))
        # soft: a server that is gone ends in an error, not in a wizard that hangs.
        options += ",soft,timeo=100,retrans=3"
        return Pipeline.of("mount", "--mkdir", "-t", "nfs", "-o", options, "--", str(self), str(self.folder))

    def _sshfs(self, mode: str) -> Pipeline:
        options = [mode, f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "reconnect"]
        options += ["ServerAliveInterval=15", "GlobalKnownHostsFile=/dev/null", "ConnectTimeout=20"]
        if self.password:
            options += ["password_stdin", "NumberOfPasswordPrompts=1", "PubkeyAuthentication=no"]
        else:
            options += ["BatchMode=yes", *([f"IdentityFile={self.key}", "IdentitiesOnly=yes"] if self.key else [])]
        words = [word for option in options for word in ("-o", option)]
        source = f"{self.user or 'root'}@{self.server}:{self.path}"
        return Pipeline.of("sshfs", "-p", str(self.port), *words, source, str(self.folder))
