# SPDX-License-Identifier: GPL-3.0-or-later
"""Images over SSH, from a server on loopback with keys that live as long as the test."""

from __future__ import annotations

import os
import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootmedia.recovery.errors import Unreachable
from bootmedia.recovery.job import Recovery
from bootmedia.recovery.naming import place_of
from bootmedia.recovery.places import DATA_LABEL, Surroundings, Volume
from bootmedia.recovery.secure_shell import SshInput
from imager.errors import StoreError
from imager.extents import Extents
from tests.harness.images import MIB, make_image
from tests.harness.programs import missing_tools
from tests.harness.secure_shell import SSHD, SshServer, kept_port, ssh_server

# Debian's openssh-server starts a server on the machine that it is installed on, so that `make test` leaves it alone.
pytestmark = [
    pytest.mark.skipif(not SSHD, reason="sshd is not installed (on Debian: openssh-server, which also starts one)"),
    pytest.mark.skipif(bool(missing_tools("ssh", "ssh-keyscan", "ssh-keygen")), reason="openssh-client is missing"),
    pytest.mark.skipif(os.getuid() != 0, reason="sshd lets nobody else log in for its own tests"),
]
CONTENT = random.Random(1).randbytes(3 << 20)


@dataclass
class Server(SshServer):
    """A server and what reads from it."""

    def input(self, path: Path, **others: object) -> SshInput:
        values: dict[str, object] = {"host_key": self.fingerprint, "key": self.folder / "user", "waits": (0.0, 0.0)}
        return SshInput(place_of(self.url(path)), **(values | others))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield Server(**vars(running))


def children(process_id: int) -> list[int]:
    """The processes that a process started: proc_pid_task_children(5)."""
    return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


@pytest.fixture
def remote(server):
    path = server.folder / "an image's name"
    path.write_bytes(CONTENT)
    return path


def read(source: SshInput, most: int = 2 * len(CONTENT)) -> bytes:
    buffer = memoryview(bytearray(most))
    return bytes(buffer[: source.read_into(buffer)])


def test_a_file_comes_as_it_is_whatever_its_name(server, remote) -> None:
    with server.input(remote) as source:
        assert read(source) == CONTENT


def test_a_connection_that_is_cut_goes_on_where_it_was(server, remote) -> None:
    said: list[str] = []
    with server.input(remote, said=said.append) as source:
        first = read(source, 100_000)
        os.kill(source._running.pid, signal.SIGKILL)
        # What was sent before the cut still comes; behind it lies the rest of 3 MiB, which no pipe holds.
        assert first + read(source) == CONTENT
    assert any("next attempt in 0 s" in line for line in said)


def test_another_host_key_is_refused_before_anything_is_sent(server, remote) -> None:
    with pytest.raises(StoreError, match=r"shows the SSH keys SHA256:.*; expected was SHA256:AAA") as caught:
        server.input(remote, host_key="SHA256:" + "A" * 43)
    assert caught.value.facts["found"] == [server.fingerprint]


def test_a_user_key_that_the_server_does_not_know_is_refused_at_once(server, remote) -> None:
    with (
        pytest.raises(StoreError, match="Permission denied") as caught,
        server.input(remote, key=server.folder / "stranger") as source,
    ):
        read(source)
    assert not isinstance(caught.value, Unreachable)
    assert "key = in recovery.toml" in caught.value.hint


def test_a_file_that_is_not_there_is_said_in_the_servers_words(server) -> None:
    with pytest.raises(StoreError, match="No such file"), server.input(server.folder / "none") as source:
        read(source)


def test_nobody_there_is_given_up_after_its_attempts(server, remote) -> None:
    answer = "does not answer as an SSH server, 2 times in a row"
    with kept_port() as port:
        place = place_of(f"ssh://127.0.0.1:{port}{remote}")
        with pytest.raises(Unreachable, match=answer):
            SshInput(place, host_key=server.fingerprint, waits=(0.0,))


def test_an_unattended_restore_over_ssh(server, tmp_path) -> None:
    disk, _ = make_image(tmp_path / "a.zst", Extents.of([(0, 2 * MIB)]), 4 * MIB)
    target = tmp_path / "target.raw"
    target.write_bytes(b"\x5a" * 4 * MIB)
    data = tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    shutil.copy(server.folder / "user", data / "keys/id")
    (data / "recovery.toml").write_text(
        f'wait_seconds = 0\n[match]\nany = true\n[[restore]]\nimage = "{server.url(tmp_path / "a.zst")}"\n'
        f'target = "path={target}"\nhost_key = "{server.fingerprint}"\nkey = "keys/id"\nverify = true\n'
    )
    around = Surroundings(
        medium=tmp_path / "run/x/medium", volumes=lambda: [Volume("/dev/sdz3", DATA_LABEL, str(data))], waits=(0.0,)
    )
    Recovery.of(around).run(None)
    assert target.read_bytes() == disk
