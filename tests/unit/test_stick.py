# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a stick: plans and refusals, the table as sfdisk reads it, exFAT as its own tools see it."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from bootmedia.stick.data import KINDS, MIB, make_file_system
from bootmedia.stick.exfat import Exfat, ExfatFull, Folder, add_files, is_possible_name
from bootmedia.stick.medium import HEAD_BYTES, Entry, Medium, entries, is_medium, read_medium, with_data_entry
from bootmedia.stick.plan import Found, Wishes, make_stick_plan
from imager.devices.usage import Use
from imager.errors import StoreError, TargetRefused, TargetTooSmall, UsageError
from imager.layout import Identity
from imager.restore.guards import TargetState
from tests.harness.programs import call

GIB = 1 << 30
RECOVERY = Wishes("RECOVERY")


def a_head(*, name=b"RECOVERY_BOOT", data=None):
    """The beginning of a medium: table and descriptor."""
    head = bytearray(HEAD_BYTES)
    head[510:512] = b"\x55\xaa"
    for number, (kind, first, count) in enumerate([(0xCD, 64, 4032), (0xEF, 4096, 4096)]):
        struct.pack_into("<4xB3xII", head, 446 + 16 * number, kind, first, count)
    head[32769:32774] = b"CD001"
    head[32808:32840] = name.ljust(32)
    return with_data_entry(bytes(head), data) if data else bytes(head)


MEDIUM = Medium(Path("/m.iso"), 4 * MIB, a_head())
KEPT = Entry(0x07, 512 * MIB, 8 * GIB)


def found(size=8 * GIB, head=bytes(HEAD_BYTES), **more):
    identity = Identity(path="/dev/sdb", model="Fast Stick", serial="A1", transport="usb")
    return Found(TargetState(identity, size), head, is_partition=False, is_removable=True, **more)


def test_the_room_behind_the_medium_becomes_a_data_partition():
    plan = make_stick_plan(MEDIUM, found(), RECOVERY)
    assert plan.data == Entry(0x07, 516 * MIB, 8 * GIB)
    assert not plan.keeps_data
    text = "\n".join(plan.lines())
    assert "Fast Stick" in text
    assert "A1" in text
    assert "everything on /dev/sdb, 8.0 GiB" in text
    assert any(step.startswith("read everything back") for step in plan.steps())


def test_a_data_partition_of_ours_is_kept_and_named():
    plan = make_stick_plan(MEDIUM, found(head=a_head(data=KEPT)), RECOVERY)
    assert (plan.data, plan.keeps_data) == (KEPT, True)
    assert "partition 3, 7.5 GiB, with all that is in it" in plan.lines()[plan.lines().index("kept") + 1]
    again = make_stick_plan(MEDIUM, found(head=a_head(data=KEPT)), replace(RECOVERY, discard_data=True))
    assert (again.data, again.keeps_data) == (Entry(0x07, 516 * MIB, 8 * GIB), False)


@pytest.mark.parametrize(
    "head",
    [
        a_head(name=b"OTHER", data=KEPT),
        a_head(data=KEPT)[:510] + bytes(HEAD_BYTES - 510),
        a_head(data=Entry(7, 512 * MIB, 9 * GIB)),
        a_head(data=Entry(7, 0, 8 * GIB)),
    ],
    ids=["other ISO", "no table", "beyond the end", "over the medium"],
)
def test_what_is_not_ours_is_not_kept(head):
    assert not make_stick_plan(MEDIUM, found(head=head), RECOVERY).keeps_data


def test_a_kept_partition_is_never_lost_silently():
    large = replace(MEDIUM, size_bytes=512 * MIB + 1)
    with pytest.raises(TargetTooSmall, match="which is kept, begins at 512 MiB") as error:
        make_stick_plan(large, found(head=a_head(data=KEPT)), RECOVERY)
    assert "--discard-data" in error.value.hint
    for more in ({"images": {"a.zst": 1}}, {"files": {"README.txt": b"", "recovery.toml": b""}}):
        with pytest.raises(UsageError, match="which is kept"):
            make_stick_plan(MEDIUM, found(head=a_head(data=KEPT)), replace(RECOVERY, **more))
    assert make_stick_plan(
        MEDIUM, found(head=a_head(data=KEPT)), replace(RECOVERY, files={"README.txt": b""})
    ).keeps_data


