# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers onto smaller disks: qemu-img decrypts what came of it, and e2fsck and lvm look at that."""

from __future__ import annotations

import json

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.loop import loop_device, needs_root
from tests.harness.luks import make_luks1
from tests.harness.lvm import VolumeGroup
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import ESP, assert_gpt_sound, fat, identity, imager, volume
from tests.oracle.test_shrink import captured
from tests.oracle.test_shrink_lvm import assert_ext4_has_its_file, content_of, ext4, machine, swap

TOOLS = ("mke2fs", "e2fsck", "resize2fs", "debugfs", "lvm", "cryptsetup", "qemu-img")
pytestmark = [
    pytest.mark.slow,
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]


def encrypted(folder, plain):
    """A disk with the container, and the file with its passphrase."""
    key, container = folder / "key", folder / "container"
    key.write_bytes(b"open sesame")
    make_luks1(plain, container, key)
    size = container.stat().st_size
    disk = gpt_disk(folder / "luks-disk", size + 24 * MIB, [Part(20 * MIB, ESP, "EFI"), Part(size, name="crypt")])
    fat(disk, MIB, 20 * MIB)
    poke(disk, 21 * MIB, container.read_bytes())
    return disk, key


def decrypted(container, key, path):
    """The plain text, as QEMU reads it."""
    source = f"driver=luks,key-secret=s,file.driver=file,file.filename={container}"
    secret = f"secret,id=s,file={key}"
    call("qemu-img", "convert", "-O", "raw", "--object", secret, "--image-opts", source, path)
    return path


def shrunk(disk, key, size, *options):
    image, target = captured(disk), disk.with_name("target")
    target.write_bytes(b"\xa5" * size)
    words = ("--yes", "--verify", "--json", "--fit", "--unlock", f"2:{key}", *options)
    done = imager("restore", *words, image, target)
    assert done.returncode == 0, done.stderr
    return target, json.loads(done.stdout)


@pytest.mark.parametrize("scratch", ["folder", "target"])
def test_a_file_system_in_a_container_is_made_smaller_and_opens_as_before(tmp_path, scratch):
    disk, key = encrypted(tmp_path, ext4(tmp_path, "root", 150 * MIB))
    where = tmp_path if scratch == "folder" else "target"
    target, told = shrunk(disk, key, 110 * MIB, "--scratch", where)
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    container = volume(target, 2)
    assert "open sesame" not in json.dumps(told)
    plain = decrypted(container, key, tmp_path / "plain")
    assert_ext4_has_its_file(plain, "root")
    (way,) = told["plan"]["made_smaller"]
    assert (way["kind"], way["on_target"]) == ("container", scratch == "target")
    assert b"What lies behind the new end must be found again." not in target.read_bytes()
    assert any("decrypted" in sentence for sentence in told["plan"]["plan_warnings"])


@pytest.mark.parametrize("options", [(), ("--scratch", "target")])
def test_logical_volumes_in_a_container_are_made_smaller_and_moved(tmp_path, options):
    root, swapped = ext4(tmp_path, "root", 120 * MIB), swap(tmp_path, 16 * MIB)
    home = ext4(tmp_path, "home", 100 * MIB)
    machine(tmp_path, ("root", 480, root), ("swap", 64, swapped), ("home", 400, home))
    disk, key = encrypted(tmp_path, tmp_path / "vg-0.img")
    target, told = shrunk(disk, key, 200 * MIB, *options)
    assert {each["name"] for each in told["plan"]["made_smaller"][0]["volumes"]} >= {"vg/root", "vg/home"}
    pv = decrypted(volume(target, 2), key, tmp_path / "pv")
    with loop_device(pv) as device:
        group = VolumeGroup("vg", [pv], [device])
        assert "rror" not in group.lvm("vgck", "vg")
        for name in ("root", "home", "swap"):
            (tmp_path / f"new-{name}").write_bytes(content_of(group, name))
    for name in ("root", "home"):
        assert_ext4_has_its_file(tmp_path / f"new-{name}", name)
    assert call("blkid", "-p", "-o", "value", "-s", "LABEL", tmp_path / "new-swap").strip() == "swapped"


def test_a_locked_container_keeps_its_size_and_the_message_says_what_helps(tmp_path):
    disk, _ = encrypted(tmp_path, ext4(tmp_path, "root", 150 * MIB))
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (110 * MIB))
    done = imager("restore", "--yes", "--fit", captured(disk), target)
    assert done.returncode == 6
    assert "--unlock" in done.stderr
    assert target.read_bytes() == b"\xa5" * (110 * MIB)
