# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard puts an encrypted disk onto a smaller one, when it is told the passphrase; qemu-img and e2fsck judge."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import imager.process
from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.volumes import folder_of
from tests.harness.disks import MIB, needs_table_tools
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import missing_tools
from tests.harness.wizarding import a_person, driven, goes_to_options
from tests.oracle.test_grow import volume
from tests.oracle.test_shrink import captured
from tests.oracle.test_shrink_luks import TOOLS, decrypted, encrypted
from tests.oracle.test_shrink_lvm import assert_ext4_has_its_file, ext4

pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
IMAGER = Path(sys.executable).parent / "imager"


def test_an_encrypted_disk_comes_onto_a_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setattr(imager.process, "_PATH", f"{IMAGER.parent}{os.pathsep}{imager.process._PATH}")
    disk, key = encrypted(tmp_path, ext4(tmp_path, "root", 150 * MIB))
    image, file = captured(disk), sparse_file(tmp_path / "target", 110 * MIB)
    around = Surroundings(medium=tmp_path / "medium", mounts=tmp_path / "mounts", volumes=list)

    async def unlocked(person, passphrase):
        await person.chooses("unlock:2")
        await person.sees("Partition 2 is encrypted.")
        await person.types(passphrase)
        await person.sees("[x] Unlock partition 2")
        await person.chooses("go")

    async def story():
        async with a_person(around) as person:
            await goes_to_options(person, image, "crypto_LUKS", target)
            await person.sees("unless what is encrypted fits", "[ ] Unlock partition 2")
            await unlocked(person, "open barley")
            await person.sees("This cannot be done:", "passphrase")
            await person.presses("escape")
            await person.chooses("unlock:2")
            await person.sees("[ ] Unlock partition 2")
            await unlocked(person, key.read_text())
            await person.sees("WILL BE DESTROYED: EVERYTHING", "header and keys stay")
            await person.presses("enter")
            await person.sees("type the name of the disk")
            await person.types(target.name)
            screen = await person.sees("All that was asked for is done.", "read back: it is the same")
            assert key.read_text() not in screen
            kept = folder_of(f"passphrase-2-{os.getpid()}")
            assert kept.stat().st_mode & 0o777 == 0o600
            assert not [*person.wizard.attached.close()]
            assert not kept.exists()

    with loop_device(file) as target:
        driven(story)
    plain = decrypted(volume(file, 2), key, tmp_path / "plain")
    assert_ext4_has_its_file(plain, "root")
