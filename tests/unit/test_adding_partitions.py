# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image says of a partition is not believed before it becomes an entry of a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imager.errors import ImageDamaged, TargetRefused, TargetTooSmall
from imager.layout import Partition
from imager.partitions.adding import find_room
from tests.harness.layouts import MIB, bare, gpt, mbr, part

LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
OWN = "6f1d0a52-3c57-4c0e-9d6e-0123456789ab"
WANTED = Partition(2, 8 * MIB, 12 * MIB, type=LINUX, uuid=OWN, name="x", attributes="8000000000000000")
DISK = gpt(64 * MIB, part(1, MIB, 8 * MIB))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "not a type at all"}, "type"),
        ({"type": "00000000-0000-0000-0000-000000000000"}, "type"),
        ({"type": LINUX.upper()}, "type"),
        ({"type": "\x1b[2J"}, "type"),
        ({"type": ""}, "type"),
        ({"type": "00"}, "type"),
        ({"type": "05"}, "type"),
        ({"type": "0f"}, "type"),
        ({"type": "ee"}, "type"),
        ({"type": "zz"}, "type"),
        ({"uuid": ""}, "UUID"),
        ({"uuid": OWN[:-1]}, "UUID"),
        ({"attributes": "0x10"}, "attributes"),
        ({"attributes": "1" * 17}, "attributes"),
        ({"end": WANTED.start}, "size"),
    ],
)
@pytest.mark.parametrize("disk", [DISK, mbr(64 * MIB, part(1, MIB, 8 * MIB))], ids=["gpt", "mbr"])
def test_values_that_cannot_be_are_refused(change, told, disk) -> None:
    with pytest.raises(ImageDamaged, match=f"the {told} of partition 2 in the image cannot be") as caught:
        find_room(disk, replace(WANTED, **change), "/dev/sdb")
    assert "\x1b" not in caught.value.message


def test_the_first_gap_that_is_large_enough_is_taken_and_aligned() -> None:
    disk = gpt(64 * MIB, part(1, MIB, 2 * MIB), part(3, 3 * MIB, 20 * MIB), part(4, 20 * MIB + 512, 30 * MIB))
    found = find_room(disk, WANTED, "/dev/sdb")
    assert (found.number, found.start, found.end) == (2, 30 * MIB, 34 * MIB)
    assert (found.type, found.uuid, found.name, found.attributes) == (LINUX, OWN, "x", "8000000000000000")
    assert not found.changed


def test_the_backup_gpt_is_not_free_space() -> None:
    with pytest.raises(TargetTooSmall, match="the largest gap has"):
        find_room(gpt(12 * MIB, part(1, MIB, 8 * MIB)), WANTED, "/dev/sdb")
    assert find_room(gpt(13 * MIB, part(1, MIB, 8 * MIB)), WANTED, "/dev/sdb").end == 12 * MIB


def test_a_type_without_a_counterpart_is_refused() -> None:
    msr = replace(WANTED, type="e3c9e316-0b5c-4db8-817d-f92df00215ae")
    with pytest.raises(TargetRefused, match="has no counterpart"):
        find_room(mbr(64 * MIB, part(1, MIB, 8 * MIB)), msr, "/dev/sdb")


def test_a_disk_without_a_table_has_no_room() -> None:
    with pytest.raises(TargetRefused, match="has no partition table"):
        find_room(bare(64 * MIB), WANTED, "/dev/sdb")
