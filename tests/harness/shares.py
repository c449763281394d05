# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers of a network of one test: Samba, NFS, SSH, with their usual ports, as nobody else is in that network.

Their files lie in folders of the test, and they are gone with the block, with whatever processes they have started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness.network import SERVER, Network
from tests.harness.secure_shell import password_server

USER = "root"
"""Samba's users must be users of this machine."""

_SMB = """
[global]
server role = standalone server
disable netbios = yes
smb ports = 445
map to guest = Bad User
passdb backend = tdbsam:{own}/passdb.tdb
private dir = {own}
lock directory = {own}
state directory = {own}
cache directory = {own}
pid directory = {own}
ncalrpc dir = {own}/ncalrpc
load printers = no
printcap name = /dev/null
disable spoolss = yes
{more}
[backup]
path = {folder}
read only = no
valid users = {user}
[open]
path = {folder}
read only = no
guest ok = yes
force user = {user}
"""
# The two protocols that clients try, newest first; without locks and quotas, which would be further servers.
_NFS = """
NFS_CORE_PARAM {{ Protocols = {versions}; mount_path_pseudo = true; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {own}; }}
EXPORT {{
  Export_Id = 1; Path = "{folder}"; Pseudo = "{folder}"; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  FSAL {{ Name = VFS; }}
}}
"""
# NFS 3 is found by rpcbind, whose socket lies in /run: this one is the network namespace's own.
_RPCBIND = "mount -t tmpfs tmpfs /run; rpcbind -f & until [ -S /run/rpcbind.sock ]; do sleep 0.1; done; exec "


@contextlib.contextmanager
def smb_server(network: Network, scratch: Path, folder: Path, password: str, *, more: str = "") -> Iterator[None]:
    """Samba with the share `backup` for USER, and `open` for everybody."""
    own = scratch / "smb"
    own.mkdir(exist_ok=True)
    settings = own / "smb.conf"
    settings.write_text(_SMB.format(own=own, folder=folder, user=USER, more=more))
    twice = f"{password}\n{password}\n"
    subprocess.run(
        ["smbpasswd", "-c", settings, "-s", "-a", USER], input=twice, text=True, check=True, capture_output=True
    )
    command = ["smbd", "--foreground", "--no-process-group", "--debug-stdout", "-s", settings]
    with _serving(network, command, scratch / "smb.log", 445):
        yield


@contextlib.contextmanager
def nfs_server(network: Network, scratch: Path, folder: Path, *, versions: str = "4") -> Iterator[None]:
    """NFS in user space; this machine's kernel need not have a server."""
    own = scratch / "nfs"
    own.mkdir(exist_ok=True)
    settings = own / "ganesha.conf"
    settings.write_text(_NFS.format(own=own, folder=folder, versions=versions))
    log = scratch / "nfs.log"
    serve = f"ganesha.nfsd -F -f '{settings}' -L '{log}' -p '{own / 'pid'}'"
    with _serving(network, ["sh", "-c", _RPCBIND + serve], scratch / "nfs.out", 2049):
        yield


@contextlib.contextmanager
def sftp_server(network: Network, scratch: Path, password: str) -> Iterator[str]:
    """SSH where root has a password, for this server alone; gives the fingerprint of its key."""
    own = scratch / "ssh"
    own.mkdir(exist_ok=True)
    command, fingerprint = password_server(own, f"{SERVER}:22", password)
    with _serving(network, command, scratch / "ssh.log", 22):  # no other namespace of this network sees its mount
        yield fingerprint


@contextlib.contextmanager
def _serving(network: Network, command: list[object], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(
            network.words(command), stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            _wait_for(network, port, process, log)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(network: Network, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    listening = network.words(["ss", "-Hlnt", f"sport = :{port}"])
    for _ in range(1200):
        assert process.poll() is None, log.read_text(errors="replace")
        if subprocess.run(listening, check=True, capture_output=True).stdout:
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}: {log.read_text(errors='replace')}")
