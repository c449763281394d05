# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables in another unit and of another kind, as sfdisk, sgdisk, parted and the kernel read them."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.layout import Partition
from imager.partitions.counterparts import gpt_type_of
from imager.partitions.making import make_table
from imager.partitions.shape import gpt_disk_id, gpt_partition, shape_of
from tests.harness.disks import (
    MIB,
    Part,
    listed,
    mbr_disk,
    needs_table_tools,
    parted_lists,
    poke,
    sfdisk_table,
)
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root, partition_nodes
from tests.harness.programs import call
from tests.harness.tables import layout_of

pytestmark = [needs_table_tools, needs_root]

ESP, LINUX = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0fc63daf-8483-4772-8e79-3d69d8477de4"
BOOT_CODE = bytes(range(1, 200))


def there_of(layout, target_size, sector, entries, *, to_gpt=False):
    shape = shape_of(layout, target_size, sector, to_gpt=to_gpt)
    table = replace(
        layout.table,
        kind=shape.kind,
        id=gpt_disk_id(layout) if to_gpt else layout.table.id,
        entry_count=shape.entry_count,
        entry_size_bytes=shape.entry_bytes,
        first_usable=shape.first_usable,
        last_usable_end=shape.last_usable_end,
    )
    return replace(layout, size_bytes=target_size, logical_sector_bytes=sector, table=table, partitions=tuple(entries))


def made(disk, target, target_size, sector, *, old_sector=512, entries=None, origins=None, leads=None, to_gpt=False):
    """The table of a disk on a target of other sectors; the target holds the bytes of the image otherwise."""
    content = disk.read_bytes()
    layout = layout_of(content, sector_size=old_sector)
    entries = layout.partitions if entries is None else entries
    if to_gpt:
        entries = [gpt_partition(entry, layout) for entry in entries if entry.kind != "extended"]
    there = there_of(layout, target_size, sector, entries, to_gpt=to_gpt)
    origins = {entry.number: entry.number for entry in entries} if origins is None else origins
    patches, stale = make_table(layout, MemoryReader(content, sector_size=old_sector), there, origins, leads or {})
    sparse_file(target, target_size)
    poke(target, 0, content[:MIB][:target_size])
    for start, end in stale:
        poke(target, start, bytes(end - start))
    for patch in patches:
        assert patch.offset % sector == 0
        poke(target, patch.offset, patch.content)
    return target


def kernel_places(device, numbers):
    """Number, start and end of partitions as the kernel has them, when partx has read the table and told it."""
    try:
        for number in numbers:
            call("partx", "--add", "--nr", number, device)
        folders = [Path("/sys/class/block", node.name) for node in partition_nodes(device)]
        rows = [[int((folder / name).read_text()) for name in ("partition", "start", "size")] for folder in folders]
    finally:
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
    return [(number, start * 512, (start + size) * 512) for number, start, size in rows]


