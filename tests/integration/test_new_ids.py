# SPDX-License-Identifier: GPL-3.0-or-later
"""--new-ids on real disks: blkid and sfdisk say which identifiers there are, fsck that all is well; needs root."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imager.cli.app import app
from tests.harness.btrfs_images import make as make_btrfs
from tests.harness.disks import gpt_disk, listed, sfdisk_table
from tests.harness.files import sparse_file
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root, partition_nodes, partitions
from tests.harness.programs import call, missing_tools
from tests.harness.stacks import LVM, MIB, bootable_gpt, gpt_with, made, mbr_with, physical_volume
from tests.harness.systems import made_system, with_shell

MISSING = missing_tools(
    "mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "mkfs.exfat", "lvm", "mkswap", "sfdisk", "busybox"
)
pytestmark = [needs_root, pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")]
CHECKS = {
    "ext4": ("e2fsck", "-f", "-n"),
    "ext3": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "ntfs": ("ntfsfix", "--no-action"),
    "vfat": ("fsck.fat", "-n"),
    "exfat": ("fsck.exfat", "-n"),
}


def imager(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.stdout


def told(node: Path) -> dict[str, str]:
    """What blkid says of a device."""
    found = dict(re.findall(r"^(\w+)=(.*)$", call("blkid", "-p", "-o", "export", node), re.MULTILINE))
    assert found.get("TYPE"), f"blkid knows nothing of {node}"
    return found


def identifiers(disk: Path) -> dict[str, str]:
    """All that blkid and sfdisk know, by what it is of."""
    table = sfdisk_table(disk)
    found = {"disk": str(table["id"]).lower()}
    for number, (node, row) in enumerate(zip(partition_nodes(disk), table["partitions"], strict=True), 1):
        about = told(node)
        if "uuid" in row:
            found[f"{number} partition"] = row["uuid"].lower()
        found[f"{number} {about['TYPE']}"] = about["UUID"].lower()
    return found


CONTENTS = ("fat32", "ext4", "xfs", "btrfs", "swap", "ntfs", "ext3")
SIZES = {"xfs": 320 * MIB, "btrfs": 128 * MIB, "fat32": 64 * MIB}


def source_disk(folder: Path) -> Path:
    """One partition of each kind, and a volume group with a file system and swap."""
    group = physical_volume(folder, 96 * MIB, [("root", "ext4", 48 * MIB), ("swap", "swap", 16 * MIB)], name="vg-0")
    contents = [
        (SIZES.get(kind, 32 * MIB), made(kind, folder / f"{kind}.content", SIZES.get(kind, 32 * MIB)))
        for kind in CONTENTS
    ]
    return gpt_with(folder, 820 * MIB, *contents, (96 * MIB, group))


def test_everything_gets_another_identifier_and_is_well(tmp_path):
    source = source_disk(tmp_path)
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 820 * MIB)
    imager("capture", source, image, "--quiet")
    with ExitStack() as stack:
        original = stack.enter_context(loop_device(source))
        stack.enter_context(partitions(original))
        copy = stack.enter_context(loop_device(target))
        planned = json.loads(imager("restore", "--new-ids", image, copy, "--dry-run", "--json"))["plan"]["afterwards"][
            0
        ]
        said = json.loads(imager("restore", "--new-ids", image, copy, "--yes", "--json"))
        (done,) = [each for each in said["result"]["afterwards"] if each["kind"] == "new-ids"]
        assert not done["failures"]
        call("partx", "--update", copy)
        stack.callback(forget_partitions, copy)
        before, after = identifiers(original), identifiers(copy)
        assert before.keys() == after.keys() == {"disk", *(f"{n} partition" for n in range(1, 9)), *(
            f"{number} {kind}" for number, kind in
            enumerate(("vfat", "ext4", "xfs", "btrfs", "swap", "ntfs", "ext3", "LVM2_member"), 1)
        )}  # fmt: skip
        assert not set(before.values()) & set(after.values())
        # What is said is what is there.
        written = {each["new"].lower() for each in done["ids"]}
        assert set(after.values()) - {after["8 LVM2_member"]} <= written
        assert planned["kind"] == "new-ids"
        assert {each["old"] for each in planned["ids"]} == {each["old"] for each in done["ids"]}
        for node, kind in zip(
            partition_nodes(copy), ("vfat", "ext4", "xfs", "btrfs", "", "ntfs", "ext3"), strict=False
        ):
            if kind:
                call(*CHECKS[kind], node)
        _check_group(partition_nodes(copy)[7], partition_nodes(original)[7])
        with (
            mounted(partition_nodes(copy)[2], tmp_path / "mnt"),
            mounted(partition_nodes(original)[2], tmp_path / "m2"),
        ):
            pass  # XFS refuses a second one of the same UUID


def _check_group(copy: Path, original: Path) -> None:
    """The group has another name, it and its volume other UUIDs, and what lies in it."""

    def rows(node: Path) -> tuple[list[str], list[str]]:
        options = ("--config", "devices{use_devicesfile=0} global{activation=0}", "--devices", node, "--noheadings")
        pvs = call("lvm", "pvs", *options, "-o", "vg_name,vg_uuid,pv_uuid").split()
        return pvs, call("lvm", "lvs", *options, "-o", "lv_name").split()

    (old, old_lvs), (new, new_lvs) = rows(original), rows(copy)
    assert new[0].startswith("vg-0_")
    assert not set(old) & set(new)
    assert old_lvs == new_lvs == ["root", "swap"]


def test_an_mbr_gets_a_new_signature(tmp_path):
    source = mbr_with(tmp_path, 80 * MIB, (48 * MIB, made("ext4", tmp_path / "content", 48 * MIB)))
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 80 * MIB)
    imager("capture", source, image, "--quiet")
    said = json.loads(imager("restore", "--new-ids", image, target, "--yes", "--json"))
    new = {each["type"]: each["new"] for each in said["result"]["afterwards"][0]["ids"]}
    assert sfdisk_table(target)["id"] == f"0x{new['mbr']}"
    assert sfdisk_table(source)["id"] == "0xdeadbeef"
    assert listed(target) == listed(source)
    assert (target.read_bytes()[:440], target.read_bytes()[446:512]) == (
        source.read_bytes()[:440],
        source.read_bytes()[446:512],
    )


def test_exfat_and_what_no_tool_can_change(tmp_path):
    exfat = sparse_file(tmp_path / "exfat", 32 * MIB)
    call("mkfs.exfat", exfat)
    f2fs = made("f2fs", tmp_path / "f2fs", 64 * MIB)
    source = gpt_with(tmp_path, 110 * MIB, (32 * MIB, exfat), (64 * MIB, f2fs))
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 110 * MIB)
    imager("capture", source, image, "--quiet")
    kept = told(f2fs)["UUID"]
    planned = imager("restore", "--new-ids", image, target, "--dry-run")
    assert f"KEPT: partition 2: f2fs keeps {kept}: no program gives it a new one" in planned
    said = json.loads(imager("restore", "--new-ids", image, target, "--yes", "--json"))
    (new,) = [each["new"] for each in said["result"]["afterwards"][0]["ids"] if each["type"] == "exfat"]
    start = listed(target)[0].start
    content = target.read_bytes()[start : start + 32 * MIB]
    (tmp_path / "copy").write_bytes(content)
    assert int(call("tune.exfat", "-i", tmp_path / "copy").split()[-1], 16) == int(new.replace("-", ""), 16)
    call("fsck.exfat", "-n", tmp_path / "copy")


GRUB_CFG = """\
search --no-floppy --fs-uuid --set=root {root}
linux /vmlinuz root=UUID={root} ro resume=UUID={swap} rd.luks.uuid=luks-{other}
set root='hd0,gpt1' # PARTUUID={part}
"""


def test_the_systems_files_name_the_new_ones_and_no_old_one(tmp_path):
    root = made("ext4", tmp_path / "root.content", 64 * MIB)
    swap = made("swap", tmp_path / "swap.content", 8 * MIB)
    boot = made("ext3", tmp_path / "boot.content", 16 * MIB)
    source = bootable_gpt(tmp_path, 93 * MIB, (64 * MIB, root), (8 * MIB, swap), (16 * MIB, boot))
    part = sfdisk_table(source)["partitions"][0]["uuid"]
    old = {"root": told(root)["UUID"], "swap": told(swap)["UUID"], "boot": told(boot)["UUID"], "part": part}
    stranger = "0a0a0a0a-1111-4222-8333-444444444444"
    menu = GRUB_CFG.format(**old, other=stranger)
    files = {
        "etc/fstab": f"UUID={old['root']} / ext4 defaults 0 1\nUUID={old['boot']} /boot ext3 defaults 0 2\n"
        f"/dev/disk/by-uuid/{old['swap']} none swap sw 0 0\nUUID={stranger} /srv xfs nofail 0 0\n",
        "etc/initramfs-tools/conf.d/resume": f"RESUME=UUID={old['swap']}\n",
        "etc/default/grub": f'GRUB_CMDLINE_LINUX="resume=UUID={old["swap"]}"\n',
        "etc/systemd/system/data.mount": f"[Mount]\nWhat=/dev/disk/by-partuuid/{part.lower()}\n",
        "etc/motd": f"not mine: {old['root']}\n",
    }
    with loop_device(source) as device, partitions(device) as nodes:
        with mounted(nodes[0], tmp_path / "mnt") as top:
            with_shell(made_system(top, "debian", files))
        with mounted(nodes[2], tmp_path / "mnt") as top:
            (top / "grub").mkdir()
            (top / "grub/grub.cfg").write_text(menu)
            env = f"# GRUB Environment Block\nsaved_entry=gnulinux-{old['root']}\n"
            (top / "grub/grubenv").write_text(f"{env:#<1024}")
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 93 * MIB)
    imager("capture", source, image, "--quiet")
    imager("restore", "--new-ids", image, target, "--yes")
    with loop_device(target) as device, partitions(device) as nodes:
        new = {"root": told(nodes[0])["UUID"], "swap": told(nodes[1])["UUID"], "boot": told(nodes[2])["UUID"]}
        new["part"] = sfdisk_table(target)["partitions"][0]["uuid"]
        assert not set(new.values()) & set(old.values())
        with mounted(nodes[0], tmp_path / "mnt") as top:
            for path in files:
                text = (top / path).read_text()
                expected = files[path]
                for name in old if path != "etc/motd" else ():
                    expected = expected.replace(old[name], new[name]).replace(old[name].lower(), new[name].lower())
                assert text == expected, path
            assert (top / "etc/fstab.before-repair").read_text() == files["etc/fstab"]
        with mounted(nodes[2], tmp_path / "mnt") as top:
            assert (top / "grub/grub.cfg").read_text() == GRUB_CFG.format(**new, other=stranger)
            assert len((top / "grub/grubenv").read_text()) == 1024
            assert new["root"] in (top / "grub/grubenv").read_text()


def test_partuuids_follow_an_mbr_that_becomes_a_gpt(tmp_path):
    root = made("ext4", tmp_path / "root.content", 64 * MIB)
    source = mbr_with(tmp_path, 80 * MIB, (64 * MIB, root))
    fstab, cmdline = "PARTUUID=deadbeef-01 / ext4 defaults 0 1\n", "root=PARTUUID=deadbeef-01 quiet\n"
    with loop_device(source) as device, partitions(device) as nodes, mounted(nodes[0], tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", {"etc/fstab": fstab, "etc/kernel/cmdline": cmdline}))
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 84 * MIB)
    imager("capture", source, image, "--quiet")
    with loop_device(target) as device:
        result = CliRunner().invoke(app, ["restore", "--to-gpt", "--repair-boot", "--yes", str(image), str(device)])
        assert "put the partitions' GUIDs in place" in result.output
        assert result.exit_code in (0, 10), result.output  # a GPT without a place for GRUB starts on no BIOS
        call("partx", "--update", device)
        (guid,) = [row["uuid"].lower() for row in sfdisk_table(device)["partitions"]]
        with mounted(partition_nodes(device)[0], tmp_path / "mnt") as top:
            assert (top / "etc/fstab").read_text() == fstab.replace("deadbeef-01", guid)
            assert (top / "etc/kernel/cmdline").read_text() == cmdline.replace("deadbeef-01", guid)
        forget_partitions(device)


def test_a_group_in_the_files_gets_its_new_name(tmp_path):
    group = physical_volume(
        tmp_path, 112 * MIB, [("root-fs", "ext4", 64 * MIB), ("swap", "swap", 16 * MIB)], name="my-vg"
    )
    source = bootable_gpt(tmp_path, 121 * MIB, (112 * MIB, group), type=LVM)
    fstab = "/dev/mapper/my--vg-root--fs / ext4 defaults 0 1\n/dev/my-vg/swap none swap sw 0 0\n"
    cmdline = "root=/dev/mapper/my--vg-root--fs rd.lvm.lv=my-vg/root-fs rd.lvm.vg=my-vg x=/dev/mapper/my--vgs-root\n"
    _write_into_volume(source, tmp_path, {"etc/fstab": fstab, "etc/kernel/cmdline": cmdline})
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 121 * MIB)
    imager("capture", source, image, "--quiet")
    said = json.loads(imager("restore", "--new-ids", image, target, "--yes", "--json"))
    (new,) = [each["new"] for each in said["result"]["afterwards"][0]["ids"] if each["kind"] == "group"]
    mapped = new.replace("-", "--")
    found = _read_from_volume(target, tmp_path, ["etc/fstab", "etc/kernel/cmdline"])
    assert (
        found["etc/fstab"] == f"/dev/mapper/{mapped}-root--fs / ext4 defaults 0 1\n/dev/{new}/swap none swap sw 0 0\n"
    )
    assert found["etc/kernel/cmdline"] == (
        f"root=/dev/mapper/{mapped}-root--fs rd.lvm.lv={new}/root-fs rd.lvm.vg={new} x=/dev/mapper/my--vgs-root\n"
    )


def _volume_start(disk: Path) -> int:
    """Where the first logical volume lies: at the first extent of its physical volume, after 1 MiB."""
    return listed(disk)[0].start + MIB


def _write_into_volume(disk: Path, folder: Path, files: dict[str, str]) -> None:
    with (
        loop_device(disk, offset=_volume_start(disk), size_limit=64 * MIB) as device,
        mounted(device, folder / "mnt") as top,
    ):
        with_shell(made_system(top, "debian", files))


def _read_from_volume(disk: Path, folder: Path, paths: list[str]) -> dict[str, str]:
    with (
        loop_device(disk, offset=_volume_start(disk), size_limit=64 * MIB, read_only=True) as device,
        mounted(device, folder / "mnt", options="ro,noload") as top,
    ):
        return {path: (top / path).read_text() for path in paths}


def test_a_clone_and_its_source_have_nothing_in_common(tmp_path):
    source = gpt_with(tmp_path, 68 * MIB, (64 * MIB, made("ext4", tmp_path / "content", 64 * MIB)))
    targets = [sparse_file(tmp_path / name, 68 * MIB) for name in ("one", "two")]
    imager("clone", "--new-ids", source, *targets, "--yes")
    ids = []
    for disk in (source, *targets):
        with loop_device(disk) as device, partitions(device) as nodes:
            ids += identifiers(device).values()
            call(*CHECKS["ext4"], nodes[0])
    assert len(ids) == len(set(ids)) == 9


@pytest.mark.parametrize("order", [("source", "target"), ("target", "source")], ids="-".join)
def test_a_file_system_on_two_devices_is_not_mixed_up_with_its_source(tmp_path, order):
    """btrfstune looks for the second device on all disks, and those of the source have the same identifiers."""
    devices = make_btrfs(tmp_path, "-d raid1 -m raid1", devices=2)
    size = devices[0].stat().st_size
    disks = {
        "source": gpt_with(tmp_path, 2 * size + 4 * MIB, *((size, each) for each in devices)),
        "target": sparse_file(tmp_path / "target", 2 * size + 4 * MIB),
    }
    before = sha256(disks["source"].read_bytes()).hexdigest()
    with ExitStack() as stack:
        at = {name: stack.enter_context(loop_device(disks[name])) for name in order}
        stack.enter_context(partitions(at["source"]))
        imager("clone", "--new-ids", at["source"], at["target"], "--yes", "--quiet")
        call("partx", "--update", at["target"])
        stack.callback(forget_partitions, at["target"])
        old, new = ([told(node)["UUID"] for node in partition_nodes(at[name])] for name in ("source", "target"))
        assert new[0] == new[1] != old[0] == old[1]
        call("btrfs", "check", "--readonly", partition_nodes(at["target"])[0])
        for name in order:  # and not those of other tests
            call("btrfs", "device", "scan", "--forget", *partition_nodes(at[name]))
    assert sha256(disks["source"].read_bytes()).hexdigest() == before


RARE = {
    "jfs": (("mkfs.jfs", "-q"), ("jfs_fsck", "-n")),
    "reiserfs": (("mkreiserfs", "-q", "-ff"), ("reiserfsck", "--check", "--yes")),
    "nilfs2": (("mkfs.nilfs2", "-q"), ("nilfs-tune", "-l")),  # it has no fsck
}


@pytest.mark.parametrize("kind", RARE)
def test_file_systems_that_few_have(tmp_path, kind):
    make, check = RARE[kind]
    if missing_tools(make[0], check[0]):
        pytest.skip(missing_tools(make[0], check[0]))
    content = sparse_file(tmp_path / "content", 160 * MIB)
    call(*make, content)
    source = gpt_with(tmp_path, 164 * MIB, (160 * MIB, content))
    target = sparse_file(tmp_path / "target", 164 * MIB)
    imager("clone", "--new-ids", source, target, "--yes", "--quiet")
    with loop_device(target) as device, partitions(device) as nodes:
        after = told(nodes[0])
        assert (after["TYPE"], after["UUID"] != told(content)["UUID"]) == (kind, True)
        call(*check, nodes[0])


@pytest.mark.skipif(bool(missing_tools("cryptsetup")), reason="needs cryptsetup")
def test_locked_containers_get_another_uuid_and_open_with_their_passphrase(tmp_path):
    key = tmp_path / "key"
    key.write_text("word")
    containers = [sparse_file(tmp_path / name, 24 * MIB) for name in ("luks1", "luks2")]
    for each in containers:
        cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        call("cryptsetup", "luksFormat", "-q", "--type", each.name, *cheap, each, key)
    source = gpt_with(tmp_path, 52 * MIB, *((24 * MIB, each) for each in containers))
    target = sparse_file(tmp_path / "target", 52 * MIB)
    said = json.loads(imager("clone", "--new-ids", source, target, "--yes", "--json"))
    (stage,) = [each for each in said["afterwards"] if each["kind"] == "new-ids"]
    assert not stage["failures"]
    new = {each["where"]: each["new"] for each in stage["ids"] if each["type"] == "crypto_LUKS"}
    for number, (each, place) in enumerate(zip(containers, listed(target), strict=True), 1):
        copy = tmp_path / f"{each.name}.copy"
        copy.write_bytes(target.read_bytes()[place.start : place.end])
        old = call("cryptsetup", "luksUUID", each).strip()
        assert call("cryptsetup", "luksUUID", copy).strip() == new[f"partition {number}"] != old
        call("cryptsetup", "open", "--test-passphrase", "--key-file", key, copy)
        assert old.encode() not in copy.read_bytes()  # in the second header of LUKS2 neither


@pytest.mark.skipif(bool(missing_tools("qemu-storage-daemon", "qemu-img")), reason="needs qemu-utils")
def test_what_is_in_a_virtual_disk_is_changed_and_not_its_file(tmp_path):
    """What comes after the last byte sees the disk that the file stands for."""
    source = gpt_with(tmp_path, 68 * MIB, (64 * MIB, made("ext4", tmp_path / "content", 64 * MIB)))
    image, target, raw = tmp_path / "image", tmp_path / "target.qcow2", tmp_path / "raw"
    imager("capture", source, image, "--quiet")
    imager("restore", "--new-ids", image, target, "--yes")
    assert "file format: qcow2" in call("qemu-img", "info", target)
    call("qemu-img", "convert", "-O", "raw", target, raw)
    ids = []
    for disk in (source, raw):
        with loop_device(disk) as device, partitions(device) as nodes:
            ids += identifiers(device).values()
            call(*CHECKS["ext4"], nodes[0])
    assert len(ids) == len(set(ids)) == 6


def test_a_file_system_that_cannot_be_changed_is_told_and_keeps_its_own(tmp_path):
    """Its superblock says what e2fsck does not believe, so nothing in it is changed, and no file names a new one."""
    root = made("ext4", tmp_path / "content", 64 * MIB)
    old = told(root)["UUID"]
    with loop_device(root) as device, mounted(device, tmp_path / "mnt") as top:
        with_shell(made_system(top, "debian", {"etc/fstab": f"UUID={old} / ext4 defaults 0 1\n"}))
    call("debugfs", "-w", "-R", "clri <2>", root)
    source = gpt_with(tmp_path, 68 * MIB, (64 * MIB, root))
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 68 * MIB)
    imager("capture", "--all-blocks", source, image, "--quiet")
    said = imager("restore", "--new-ids", image, target, "--yes", status=10)
    assert f"partition 1 keeps its ext4 {old}: e2fsck" in said
    with loop_device(target) as device, partitions(device) as nodes:
        assert told(nodes[0])["UUID"] == old


def test_single_partitions_are_refused(tmp_path):
    source = gpt_disk(tmp_path / "disk", 8 * MIB, [])
    image = tmp_path / "image"
    imager("capture", source, image, "--quiet")
    result = CliRunner().invoke(app, ["restore", "--new-ids", "--table-only", str(image), str(tmp_path / "x")])
    assert result.exit_code == 2
    assert "--new-ids is for whole disks" in result.output
