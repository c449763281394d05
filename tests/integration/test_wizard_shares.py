# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard mounts a folder of a real SSH server with a password, through FUSE, which needs no driver of a medium."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from textual import events

from bootmedia.recovery.places import Surroundings
from tests.harness.loop import needs_root
from tests.harness.programs import missing_tools
from tests.harness.secure_shell import SSHD, _wait_for, free_port
from tests.harness.wizarding import a_person, driven

PASSWORD = 'p,w "x"=%$#\u00fc\\ '  # noqa: S105  of a server that lives for seconds
"""What options and shells could take for something else, and a space at its end."""

pytestmark = [
    needs_root,
    pytest.mark.skipif(not SSHD or bool(missing_tools("sshfs", "openssl")), reason="sshd or sshfs is not installed"),
]


@contextmanager
def password_server(folder: Path):
    """Sshd to which root has a password; nobody else sees the file that says so."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    hashed = ["openssl", "passwd", "-6", "-stdin"]
    made = subprocess.run(hashed, input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
    (folder / "shadow").write_text(f"root:{made}:1::::::\n")
    port = free_port()
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", "PermitRootLogin yes"]
    lines += ["PasswordAuthentication yes", "UsePAM no", "PidFile none", "Subsystem sftp internal-sftp"]
    (folder / "config").write_text("\n".join(lines))
    Path("/run/sshd").mkdir(exist_ok=True)
    serve = f"mount --bind '{folder}/shadow' /etc/shadow && exec {SSHD} -D -e -f '{folder}/config'"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", serve], stderr=subprocess.DEVNULL) as running:
        try:
            _wait_for(port)
            yield port
        finally:
            running.terminate()


def test_a_folder_is_mounted_after_a_wrong_password_and_unmounted_at_the_end(tmp_path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder in (shared, own):
        folder.mkdir()
    (shared / "holiday.jpg").write_bytes(b"no image")
    around = Surroundings(medium=tmp_path / "bootmedia/medium", mounts=tmp_path / "mounts", volumes=list)

    def mounted() -> list[str]:
        return [line for line in Path("/proc/mounts").read_text().splitlines() if f"{shared} " in line]

    with password_server(own) as port:

        async def story() -> None:
            async with a_person(around) as person:
                await person.sees("Power off")
                await person.chooses("restore")
                await person.sees("A path")
                await person.chooses("ssh")
                await person.sees("Port")
                for value in ("127.0.0.1", str(port), str(shared), "root", "", "wrong"):
                    await person.types(value)
                await person.sees("is this the right server?")
                await person.chooses("yes")
                await person.sees("refuses this")
                await person.presses("ctrl+u")
                for character in PASSWORD:
                    person.wizard.post_message(events.Key({" ": "space"}.get(character, character), character))
                await person.pilot.pause(0.5)
                await person.presses("enter")
                await person.sees("is this the right server?")
                await person.chooses("yes")
                await person.sees("holiday.jpg")
                (mount,) = mounted()
                assert "fuse.sshfs ro,nosuid,nodev,noexec" in mount
                assert list(person.wizard.attached.close()) == []
                assert not any(PASSWORD.strip() in line for line in person.wizard.journal.lines)

        driven(story)
    assert mounted() == []
