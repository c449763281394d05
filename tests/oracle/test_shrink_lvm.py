# SPDX-License-Identifier: GPL-3.0-or-later
"""Physical volumes onto smaller disks: lvm, e2fsck and the files themselves say what came of it."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager

import pytest

from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools, poke
from tests.harness.loop import can_mount, loop_device, mounted, needs_root
from tests.harness.lvm import VolumeGroup, volume_group
from tests.harness.programs import call, missing_tools
from tests.oracle.test_grow import ESP, assert_gpt_sound, fat, identity, imager, places, volume
from tests.oracle.test_shrink import captured

LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
TOOLS = ("mke2fs", "e2fsck", "resize2fs", "debugfs", "lvm", "mkswap")
pytestmark = [
    needs_table_tools,
    needs_root,
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
PV_BYTES = 300 * MIB
CONTENT = b"What lies behind the new end must be found again.\n" * 200_000


def ext4(folder, name, size):
    """An ext4 with a file of 10 MB, and its file."""
    file, content = folder / name, folder / f"{name}-content"
    content.write_bytes(CONTENT + name.encode())
    call("mke2fs", "-q", "-F", "-t", "ext4", "-L", name, file, f"{size // 1024}K")
    call("debugfs", "-w", "-R", f"write {content} content", file)
    return file


def assert_ext4_has_its_file(file, name):
    call("e2fsck", "-f", "-n", file)
    got = file.with_name(f"{file.name}-got")
    call("debugfs", "-R", f"dump /content {got}", file)
    assert got.read_bytes() == CONTENT + name.encode()


def machine(folder, *volumes):
    """A disk with an ESP and a physical volume; volumes are names, extents of 256 KiB and content, in this order."""
    with volume_group(folder, [PV_BYTES], name="vg") as group:
        for name, extents, _ in volumes:
            group.lvm("lvcreate", "-n", name, "-l", str(extents), "vg")
        for name, _, content in volumes:
            if content is not None:
                group.put(name, content)
        uuids = (
            group.lvm("pvs", "--noheadings", "-o", "pv_uuid,vg_uuid"),
            group.lvm("lvs", "--noheadings", "-o", "uuid"),
        )
    disk = gpt_disk(folder / "disk", 330 * MIB, [Part(20 * MIB, ESP, "EFI"), Part(PV_BYTES, LVM, "pv")])
    fat(disk, MIB, 20 * MIB)
    poke(disk, 21 * MIB, group.files[0].read_bytes())
    return disk, uuids


def group_on(disk):
    """The volume group in partition 2."""
    return group_at(volume(disk, 2))


@contextmanager
def group_at(pv):
    """The volume group on a physical volume."""
    with loop_device(pv) as device:
        yield VolumeGroup("vg", [pv], [device])


def swap(folder, size):
    file = folder / "swap"
    file.write_bytes(bytes(size))
    call("mkswap", "-q", "-L", "swapped", file)
    return file


def content_of(group, name):
    """The bytes of a linear volume, as lvs says where they lie."""
    raw = group.files[0].read_bytes()
    return b"".join(raw[start : start + size] for ((_, start, size),) in group.ranges(name))


def test_logical_volumes_are_made_smaller_and_moved_together(tmp_path):
    root, home = ext4(tmp_path, "root", 120 * MIB), ext4(tmp_path, "home", 100 * MIB)
    swapped = swap(tmp_path, 16 * MIB)
    disk, uuids = machine(tmp_path, ("root", 480, root), ("swap", 64, swapped), ("home", 400, home))
    image, target = captured(disk), tmp_path / "target"
    target.write_bytes(b"\xa5" * (190 * MIB))
    done = imager("restore", "--yes", "--verify", "--json", "--fit", image, target)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (way,) = told["plan"]["made_smaller"]
    planned = {each["name"]: each["new_size_bytes"] for each in way["volumes"]}
    assert set(planned) >= {"vg/root", "vg/home"}
    assert_gpt_sound(target)
    assert identity(target) == identity(disk)
    with group_on(target) as group:
        found = (
            group.lvm("pvs", "--noheadings", "-o", "pv_uuid,vg_uuid"),
            group.lvm("lvs", "--noheadings", "-o", "uuid"),
        )
        assert found == uuids
        assert "rror" not in group.lvm("vgck", "vg")
        start, end = places(target)[2]
        size = int(group.lvm("pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "dev_size"))
        assert size == end - start < PV_BYTES
        for name in ("root", "home"):
            file = tmp_path / f"new-{name}"
            file.write_bytes(content_of(group, name))
            assert file.stat().st_size == planned[f"vg/{name}"]
            assert_ext4_has_its_file(file, name)
        (tmp_path / "new-swap").write_bytes(content_of(group, "swap"))
    assert call("blkid", "-p", "-o", "value", "-s", "LABEL", tmp_path / "new-swap").strip() == "swapped"


def test_sizes_of_logical_volumes_come_from_a_plan(tmp_path):
    root, home = ext4(tmp_path, "root", 120 * MIB), ext4(tmp_path, "home", 100 * MIB)
    disk, _ = machine(tmp_path, ("root", 480, root), ("home", 400, home))
    image, target, plan = captured(disk), tmp_path / "target", tmp_path / "plan.toml"
    target.write_bytes(bytes(330 * MIB))
    assert imager("plan", "--write", plan, image, target).returncode == 0
    text = plan.read_text()
    assert '# name = "vg/root"\n# size = "120 MiB"' in text
    smaller = text.replace('size = "300 MiB"', 'size = "180 MiB"')
    plan.write_text(f'{smaller}\n[[volume]]\nname = "vg/root"\nsize = "70 MiB"\n')
    done = imager("restore", "--yes", "--verify", "--plan", plan, image, target)
    assert done.returncode == 0, done.stderr
    with group_on(target) as group:
        sizes = group.lvm("lvs", "--noheadings", "--units", "m", "--nosuffix", "-o", "lv_name,lv_size").split()
        assert float(sizes[sizes.index("root") + 1]) == 70
        for name in ("root", "home"):
            file = tmp_path / f"new-{name}"
            file.write_bytes(content_of(group, name))
            assert_ext4_has_its_file(file, name)
    for name, size, words in (
        ("vg/rot", "70 MiB", "no logical volume vg/rot"),
        ("vg/root", "1 MiB", "cannot be smaller"),
        ("vg/root", "140 MiB", "vg/root has 120 MiB, and 140 MiB are wanted"),
    ):
        plan.write_text(f'{smaller}\n[[volume]]\nname = "{name}"\nsize = "{size}"\n')
        refused = imager("plan", "--plan", plan, image, target)
        assert refused.returncode == 2
        assert words in refused.stderr


def test_free_extents_cost_nothing_and_what_lies_behind_the_end_moves(tmp_path):
    """A volume in two pieces at the end, with free extents in front of it: nothing is made smaller, all of it moves."""
    data = ext4(tmp_path, "data", 40 * MIB)
    with volume_group(tmp_path, [PV_BYTES], name="vg") as group:
        pv = group.devices[0]
        group.lvm("lvcreate", "-n", "data", "-l", "80", "vg", f"{pv}:1000-1079")
        group.lvm("lvextend", "-l", "160", "vg/data", f"{pv}:900-979")
        group.put("data", data)
    disk = gpt_disk(tmp_path / "disk", 330 * MIB, [Part(PV_BYTES, LVM, "pv")])
    poke(disk, MIB, group.files[0].read_bytes())
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (100 * MIB))
    done = imager("restore", "--yes", "--verify", "--json", "--fit", captured(disk), target)
    assert done.returncode == 0, done.stderr
    (way,) = json.loads(done.stdout)["plan"]["made_smaller"]
    assert way["volumes"] == []
    pv = volume(target, 1)
    with group_at(pv) as moved:
        file = tmp_path / "moved"
        file.write_bytes(content_of(moved, "data"))
    assert file.read_bytes() == data.read_bytes()


def test_a_group_that_does_not_fit_says_so_before_anything_is_written(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(250 * MIB))
    disk, _ = machine(tmp_path, ("data", 1000, raw))
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (150 * MIB))
    done = imager("restore", "--yes", "--fit", captured(disk), target)
    assert done.returncode == 6
    assert re.search(r"\d+ bytes\) are missing", done.stderr)
    assert target.read_bytes() == b"\xa5" * (150 * MIB)


def test_a_group_on_two_disks_keeps_its_size(tmp_path):
    with volume_group(tmp_path, [PV_BYTES, PV_BYTES], name="vg") as group:
        group.lvm("lvcreate", "-n", "data", "-l", "100", "vg")
    disk = gpt_disk(tmp_path / "disk", 330 * MIB, [Part(PV_BYTES, LVM, "pv")])
    poke(disk, MIB, group.files[0].read_bytes())
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (100 * MIB))
    done = imager("restore", "--yes", "--fit", captured(disk), target)
    assert done.returncode == 6
    assert target.read_bytes() == b"\xa5" * (100 * MIB)


@pytest.mark.parametrize("scratch", ["folder", "target"])
def test_changes_of_logical_volumes_go_to_their_new_places(tmp_path, scratch):
    root = ext4(tmp_path, "root", 250 * MIB)
    disk, _ = machine(tmp_path, ("root", 1000, root))
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (120 * MIB))
    where = tmp_path if scratch == "folder" else "target"
    done = imager("restore", "--yes", "--verify", "--fit", "--scratch", where, captured(disk), target)
    assert done.returncode == 0, done.stderr
    with group_on(target) as group:
        file = tmp_path / "new-root"
        file.write_bytes(content_of(group, "root"))
    assert_ext4_has_its_file(file, "root")


@pytest.mark.slow
@pytest.mark.skipif(not can_mount("xfs") or bool(missing_tools("mkfs.xfs", "xfs_repair", "rsync")), reason="needs XFS")
def test_an_xfs_in_a_logical_volume_is_made_anew(tmp_path):
    file = tmp_path / "xfs"
    file.write_bytes(bytes(700 * MIB))
    call("mkfs.xfs", "-q", "-L", "top", file)
    with mounted(file, tmp_path / "mnt", kind="xfs") as top:
        (top / "content").write_bytes(CONTENT)
    uuid = call("blkid", "-p", "-o", "value", "-s", "UUID", file)
    with volume_group(tmp_path, [720 * MIB], name="vg", extent="4m") as group:
        group.lvm("lvcreate", "-n", "root", "-L", "700m", "vg")
        group.put("root", file)
    disk = gpt_disk(tmp_path / "disk", 730 * MIB, [Part(720 * MIB, LVM, "pv")])
    poke(disk, MIB, group.files[0].read_bytes())
    target = tmp_path / "target"
    target.write_bytes(b"\xa5" * (520 * MIB))
    done = imager("restore", "--yes", "--verify", "--json", "--fit", captured(disk), target)
    assert done.returncode == 0, done.stderr
    ((volume_,),) = (way["volumes"] for way in json.loads(done.stdout)["plan"]["made_smaller"])
    assert volume_["kind"] == "anew"
    pv = volume(target, 1)
    with loop_device(pv) as device:
        moved = tmp_path / "moved"
        moved.write_bytes(content_of(VolumeGroup("vg", [pv], [device]), "root"))
    call("xfs_repair", "-n", moved)
    assert call("blkid", "-p", "-o", "value", "-s", "UUID", moved) == uuid
    with mounted(moved, tmp_path / "mnt", kind="xfs", options="ro") as top:
        assert (top / "content").read_bytes() == CONTENT