def test_a_small_stick_has_no_data_partition_and_says_so():
    plan = make_stick_plan(MEDIUM, found(size=40 * MIB), RECOVERY)
    assert plan.data is None
    assert "no room for a data partition" in "\n".join(plan.lines())
    with pytest.raises(TargetTooSmall, match="are needed"):
        make_stick_plan(MEDIUM, found(size=40 * MIB), replace(RECOVERY, files={"recovery.toml": b""}))
    with pytest.raises(TargetTooSmall, match=r"9\.0 GiB are needed"):
        make_stick_plan(MEDIUM, found(), replace(RECOVERY, images={"a.zst": 9 * GIB}))


def test_the_table_tells_of_two_terabytes_at_most():
    plan = make_stick_plan(MEDIUM, found(size=5000 * GIB), RECOVERY)
    assert plan.data.end <= 512 << 32
    assert (plan.data.end - plan.data.start) // 512 < 1 << 32
    assert "stays unused" in plan.warnings[0]


@pytest.mark.parametrize(
    ("changed", "wishes", "error", "told"),
    [
        ({"is_removable": False}, RECOVERY, TargetRefused, "no USB stick"),
        ({"is_partition": True}, RECOVERY, TargetRefused, "is a partition"),
        ({"holds_running_system": True}, RECOVERY, TargetRefused, "the system that is running"),
        ({"holds_image": True}, RECOVERY, TargetRefused, "overwritten while it is read"),
        ({"read_only": True}, RECOVERY, TargetRefused, "read-only"),
        ({"uses": (Use("mounted", "/dev/sdb1", "/mnt", writable=True),)}, RECOVERY, TargetRefused, "sdb1"),
        ({"logical_sector_bytes": 4096}, RECOVERY, TargetRefused, "sectors of 4096"),
        ({"size_bytes": 3 * MIB}, RECOVERY, TargetTooSmall, "the medium has 4.0 MiB"),
        ({}, Wishes("R", "ntfs"), UsageError, "none of exfat, fat32, ext4, none"),
        ({}, Wishes("R", "none", images={"a": 1}), UsageError, "contradict"),
        ({}, Wishes("R", "ext4", images={"a": 1}), UsageError, "exFAT only"),
        ({}, Wishes("R", images={"a:b": 1}), UsageError, "exFAT has no files of the name"),
        ({"head": a_head(data=KEPT)}, Wishes("R", "exfat"), UsageError, "--data-format is for a new one"),
    ],
)
def test_what_must_not_be_written_is_refused(changed, wishes, error, told):
    here = found()
    own = {key: value for key, value in changed.items() if key.startswith("is_") or key == "head"}
    state = replace(here.state, **{key: value for key, value in changed.items() if key not in own})
    with pytest.raises(error) as caught:
        make_stick_plan(MEDIUM, replace(here, state=state, **own), wishes)
    assert told in caught.value.message


def test_a_disk_that_is_no_stick_can_be_meant():
    here = replace(found(), is_removable=False)
    assert make_stick_plan(MEDIUM, here, replace(RECOVERY, not_removable=True)).data