def assert_everybody_reads(target, sector, places, *, kind):
    """All tools find the same partitions, and nothing to complain of."""
    with loop_device(target, sector_size=sector) as device:
        assert sfdisk_table(device)["label"] == {"gpt": "gpt", "mbr": "dos"}[kind]
        found = listed(device, sector_size=sector)
        assert [(each.number, each.start, each.end) for each in found] == places
        verified = subprocess.run(["sfdisk", "--verify", device], capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "invalid" not in verified.stdout + verified.stderr
        if kind == "gpt":
            said = call("sgdisk", "--verify", device)
            assert "No problems found" in said
            assert "caution" not in said.lower()
        # partx shows an extended partition of two sectors of 512 bytes, which no disk with longer ones can have
        leaves = [row for row, each in zip(places, found, strict=True) if each.type not in ("05", "0f")]
        assert kernel_places(device, [row[0] for row in leaves]) == leaves
        return found, sfdisk_table(device)


def gpt_of(folder, sector=512):
    parts = [
        Part(8 * MIB, ESP, "EFI", "10000000-0000-4000-8000-000000000001"),
        Part(16 * MIB, LINUX, "rött", "10000000-0000-4000-8000-000000000002"),
        Part(4 * MIB, LINUX),
    ]
    disk = sparse_file(folder / "disk", 64 * MIB)
    with loop_device(disk, sector_size=sector) as device:
        lines = ["label: gpt", "label-id: 10000000-0000-4000-8000-00000000000a"]
        lines += [part.line(sector) for part in parts]
        call("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device, input_text="\n".join(lines))
        call("sgdisk", "--attributes=2:set:2", "--attributes=2:set:60", device)
        before = listed(device, sector_size=sector), sfdisk_table(device)
    poke(disk, 0, BOOT_CODE)
    return disk, *before


@pytest.mark.parametrize(("old", "new"), [(512, 4096), (4096, 512), (4096, 4096), (512, 512)])
@pytest.mark.parametrize("size", [64 * MIB, 80 * MIB, 40 * MIB, 100 * MIB + 512])
def test_a_gpt_in_other_sectors_is_the_same_gpt(tmp_path, old, new, size):
    disk, before, table = gpt_of(tmp_path, old)
    target = made(disk, tmp_path / "target", size // new * new, new, old_sector=old)
    found, now = assert_everybody_reads(target, new, [(e.number, e.start, e.end) for e in before], kind="gpt")
    assert found == before
    assert now["id"] == table["id"]
    assert [row.get("attrs") for row in now["partitions"]] == [row.get("attrs") for row in table["partitions"]]
    assert target.read_bytes()[: len(BOOT_CODE)] == BOOT_CODE
    assert parted_lists(target, sector_size=new) == [replace(e, type="", uuid="", name="") for e in before]


def test_no_header_of_the_old_unit_is_left(tmp_path):
    disk, *_ = gpt_of(tmp_path, 512)
    target = made(disk, tmp_path / "target", 64 * MIB, 4096)
    head = target.read_bytes()[:MIB]
    assert [at for at in range(0, MIB, 512) if head[at : at + 8] == b"EFI PART"] == [4096]
    disk, *_ = gpt_of(tmp_path, 4096)
    target = made(disk, tmp_path / "target", 64 * MIB, 512, old_sector=4096)
    assert not any(target.read_bytes()[34 * 512 : MIB])


def test_partitions_are_left_out_and_added(tmp_path):
    disk, before, _ = gpt_of(tmp_path)
    layout = layout_of(disk.read_bytes())
    new = Partition(5, 40 * MIB, 50 * MIB, type=ESP, uuid="20000000-0000-4000-8000-000000000005", name="new one")
    entries = [entry for entry in layout.partitions if entry.number != 2] + [new]
    target = made(disk, tmp_path / "target", 64 * MIB, 4096, entries=entries, origins={1: 1, 3: 3})
    places = [(e.number, e.start, e.end) for e in entries]
    found, _ = assert_everybody_reads(target, 4096, places, kind="gpt")
    assert found[:2] == [before[0], before[2]]
    assert (found[2].type, found[2].uuid, found[2].name) == (new.type, new.uuid, new.name)


def mbr_of(folder):
    primaries = [Part(8 * MIB, "83", bootable=True), Part(4 * MIB, "c")]
    logicals = [Part(8 * MIB, "82"), Part(8 * MIB, "8e"), Part(4 * MIB, "7")]
    disk = mbr_disk(folder / "disk", 64 * MIB, primaries, logicals)
    poke(disk, 0, BOOT_CODE)
    return disk, listed(disk), sfdisk_table(disk)


LEADS = {5: MIB, 6: MIB, 7: MIB}


@pytest.mark.parametrize("new", [512, 4096])
def test_an_mbr_with_logical_partitions_in_other_sectors(tmp_path, new):
    disk, before, table = mbr_of(tmp_path)
    target = made(disk, tmp_path / "target", 64 * MIB, new, leads=LEADS)
    found, now = assert_everybody_reads(target, new, [(e.number, e.start, e.end) for e in before], kind="mbr")
    assert [e.type for e in found] == [e.type for e in before]
    assert now["id"] == table["id"]
    assert [row.get("bootable") for row in now["partitions"]] == [row.get("bootable") for row in table["partitions"]]
    assert target.read_bytes()[: len(BOOT_CODE)] == BOOT_CODE


def test_a_logical_partition_is_left_out_and_the_next_one_gets_its_number(tmp_path):
    disk, before, _ = mbr_of(tmp_path)
    layout = layout_of(disk.read_bytes())
    entries = [entry for entry in layout.partitions if entry.number not in (6, 7)]
    entries.append(replace(layout.partition(7), number=6))
    origins = {1: 1, 2: 2, 3: 3, 5: 5, 6: 7}
    target = made(disk, tmp_path / "target", 64 * MIB, 4096, entries=entries, origins=origins, leads=LEADS)
    found, _ = assert_everybody_reads(target, 4096, [(e.number, e.start, e.end) for e in entries], kind="mbr")
    assert [e.type for e in found] == [e.type for e in before if e.number != 6]


@pytest.mark.parametrize("new", [512, 4096])
def test_an_mbr_becomes_a_gpt_with_the_same_numbers(tmp_path, new):
    disk, before, _ = mbr_of(tmp_path)
    target = made(disk, tmp_path / "target", 80 * MIB, new, to_gpt=True)
    leaves = [e for e in before if e.type not in ("05", "0f")]
    found, now = assert_everybody_reads(target, new, [(e.number, e.start, e.end) for e in leaves], kind="gpt")
    assert now["id"].lower() == gpt_disk_id(layout_of(disk.read_bytes()))
    assert len({e.uuid for e in found}) == 5
    assert [row.get("attrs", "") for row in now["partitions"]] == ["LegacyBIOSBootable", "", "", "", ""]
    assert target.read_bytes()[: len(BOOT_CODE)] == BOOT_CODE
    assert not any(target.read_bytes()[440:446])


def test_types_become_the_guids_that_sgdisk_gives_them(tmp_path):
    """But for labels of BSD and dynamic disks, which no GPT entry can stand for, and types that are a guess."""
    codes = [code for code in range(1, 256) if gpt_type_of(f"{code:02x}")]
    for four in (codes[at : at + 4] for at in range(0, len(codes), 4)):
        disk, sector = sparse_file(tmp_path / "disk", 16 * MIB), bytearray(512)
        for slot, code in enumerate(four):
            fields = struct.pack("<B3sB3sII", 0, b"\0\0\0", code, b"\0\0\0", 2048 + slot * 4096, 4096)
            sector[446 + slot * 16 : 462 + slot * 16] = fields
        sector[510:] = b"\x55\xaa"
        poke(disk, 0, bytes(sector))
        call("sgdisk", "--mbrtogpt", disk)
        assert [each.type for each in listed(disk)] == [gpt_type_of(f"{code:02x}") for code in four]
