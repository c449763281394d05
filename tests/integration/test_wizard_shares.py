# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard mounts a folder of a real SSH server with a password, through FUSE, which needs no driver of a medium."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from textual import events

from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.shares import Share
from tests.harness.loop import needs_root
from tests.harness.programs import missing_tools
from tests.harness.secure_shell import SSHD, kept_port, password_server, wait_for_port
from tests.harness.wizarding import a_person, driven

PASSWORD = 'p,w "x"=%$#\u00fc\\ '  # noqa: S105  of a server that lives for seconds
"""What options and shells could take for something else, and a space at its end."""

pytestmark = [
    needs_root,
    pytest.mark.skipif(not SSHD or bool(missing_tools("sshfs", "openssl")), reason="sshd or sshfs is not installed"),
]


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Sshd to which root has a password, on loopback; gives its port."""
    with kept_port() as port:
        command, _ = password_server(folder, f"127.0.0.1:{port}", PASSWORD)
        with subprocess.Popen(["unshare", "--mount", *command], stderr=subprocess.DEVNULL) as running:
            try:
                wait_for_port(port)
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

    with serving(own) as port:

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
                assert not Share("ssh", "127.0.0.1", str(shared), "root", port=port).folder.exists()
                keys = [
                    ("ctrl+u", "\x15"),
                    *(({" ": "space"}.get(each, each), each) for each in PASSWORD),
                    ("enter", "\r"),
                ]
                for name, character in keys:  # all at once, as a terminal gives them that is read late
                    person.wizard.post_message(events.Key(name, character))
                await person.sees("is this the right server?")
                await person.chooses("yes")
                await person.sees("holiday.jpg")
                (mount,) = mounted()
                assert "fuse.sshfs ro,nosuid,nodev,noexec" in mount
                assert list(person.wizard.attached.close()) == []
                assert not any(PASSWORD.strip() in line for line in person.wizard.journal.lines)

        driven(story)
    assert mounted() == []