def test_the_table_is_what_sfdisk_reads(tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(a_head(data=KEPT))
    with disk.open("r+b") as file:
        file.truncate(8 * GIB)
    table = json.loads(call("sfdisk", "--json", disk))["partitiontable"]
    third = table["partitions"][2]
    assert (third["start"] * 512, third["size"] * 512, third["type"]) == (KEPT.start, KEPT.end - KEPT.start, "7")
    assert table["id"] != "0x00000000"
    assert entries(a_head(data=KEPT))[3] == KEPT
    assert is_medium(a_head(data=KEPT))


def test_only_whole_media_of_ours_are_written(tmp_path):
    path = tmp_path / "m.iso"
    path.write_bytes(a_head() + bytes(4 * MIB - HEAD_BYTES))
    assert read_medium(path).size_bytes == 4 * MIB
    path.write_bytes(a_head() + bytes(2 * MIB))
    with pytest.raises(UsageError, match="incomplete"):
        read_medium(path)
    path.write_bytes(bytes(4 * MIB))
    with pytest.raises(UsageError, match="no medium that bootmedia build made"):
        read_medium(path)
    with pytest.raises(StoreError, match="cannot be read"):
        read_medium(tmp_path / "gone")


# --- File systems -----------------------------------------------------------------------------------------------


def fresh(path, size=64 * MIB, *words):
    with path.open("wb") as file:
        file.truncate(size)
    call("mkfs.exfat", *words, path)
    return path


@pytest.mark.parametrize(("size", "words"), [(8 * MIB, ()), (300 * MIB, ()), (64 * MIB, ("-c", "4K")), (2 * GIB, ())])
def test_exfat_with_files_is_clean_for_its_own_tools(tmp_path, size, words):
    chosen = random.Random(7)
    names = [f"{'ünï日本'[: number % 6]} {number} {'x' * (number * 3)}.img.zst" for number in range(60)]
    images = Folder(
        files={name: chosen.randbytes(chosen.randrange(9000)) for name in names}, large_files={"big": MIB + 1}
    )
    top = Folder({"images": images, "logs": Folder()}, {"README.txt": b"read", "empty": b""})
    path = fresh(tmp_path / "x", size, *words)
    places = add_files(path, top, unix_time=1_700_000_000)
    assert ": clean. directories 3, files 63" in call("fsck.exfat", "-n", path)
    assert list(places) == ["images/big"]


def test_what_does_not_fit_into_exfat_is_told(tmp_path):
    path = fresh(tmp_path / "x")
    with pytest.raises(ExfatFull, match="do not fit"):
        add_files(path, Folder(large_files={"a": 64 * MIB}), unix_time=0)
    with pytest.raises(ExfatFull, match="at the top"):
        add_files(path, Folder(files={f"{number} {'x' * 200}": b"" for number in range(200)}), unix_time=0)
    assert "files 0" in call("fsck.exfat", "-n", path)


def test_names_are_hashed_in_capital_letters(tmp_path):
    with fresh(tmp_path / "x").open("r+b") as file:
        system = Exfat(file, unix_time=0)
        assert system._name_hash("äBc".encode("utf-16-le")) == system._name_hash("ÄbC".encode("utf-16-le"))


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("a.zst", True),
        ("ü" * 255, True),
        ("a" * 256, False),
        ("", False),
        ("a/b", False),
        ("a\n", False),
        ("..", False),
    ],
)
def test_names_that_exfat_can_have(name, possible):
    assert is_possible_name(name) is possible


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_used_is_a_whole_file_system(tmp_path, kind):
    """Poisoned everywhere else, as an old stick is, it is clean and has its files."""
    size = 400 * MIB
    images = {"a.img.zst": 5 * MIB} if kind == "exfat" else {}
    made = make_file_system(kind, tmp_path, size, "RECOVERY", {"README.txt": b"read", "recovery.toml": b"toml"}, images)
    poisoned = tmp_path / "poisoned"
    with poisoned.open("wb") as file, made.path.open("rb") as source:
        for _ in range(size // MIB):
            file.write(b"\xa5" * MIB)
        for start, end in made.used:
            source.seek(start)
            file.seek(start)
            file.write(source.read(end - start))
    assert made.used.total_bytes < 60 * MIB
    check = {"exfat": ("fsck.exfat", "-n"), "fat32": ("fsck.fat", "-n"), "ext4": ("e2fsck", "-fn")}[kind]
    call(*check, poisoned)
    assert call("blkid", "-p", "-o", "value", "-s", "LABEL", poisoned).strip() == "RECOVERY"
    if kind == "fat32":
        assert call("mtype", "-i", poisoned, "::README.txt") == "read"
    elif kind == "ext4":
        assert "read" in call("debugfs", "-R", "cat README.txt", poisoned)
